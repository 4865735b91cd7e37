"""What an output holds and how far its run is, as anybody sees it who may read."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from engine.cluster.protocol import begin, commit, describe
from engine.compute.rejects import rejects_table
from engine.storage.artefacts import claim
from engine.storage.lease import lease
from engine.storage.store import Store
from jobs import plan
from jobs.status import status_of
from schemas import paths
from schemas.config import CatalogueConfig, PlanConfig
from schemas.errors import InputNotFoundError
from tests.conftest import write_survey
from tests.jobs.conftest import Generated, command


def some_units_done(output: Path, survey: Path, n_done: int) -> Store:
    """A plan of 12 units, of which some are committed, a minute apart, and one more is begun."""
    store = Store(str(output))
    plan.run(CatalogueConfig(path=str(survey)), PlanConfig(rows_per_partition=100, rows_per_unit=5), store)
    run_id = claim(store, "embeddings", {"plan": "this one"})
    nothing = rejects_table(pa.table({name: [] for name in ("object_id", "ra_deg", "dec_deg", "cutout")}), [])
    for number in range(n_done + 1):
        attempt = begin(store, run_id, f"0-0-{number}")
        if number < n_done:
            record = describe(f"0-0-{number}", attempt, pa.chunked_array([[1, 2]]), nothing, [], {"total": 1.0})
            commit(store, run_id, record)
            at = 1_700_000_000 + 60 * number
            os.utime(output / paths.commit(run_id, record.unit), (at, at))
    return store


def test_a_run_in_progress_tells_how_far_it_is_and_when_it_will_end(tmp_path: Path) -> None:
    store = some_units_done(tmp_path / "out", write_survey(tmp_path, 40), 4)
    with lease(store):
        status = status_of(store)
    assert status.lease is not None
    assert (status.lease.pid, status.is_stale) == (os.getpid(), False)
    (units,) = status.units
    assert (units.kind, units.n_units, units.n_done, units.n_open) == ("embeddings", 12, 4, 1)
    assert units.per_minute == pytest.approx(1.0)
    assert units.minutes_left == pytest.approx(8.0)
    assert [one.kind for one in status.artefacts] == ["plan"]
    assert status.releases == []


def test_looking_changes_nothing(tmp_path: Path) -> None:
    store = some_units_done(tmp_path / "out", write_survey(tmp_path, 40), 1)
    before = store.entries()
    shown = command("status", tmp_path / "out")
    assert store.entries() == before
    assert "no run works here" in shown
    assert "1 of 12 units" in shown
    assert "no finished release yet" in shown


def test_a_run_that_died_is_called_dead(tmp_path: Path) -> None:
    store = some_units_done(tmp_path / "out", write_survey(tmp_path, 40), 1)
    with lease(store):
        os.utime(tmp_path / "out" / paths.LEASE, (1_700_000_000, 1_700_000_000))
        assert status_of(store).is_stale
        assert "it died, and the same command takes over" in command("status", tmp_path / "out")


def test_a_finished_release_is_listed_for_people_and_programs(generated: Generated) -> None:
    shown = command("status", generated.output)
    assert "current" in shown
    found = json.loads(command("status", generated.output, "--json"))
    assert [one["n_objects"] for one in found["releases"]] == [len(generated.ids)]
    assert {one["kind"] for one in found["artefacts"]} >= {"plan", "embeddings", "components", "index"}


def test_nothing_at_an_output_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="found nothing at"):
        command("status", tmp_path / "nowhere")
