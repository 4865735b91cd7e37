"""Presets: data with a hash that follows every pixel-changing setting and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import ConfigError
from schemas.preset import Preset, load_preset, preset_names

SETTINGS: dict[str, Any] = {
    "bands": "rgb",
    "field": 0.9,
    "resize": 256,
    "crop": 224,
    "filter": "bicubic",
    "mean": [0.1, 0.2, 0.3],
    "std": [1.0, 2.0, 3.0],
}


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_and_says_what_it_is(name: str) -> None:
    preset = load_preset(name)
    assert preset.description
    assert len(preset.mean) == len(preset.std) == preset.n_bands


def test_the_paper_preset_is_the_recipe_of_the_paper() -> None:
    # Walmsley et al. 2022, Section 3: grey mean over channels, 424 px resized to 300, crop of 224.
    preset = load_preset("walmsley2022")
    assert (preset.bands, preset.resize, preset.crop, preset.mean, preset.std) == ("grey", 300, 224, (0.0,), (1.0,))


def test_the_imagenet_preset_has_the_mean_and_deviation_of_imagenet() -> None:
    # torchvision.transforms: every classification weight's documented normalisation.
    preset = load_preset("imagenet")
    assert preset.mean == (0.485, 0.456, 0.406)
    assert preset.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("key", "value"),
    [("field", 0.8), ("resize", 255), ("crop", 200), ("filter", "lanczos"), ("mean", [0, 0, 0]), ("std", [1, 1, 1])],
)
def test_the_hash_changes_with_any_setting(key: str, value: object) -> None:
    assert Preset(**{**SETTINGS, key: value}).sha256 != Preset(**SETTINGS).sha256


def test_the_hash_changes_with_the_bands() -> None:
    one_band = {**SETTINGS, "mean": [0.1], "std": [1.0], "bands": "grey"}
    assert Preset(**one_band).sha256 != Preset(**SETTINGS).sha256


def test_the_hash_ignores_the_description() -> None:
    assert Preset(**SETTINGS, description="another").sha256 == Preset(**SETTINGS).sha256


def test_shipped_presets_have_different_hashes() -> None:
    hashes = {load_preset(name).sha256 for name in preset_names()}
    assert len(hashes) == len(preset_names())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 300}, r"crop \(300 px\) must not exceed resize \(256 px\)"),
        ({"bands": "grey"}, "mean and std need 1 values for bands: grey"),
        ({"std": [1, 0, 1]}, "std must be positive"),
        ({"crops": 3}, r"crops: unknown key \(did you mean 'crop'\?\)"),
        ({"resize": "256px"}, "resize: expected a valid integer.*found '256px'"),
        ({"filter": "box"}, "filter: expected 'bilinear', 'bicubic' or 'lanczos'; found 'box'"),
        ({"field": 0}, "field: expected greater than 0"),
        ({"field": 1.5}, "field: expected less than or equal to 1"),
    ],
)
def test_a_wrong_preset_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    with pytest.raises(ConfigError, match=message):
        load_preset(str(path))


@pytest.mark.parametrize(
    "changes", [{"mean": [float("nan"), 0, 0]}, {"std": [1, float("nan"), 1]}, {"std": [1, 1, float("inf")]}]
)
def test_a_preset_that_makes_every_pixel_nan_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mean|std"):
        Preset(**{**SETTINGS, **changes})


def test_a_preset_of_ones_own_is_loaded_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    assert load_preset(str(path)) == Preset(**SETTINGS)


@pytest.mark.parametrize("content", [b"", b"a: [", b"- 1", b"\xff\xfe\x81"])
def test_a_preset_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="preset"):
        load_preset(str(path))


@pytest.mark.parametrize("name", ["walmsley", "", "../presets/imagenet", "missing.yaml"])
def test_an_unknown_preset_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"preset: expected .*found"):
        load_preset(name)
