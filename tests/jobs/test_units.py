"""Units of a search over Ray: a worker that dies costs time and nothing else; two runs do not meet."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.cluster.counts import Counts, counted
from engine.cluster.graph import neighbours_of_run, runs
from engine.cluster.opened import open_release
from engine.cluster.parts import PartsTask, do_unit, run_units
from engine.cluster.protocol import read_commits
from engine.compute.digest import id_digest
from engine.storage.lease import lease
from engine.storage.store import Store
from jobs import graph
from jobs.units import do_units
from schemas.config import GraphJob
from schemas.errors import BusyError, IntegrityError
from tests.jobs.conftest import Generated


def task_of(generated: Generated, folder: Path) -> PartsTask:
    release = open_release(Store(str(generated.output)))
    where = {"work": str(folder / "work"), "parts": str(folder / "parts")}
    return PartsTask(**where, run_id="run", release=str(generated.output), release_id=release.id)


@pytest.mark.fault(1, "SIGKILL to a worker of a search of many queries")
@pytest.mark.cluster
def test_a_worker_that_is_killed_changes_nothing(generated: Generated, tmp_path: Path, ray_session: None) -> None:
    release, task, mark = open_release(Store(str(generated.output))), task_of(generated, tmp_path), tmp_path / "killed"
    records = runs(release, 5)

    def make(opened, record):  # type: ignore[no-untyped-def]
        if record == records[1] and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return neighbours_of_run(opened, record, 5, None)

    commits = {commit.unit: commit for commit in run_units(records, task, make, {"num_cpus": 1})}
    assert mark.exists()
    assert {commit.attempt for commit in commits.values()} == {1, 2}
    assert counted(list(commits.values()), 600).record == {"planned": 600, "answered": 600}
    for record in records:
        (file,) = commits[record["unit"]].files
        assert pq.read_table(tmp_path / "parts" / file.path).equals(neighbours_of_run(release, record, 5, None).table)


def test_of_two_attempts_at_a_unit_one_counts_and_the_other_leaves_nothing(
    generated: Generated, tmp_path: Path
) -> None:
    release, task = open_release(Store(str(generated.output))), task_of(generated, tmp_path)
    record = runs(release, 5)[0]

    def slow():  # type: ignore[no-untyped-def]
        do_unit(record["unit"], task, lambda: neighbours_of_run(release, record, 5, None))
        return neighbours_of_run(release, record, 5, None)

    counts = do_unit(record["unit"], task, slow)
    assert list(read_commits(Store(task.work), "run")) == [counts]
    assert [file.path for file in counts.files] == Store(task.parts).list()
    assert do_unit(record["unit"], task, slow) == counts


def test_a_second_run_on_the_same_answer_is_told_who_works_there(generated: Generated, tmp_path: Path) -> None:
    with lease(Store(f"{tmp_path}/graph.work")), pytest.raises(BusyError, match="is in use by"):
        graph.run(GraphJob(release=str(generated.output), output=f"{tmp_path}/graph/"))


def test_an_answer_that_lost_something_is_not_published() -> None:
    with pytest.raises(IntegrityError, match=r"expected 3 answers or reasons, found \{\}"):
        counted([], 3)
    with pytest.raises(IntegrityError, match="other queries than were asked"):
        counted([], 0, asked_digest=id_digest([7]))
    assert str(Counts(0, counted([], 0).by_status)) == "0 planned = 0 answered"


def test_a_part_that_was_deleted_is_missed_before_a_manifest_names_it(
    generated: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_in_process(search, *arguments):  # type: ignore[no-untyped-def]
        commits = do_units(search, *arguments, in_process=True)
        next((tmp_path / "graph" / "parts").iterdir()).unlink()
        return commits

    monkeypatch.setattr(graph, "do_units", made_in_process)
    with pytest.raises(IntegrityError, match=r"missing, although a commit record names it; delete .*graph.work"):
        graph.run(GraphJob(release=str(generated.output), output=f"{tmp_path}/graph/"))
    assert not (tmp_path / "graph" / "manifest.json").exists()
