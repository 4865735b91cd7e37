"""Views: the recipe of the paper, the evaluation transform of torchvision, and random views that repeat themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from engine.compute.views import centre_view, make_views, random_view, seen, view_generator
from schemas.preset import Preset, load_preset, preset_names

PAPER = load_preset("walmsley2022")
SMALL = Preset(bands="grey", resize=40, crop=32, filter="bilinear", mean=(0.0,), std=(1.0,))
quick = settings(deadline=None, max_examples=25)


def picture(bands: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((bands, height, width), dtype=np.float32)


def test_the_paper_preset_is_its_recipe_in_numpy_and_pillow() -> None:
    # Walmsley et al. 2022, Section 3: mean over channels, 424 to 300 px antialiased, central 224.
    colour = picture(3, 424, 424)
    grey = Image.fromarray(colour.mean(axis=0)).resize((300, 300), Image.Resampling.LANCZOS)
    expected = np.asarray(grey)[38:262, 38:262]
    found = centre_view(colour.mean(axis=0, keepdims=True), PAPER)
    np.testing.assert_allclose(found, expected[None], atol=1e-6)


@pytest.mark.parametrize("side", [40, 224, 320, 424])
def test_the_imagenet_preset_is_torchvisions_evaluation_transform(side: int) -> None:
    # Both resize float32 pixels with the same antialiased cubic; what is left is rounding.
    image, preset = picture(3, side, side), load_preset("imagenet")
    transform = v2.Compose(
        [
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.Normalize(preset.mean, preset.std),
        ]
    )
    np.testing.assert_allclose(centre_view(image, preset), transform(torch.from_numpy(image)).numpy(), atol=1e-5)


@pytest.mark.fault(19, "images of any shape")
@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (9, 200), (201, 33), (424, 424)])
def test_any_shape_gives_a_view_of_the_presets_shape(name: str, height: int, width: int) -> None:
    preset = load_preset(name)
    view = centre_view(picture(preset.n_bands, height, width), preset)
    assert view.shape == (preset.n_bands, preset.crop, preset.crop)
    assert view.dtype == np.float32
    assert view.flags.c_contiguous
    assert np.isfinite(view).all()


@quick
@given(st.integers(8, 60), st.integers(0, 30), st.booleans())
def test_of_a_non_square_image_the_central_square_is_used(side: int, extra: int, tall: bool) -> None:
    image = picture(1, side, side + 2 * extra)
    square = image[:, :, extra : extra + side]
    image = image.transpose(0, 2, 1) if tall else image
    square = square.transpose(0, 2, 1) if tall else square
    np.testing.assert_array_equal(centre_view(image, SMALL), centre_view(square, SMALL))


def test_field_keeps_the_central_fraction_of_the_side() -> None:
    image, half = picture(1, 80, 80), SMALL.model_copy(update={"field": 0.5})
    np.testing.assert_array_equal(centre_view(image, half), centre_view(image[:, 20:60, 20:60], SMALL))


def test_mean_and_deviation_are_applied_band_by_band() -> None:
    preset = Preset(bands="rgb", resize=16, crop=16, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    view = centre_view(np.full((3, 16, 16), 0.5, np.float32), preset)
    np.testing.assert_allclose(view[:, 3, 5], [0.4, 0.15, 0.05], rtol=1e-6)


@quick
@given(st.integers(0, 2**63 - 1) | st.text(max_size=20), st.integers(2, 5))
def test_random_views_repeat_whatever_was_made_before(object_id: int | str, n_views: int) -> None:
    image = picture(1, 30, 34)
    first = make_views(image, SMALL, n_views, object_id, "encoder")
    make_views(image, SMALL, 3, "another", "encoder")
    np.testing.assert_array_equal(make_views(image, SMALL, n_views, object_id, "encoder"), first)
    # A view depends on its number, not on how many there are.
    np.testing.assert_array_equal(make_views(image, SMALL, n_views + 1, object_id, "encoder")[:n_views], first)


def test_random_views_differ_by_object_by_encoder_and_by_number() -> None:
    image = picture(1, 60, 60)
    views = np.concatenate(
        [make_views(image, SMALL, 3, object_id, encoder) for object_id in (1, 2) for encoder in ("a", "b")]
    )
    assert len(np.unique(views.reshape(len(views), -1), axis=0)) == 12


def test_the_seed_of_a_view_is_fixed_for_ever() -> None:
    # Embeddings with random views would change if the seeding did. Seed: blake2b-128 of "7\0enc\0000", little-endian.
    expected = np.random.Generator(
        np.random.PCG64(int.from_bytes(bytes.fromhex("ec5c147b097e505eb6a2dfea5bd76d83"), "little"))
    )
    assert view_generator(7, "enc", 0).random() == expected.random()


def test_one_view_is_the_centre_view() -> None:
    image = picture(1, 50, 50)
    np.testing.assert_array_equal(make_views(image, SMALL, 1, 5, "e")[0], centre_view(image, SMALL))


def test_a_random_view_of_a_constant_image_has_no_empty_corners() -> None:
    views = make_views(np.full((1, 37, 37), 0.3, np.float32), SMALL, 20, "id", "e")
    np.testing.assert_allclose(views, 0.3, atol=1e-6)


def test_a_round_galaxy_looks_the_same_in_every_uncropped_random_view() -> None:
    # Rotation and flips keep the centre: a shift by one pixel would show at the slope of the profile.
    preset = SMALL.model_copy(update={"resize": 64, "crop": 64})
    y, x = np.mgrid[-31.5:32, -31.5:32]
    image = np.exp(-(x**2 + y**2) / 200).astype(np.float32)[None]
    inside = np.hypot(x, y) < 31
    for number in range(10):
        view = random_view(image, preset, np.random.default_rng(number))
        np.testing.assert_allclose(view[0][inside], image[0][inside], atol=0.01)


def test_random_views_turn_flip_and_move_the_galaxy() -> None:
    image = np.zeros((1, 40, 40), np.float32)
    image[0, 8:12, 18:22] = 1
    views = make_views(image, SMALL.model_copy(update={"crop": 36}), 40, "id", "e")[:, 0]
    y, x = np.mgrid[:36, :36] - 17.5
    centroids = [((view * x).sum() / view.sum(), (view * y).sum() / view.sum()) for view in views]
    quadrants = {(cx > 0, cy > 0) for cx, cy in centroids}
    assert len(quadrants) == 4


def test_views_leave_the_image_as_it_was() -> None:
    image = picture(1, 33, 47)
    before = image.copy()
    make_views(image, SMALL, 4, 1, "e")
    centre_view(image, SMALL)
    np.testing.assert_array_equal(image, before)


@given(
    name=st.sampled_from(preset_names()), height=st.integers(8, 90), width=st.integers(8, 90), n_views=st.integers(1, 2)
)
@settings(max_examples=60, deadline=None)
def test_what_views_look_at_gives_the_views_of_the_whole_image(
    name: str, height: int, width: int, n_views: int
) -> None:
    preset = load_preset(name)
    image = np.random.default_rng(height * width).random((preset.n_bands, height, width), np.float32)
    rows, columns = seen(height, width, preset, n_views)
    assert rows.stop - rows.start == columns.stop - columns.start <= min(height, width)
    part = make_views(image[:, rows, columns], preset, n_views, 7, "c", (height, width))
    np.testing.assert_array_equal(part, make_views(image, preset, n_views, 7, "c"))


def test_a_centre_crop_does_not_look_at_the_edges() -> None:
    rows, columns = seen(424, 424, load_preset("walmsley2022"), 1)
    assert (rows, columns) == (slice(50, 374), slice(50, 374))
