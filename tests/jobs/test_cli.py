"""The command as a user types it: messages, exit codes, and that nothing is started for a job that cannot run."""

import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from astropy import units
from astropy.table import Table
from typer.main import get_command
from typer.testing import CliRunner

from engine.storage.artefacts import claimed, current_manifest
from engine.storage.store import Store
from jobs.cli import app
from schemas import paths
from tests.commands import voorwerp
from tests.conftest import TINY_ARCHITECTURE


def names_of(group: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of an application, by the words that call it."""
    inner = getattr(group, "commands", None)
    if inner is None:
        return [before]
    return [name for word, command in inner.items() for name in names_of(command, (*before, word))]


COMMANDS = names_of(get_command(app))
UNREACHABLE_RAY = {"RAY_ADDRESS": "127.0.0.1:1"}
"""With this, a job that gets as far as Ray fails with exit code 74: refusals must come before."""


def write_job(folder: Path, catalogue: Path, weights: Path, **sections: dict) -> Path:
    settings = {
        "catalogue": {"path": str(catalogue)},
        "encoder": {"architecture": TINY_ARCHITECTURE, "weights": str(weights)},
        "output": str(folder / "out"),
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def assert_refused(result: subprocess.CompletedProcess[str], code: int, *patterns: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for pattern in patterns:
        assert re.search(pattern, result.stderr), result.stderr


@pytest.fixture
def job(survey: Path, tiny_weights: Path, tmp_path: Path) -> Path:
    return write_job(tmp_path, survey, tiny_weights)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_has_an_example_and_the_exit_codes(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert f"voorwerp {' '.join(command)}" in result.stdout
    assert "Example" in result.stdout
    assert "Exit codes" in result.stdout


def test_the_version_is_the_installed_one() -> None:
    assert voorwerp("--version").stdout == f"voorwerp {version('voorwerp')}\n"


def test_an_unknown_key_is_refused_with_the_key_that_was_meant(job: Path) -> None:
    result = voorwerp("release", job, "--set", "embed.batchsize=4", **UNREACHABLE_RAY)
    assert_refused(result, 2, "embed.batchsize: unknown key", "did you mean 'batch_size'")


def test_a_value_with_a_unit_is_refused(job: Path) -> None:
    result = voorwerp("release", job, "--set", "cutouts.max_bytes=64 MB", **UNREACHABLE_RAY)
    assert_refused(result, 2, "cutouts.max_bytes: expected a valid integer", "found '64 MB'")


def test_a_release_without_an_encoder_is_refused(survey: Path, tmp_path: Path) -> None:
    result = voorwerp("release", "--catalogue", survey, "--output", tmp_path / "out", **UNREACHABLE_RAY)
    assert_refused(result, 2, "encoder: required, but missing")


def test_a_missing_job_file_is_refused(tmp_path: Path) -> None:
    assert_refused(voorwerp("release", tmp_path / "none.yaml"), 66, "expected a YAML file, found nothing")


def test_a_missing_catalogue_is_refused(job: Path, tmp_path: Path) -> None:
    result = voorwerp("release", job, "--catalogue", tmp_path / "none.csv", **UNREACHABLE_RAY)
    assert_refused(result, 66, "catalogue.path: expected a catalogue, found nothing at .*none.csv")


@pytest.mark.fault(24, "weights that are not there")
def test_missing_weights_are_refused(job: Path, tmp_path: Path) -> None:
    result = voorwerp("release", job, "--weights", tmp_path / "none.safetensors", **UNREACHABLE_RAY)
    assert_refused(result, 66, "encoder.weights: expected a weights file, found nothing")


@pytest.mark.fault(24, "weights cut short")
def test_truncated_weights_are_refused_before_ray_starts(job: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(tiny_weights.read_bytes()[:-1000])
    result = voorwerp("release", job, "--weights", tmp_path / "cut.safetensors", **UNREACHABLE_RAY)
    assert_refused(result, 65, "not a whole safetensors file")


def test_an_unknown_preset_is_refused_with_the_known_ones(job: Path) -> None:
    assert_refused(
        voorwerp("release", job, "--preset", "hubble", **UNREACHABLE_RAY), 2, "walmsley2022", "found 'hubble'"
    )


@pytest.mark.fault(22, "a column that is not there")
def test_a_missing_column_is_refused_with_the_columns_there_are(job: Path) -> None:
    result = voorwerp("release", job, "--set", "catalogue.ra_column=ra_degrees", **UNREACHABLE_RAY)
    assert_refused(result, 65, "expected a column 'ra_degrees'", "did you mean 'ra_deg'")


@pytest.mark.fault(23, "a catalogue without rows")
def test_an_empty_catalogue_is_refused(job: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("object_id,ra_deg,dec_deg,cutout\n")
    result = voorwerp("release", job, "--catalogue", tmp_path / "empty.csv", **UNREACHABLE_RAY)
    assert_refused(result, 65, "expected at least one galaxy")


@pytest.mark.fault(21, "a FITS column in hours")
def test_right_ascension_in_hours_is_refused(job: Path, survey: Path, tmp_path: Path) -> None:
    table = Table.from_pandas(pd.read_csv(survey))
    table["ra_deg"] = (np.asarray(table["ra_deg"]) / 15) * units.hour
    table.write(tmp_path / "hours.fits")
    result = voorwerp("release", job, "--catalogue", tmp_path / "hours.fits", **UNREACHABLE_RAY)
    assert_refused(result, 65, "expected degrees, found the unit 'h'")


def test_an_unreachable_ray_cluster_is_reported_at_once(finished: Path, survey: Path, tiny_weights: Path) -> None:
    job = write_job(finished, survey, tiny_weights)
    result = voorwerp(
        "index", job, "-o", finished, "--components", "5", "-s", "index.rows_per_shard=7", **UNREACHABLE_RAY
    )
    assert_refused(result, 74, "cannot use the Ray cluster at 127.0.0.1:1")


@pytest.fixture
def absent(tmp_path: Path, tiny_weights: Path) -> Path:
    """A job over 2,000 galaxies whose cutouts are not there."""
    table = pd.DataFrame({"object_id": range(2000), "ra_deg": np.arange(2000) / 10, "dec_deg": 5.0, "cutout": "x.jpg"})
    table.to_csv(tmp_path / "absent.csv", index=False)
    return write_job(tmp_path, tmp_path / "absent.csv", tiny_weights)


def test_a_preflight_refuses_too_many_rejects_before_ray(absent: Path) -> None:
    result = voorwerp("plan", absent, "--preflight", **UNREACHABLE_RAY)
    assert_refused(result, 69, "does not fit", r"64 of 64 cutouts in the sample are rejected \(64 not_found\)")
    assert "bytes written" not in result.stdout


def test_a_preflight_refuses_workers_that_need_more_memory_time_and_money_than_there_is(
    absent: Path, tmp_path: Path
) -> None:
    (tmp_path / "prices.yaml").write_text("currency: EUR\nper_cpu_hour: 1000\n")
    options = ["--prices", tmp_path / "prices.yaml", "--most-cost", "1", "--most-hours", "0.0001", "--sample", "5"]
    settings = ["plan.rows_per_unit=1", "ray.num_cpus=3000", "embed.workers=2000", "embed.max_reject_fraction=1"]
    report = tmp_path / "preflight.json"
    result = voorwerp(
        "plan", absent, "--preflight", *options, "--report", report, *(word for key in settings for word in ("-s", key))
    )
    assert_refused(result, 69, "memory: about .* and this machine has", "time: about", "cost: about .* EUR")
    found = json.loads(report.read_text())
    assert [line.partition(":")[0] for line in found["refused"]] == ["memory", "time", "cost"]
    assert found["work"]["n_objects"] == found["machines"]["workers"] == 2000
    assert found["probe"]["n_objects"] == 5
    assert "2,000 workers" in result.stdout


def test_a_preflight_that_finds_nothing_to_refuse_asks_the_cluster(job: Path) -> None:
    result = voorwerp("plan", job, "--preflight", **UNREACHABLE_RAY)
    assert_refused(result, 74, "64 cutouts read and decoded", "cannot use the Ray cluster at 127.0.0.1:1")


def test_a_preflight_refuses_options_that_cannot_be_meant(job: Path, tmp_path: Path) -> None:
    assert_refused(voorwerp("plan", job, "--most-hours", "1"), 2, "expected --preflight with them")
    assert_refused(voorwerp("plan", job, "--preflight", "--most-cost", "1"), 2, "expected --prices with it")
    (tmp_path / "prices.yaml").write_text("currency: EUR\nper_cpu_hours: 1\n")
    result = voorwerp("plan", job, "--preflight", "--prices", tmp_path / "prices.yaml")
    assert_refused(result, 2, "per_cpu_hours: unknown key", "did you mean 'per_cpu_hour'")
    result = voorwerp("plan", job, "--preflight", "--prices", tmp_path / "none.yaml")
    assert_refused(result, 66, "expected a YAML file, found nothing at .*none.yaml")
    result = voorwerp("plan", job, "--preflight", "-s", "embed.workers=1000")
    assert_refused(result, 2, "embed.workers: expected at most")


@pytest.mark.fault(20, "two rows twice")
def test_duplicate_ids_stop_with_a_list_or_keep_the_first(job: Path, survey: Path, tmp_path: Path) -> None:
    table = pd.read_csv(survey)
    table["cutout"] = [str(survey.parent / name) for name in table["cutout"]]
    pd.concat([table, table.iloc[[3, 5]]]).to_csv(tmp_path / "twice.csv", index=False)
    result = voorwerp("plan", job, "--catalogue", tmp_path / "twice.csv")
    assert_refused(result, 65, "2 that occur more than once: 1003, 1005", "on_duplicate: first")
    kept = voorwerp("plan", job, "--catalogue", tmp_path / "twice.csv", "--set", "catalogue.on_duplicate=first")
    assert kept.returncode == 0
    assert "92 objects" in kept.stderr


def test_a_stage_before_its_parent_says_what_to_run(job: Path) -> None:
    assert_refused(voorwerp("embed", job), 66, "holds no plan yet")
    assert_refused(voorwerp("reduce", job), 66, "holds no embeddings yet")


@pytest.mark.fault(39, "records of format 1")
def test_an_output_of_an_earlier_format_is_refused_with_what_to_do(job: Path, tmp_path: Path) -> None:
    assert voorwerp("plan", job).returncode == 0
    store = Store(str(tmp_path / "out"))
    name = paths.manifest("plan", claimed(store, "plan"))
    record = json.loads(store.read(name))
    store.write(name, json.dumps(record | {"format": 1}).encode())
    assert_refused(voorwerp("plan", job), 76, rf"{name}: expected format 2, found format 1: .* Choose a new output")
    store.write(paths.claim("plan"), json.dumps(record["identity"]).encode())  # As format 1 claimed it.
    for command in ("plan", "embed"):
        result = voorwerp(command, job)
        assert_refused(result, 76, r"claims/plan\.json: expected format 2, found format 1: .* Choose a new output")


def test_neighbours_of_nothing_and_of_the_unknown_are_refused(finished: Path, tmp_path: Path) -> None:
    assert_refused(voorwerp("neighbours", finished), 2, "expected at least one id, position or file")
    assert_refused(voorwerp("neighbours", finished, "--id", "5"), 65, "'5' is not among the 90 objects")
    assert_refused(voorwerp("neighbours", finished, "--id", "M31"), 65, "expected int64 ids")
    assert_refused(voorwerp("neighbours", finished, "--position", "12h 3"), 2, "in degrees")
    assert_refused(voorwerp("neighbours", finished, "--position", "370 3"), 2, r"RA in \[0, 360\)")
    assert_refused(
        voorwerp("neighbours", finished, "--id", "1001", "-o", tmp_path / "a.txt"), 2, "expected a name ending"
    )
    assert_refused(voorwerp("neighbours", tmp_path, "--id", "1001"), 66, "no finished release")


def test_neighbours_without_ray_in_every_format(finished: Path, tmp_path: Path) -> None:
    shown = voorwerp("neighbours", finished, "--id", "1001", "--position", "200 10", "-k", "3", **UNREACHABLE_RAY)
    assert shown.returncode == 0, shown.stderr
    assert "nearest to 1001" in shown.stdout
    for name in ("a.parquet", "a.csv", "a.vot"):
        result = voorwerp("neighbours", finished, "--id", "1001", "-k", "7", "-o", tmp_path / name)
        assert result.returncode == 0, result.stderr
    tables = [pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv")]
    tables.append(Table.read(tmp_path / "a.vot").to_pandas())
    for table in tables:
        assert table["object_id"].tolist() == tables[0]["object_id"].tolist()
        assert table["rank"].tolist() == list(range(1, 8))
        assert (np.diff(table["distance"]) >= 0).all()
        assert 1001 not in table["object_id"].tolist()


@pytest.mark.fault(32, "a shard changed, a file missing, a file left over")
@pytest.mark.cluster
def test_verify_names_a_changed_a_missing_and_a_left_over_file(finished: Path, tmp_path: Path) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    assert voorwerp("verify", output).returncode == 0
    index = output / paths.artefact("index", current_manifest(Store(str(output)), "index").id)
    shard = index / paths.shard(0)
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    (index / paths.shard_objects(0)).unlink()
    (index / "notes.txt").write_text("mine")
    result = voorwerp("verify", output)
    assert_refused(
        result, 1, r"shard-00000.faiss: expected SHA-256", "objects-00000.parquet: missing", "notes.txt: left over"
    )
    assert_refused(voorwerp("neighbours", output, "--id", "1001"), 76, r"objects-00000.parquet: missing")
