"""Job configs: closed, typed, and refused with the key, what was expected and what was found."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli_options import overrides
from jobs.encoder import preset_of
from schemas.config import NeighboursJob, ReleaseJob, StretchConfig, load_job
from schemas.errors import ConfigError, InputNotFoundError
from schemas.model import FinetuneJob
from schemas.preset import load_preset
from schemas.tree import load_tree

MINIMAL: dict[str, Any] = {
    "catalogue": {"path": "catalogue.csv"},
    "encoder": {"architecture": "efficientnet_b0", "weights": "zoobot.safetensors"},
    "output": "out",
}


def job_with(key: str, value: Any) -> ReleaseJob:
    """Validate the minimal job with one key set, as an option of the command line would set it."""
    return load_job(ReleaseJob, None, {**flat(MINIMAL), key: value})


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key, value in settings.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return pairs


def write(path: Path, settings: object) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_minimal_job_needs_catalogue_encoder_and_output_and_has_the_paper_as_its_defaults(tmp_path: Path) -> None:
    job = load_job(ReleaseJob, write(tmp_path / "job.yaml", MINIMAL), {})
    assert (job.embed.preset, job.embed.views, job.reduce.spaces) == (None, 1, ("search",))
    assert preset_of(job.encoder, job.embed) == load_preset("walmsley2022")
    assert job.catalogue.id_column == "object_id"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("embed.vews", "views"),
        ("catalogue.ra_colum", "ra_column"),
        ("cutouts.stretch.knd", "kind"),
        ("outputs", "output"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key: str, near: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{key}: unknown key \(did you mean '{near}'\?\); expected one of .*{near}"
    ):
        job_with(key, 1)


def test_a_far_fetched_key_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"^zzzzqqq: unknown key; expected one of catalogue, encoder, output"):
        job_with("zzzzqqq", 1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("embed.views", "ten", r"^embed\.views: expected a valid integer.*; found 'ten'$"),
        ("embed.views", 2.5, r"^embed\.views: expected a valid integer.*; found 2\.5$"),
        ("embed.views", 0, r"^embed\.views: expected greater than or equal to 1; found 0$"),
        ("embed.views", None, r"^embed\.views: expected a valid integer; found None$"),
        ("embed", 3, r"^embed: expected .*; found 3$"),
        ("embed.device", "gpu", r"^embed\.device: expected 'auto', 'cpu' or 'cuda'; found 'gpu'$"),
        ("cutouts.max_bytes", "64MB", r"^cutouts\.max_bytes: expected a valid integer.*; found '64MB'$"),
        (
            "cutouts.stretch.kind",
            "log",
            r"^cutouts\.stretch\.kind: expected 'linear', 'asinh' or 'lupton'; found 'log'$",
        ),
        ("cutouts.stretch.rgb_bands", [0, 1], r"^cutouts\.stretch\.rgb_bands\.2: required, but missing$"),
        ("catalogue.format", "xlsx", r"^catalogue\.format: expected 'parquet', .*; found 'xlsx'$"),
        ("reduce.scheduler", "http://x", r"^reduce\.scheduler: expected 'ray' or a tcp://.*; found 'http://x'$"),
        ("output", 3, r"^output: expected a valid string; found 3$"),
    ],
)
def test_a_wrong_value_is_refused_with_key_expectation_and_finding(key: str, value: object, message: str) -> None:
    settings = {name: entry for name, entry in flat(MINIMAL).items() if name != key}
    with pytest.raises(ConfigError, match=message):
        load_job(ReleaseJob, None, {**settings, key: value})


@pytest.mark.parametrize(("key", "value"), [("low", float("nan")), ("high", float("inf")), ("lupton_q", float("inf"))])
def test_a_stretch_that_is_not_finite_is_refused(key: str, value: float) -> None:
    # NaN differs from itself: an output claimed with it could never be resumed.
    with pytest.raises(ConfigError, match=key):
        job_with(f"cutouts.stretch.{key}", value)


def test_a_stretch_with_low_above_high_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low \(2\.0\) must be smaller than high \(1\.0\)"):
        StretchConfig(low=2.0, high=1.0)


@pytest.mark.parametrize("missing", ["encoder.weights", "catalogue.path", "output"])
def test_a_missing_key_is_named(missing: str) -> None:
    settings = {key: value for key, value in flat(MINIMAL).items() if key != missing}
    section = missing.split(".")[0] if missing.startswith("catalogue") else missing
    with pytest.raises(ConfigError, match=rf"^{section}(\..*)?: required, but missing$"):
        load_job(ReleaseJob, None, settings)


def test_every_problem_of_a_config_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(ReleaseJob, None, {"embed.views": "x", "encoder.architecture": "efficientnet_b0", "foo": 1})
    keys = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert sorted(keys) == ["catalogue", "embed.views", "encoder.weights", "foo", "output"]


def test_options_override_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "job.yaml", {**MINIMAL, "embed": {"views": 3, "batch_size": 8}})
    job = load_job(ReleaseJob, path, {"embed.views": 5, "cutouts.stretch.kind": "linear"})
    assert (job.embed.views, job.embed.batch_size, job.cutouts.stretch.kind) == (5, 8, "linear")


def test_an_option_below_a_value_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "job.yaml", {**MINIMAL, "embed": 7})
    with pytest.raises(ConfigError, match=r"embed\.views: embed is a value, not a section"):
        load_job(ReleaseJob, path, {"embed.views": 5})


def test_a_validated_job_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        job_with("embed.views", 2).embed.views = 3  # type: ignore[misc]


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"- a list", b"!!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        load_job(ReleaseJob, path, {})


@pytest.mark.fault(25, "YAML that makes a folder where it is let")
@pytest.mark.parametrize("door", ["job", "preset", "tree", "option"])
def test_yaml_that_would_run_something_is_refused_and_never_runs(tmp_path: Path, door: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.yaml"
    payload = f"!!python/object/apply:os.mkdir ['{mark}']"
    path.write_text(f"output: {payload}\n")
    doors = {
        "job": lambda: load_job(ReleaseJob, path, {}),
        "preset": lambda: load_preset(str(path)),
        "tree": lambda: load_tree(str(path)),
        "option": lambda: overrides({}, [f"output={payload}"]),
    }
    with pytest.raises(ConfigError):
        doors[door]()
    assert not mark.exists()
    yaml.unsafe_load(payload)
    assert mark.exists()


def test_a_missing_file_is_told_apart_from_a_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="expected a YAML file, found nothing at"):
        load_job(ReleaseJob, tmp_path / "job.yaml", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected at least one id, position or file of queries"),
        ({"ids": ["1"], "exclusion_radius_arcsec": "10 arcsec"}, r"exclusion_radius_arcsec: .*; found '10 arcsec'"),
        ({"ids": ["1"], "exclusion_radius_arcsec": float("nan")}, "exclusion_radius_arcsec"),
        ({"ids": ["1"], "exclusion_radius_arcsec": -1}, "exclusion_radius_arcsec"),
        ({"ids": ["1"], "k": 0}, r"^k: expected greater than or equal to 1; found 0"),
        ({"positions_deg": [(360.0, 0.0)]}, r"expected RA in \[0, 360\) .* found \(360\.0, 0\.0\)"),
        ({"positions_deg": [(0.0, -90.01)]}, r"found \(0\.0, -90\.01\)"),
        ({"positions_deg": [(float("nan"), 0.0)]}, "nan"),
    ],
)
def test_a_search_that_cannot_be_answered_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_job(NeighboursJob, None, {"release": "out", **settings})


def test_a_plane_before_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        StretchConfig(rgb_bands=(0, 1, -1))


def test_a_depth_may_be_a_number_as_yaml_reads_it() -> None:
    job = {"release": "out", "labels": "labels.csv", "output": "model"}
    assert load_job(FinetuneJob, None, {**job, "depth": 7}).depth == "7"
