"""Real processes are killed; the output is that of a run in which nothing happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from engine.storage.artefacts import current_manifest
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from jobs import verify
from schemas import paths
from tests.conftest import make_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def vectors(output: Path) -> dict[int, np.ndarray]:
    store = Store(str(output))
    folder = store.below(paths.artefact("embeddings", current_manifest(store, "embeddings").id))
    table = read_columns(folder, ["object_id", "embedding"])
    return dict(zip(table["object_id"].to_pylist(), as_matrix(table["embedding"]), strict=True))


def assert_same(output: Path, expected: dict[int, np.ndarray], without: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    found = vectors(output)
    assert found.keys() == expected.keys() - without
    for object_id, vector in found.items():
        assert np.abs(vector - expected[object_id]).max() <= 1e-5 * np.abs(vector).max()
    assert verify.run(str(output))


def sabotaged(**sabotage: object) -> dict[str, str]:
    """Environment of processes whose loading of cutouts goes wrong."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent / "sabotage"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "VOORWERP_TEST_SABOTAGE": json.dumps(sabotage)}


@contextmanager
def driver(job: Path, **sabotage: object) -> Iterator[subprocess.Popen[str]]:
    """`voorwerp release` in a process of its own; its Ray processes are gone afterwards, whatever happened."""
    command = [str(Path(sys.executable).parent / "voorwerp"), "release", str(job)]
    process = subprocess.Popen(command, env=sabotaged(**sabotage), stderr=subprocess.PIPE, text=True)
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for member in family:
            member.kill() if member.is_running() else None


def write_job(folder: Path, survey: Path, weights: Path, max_seconds: float = 5, **embed: object) -> Path:
    job = make_job(survey, folder / "out", weights, cutouts={"max_seconds": max_seconds}, embed=embed)
    (folder / "job.yaml").write_text(job.model_dump_json())
    return folder / "job.yaml"


def commits(output: Path) -> list[str]:
    return [path for path in Store(str(output)).list(paths.WORK) if path.endswith(".json")]


def wait_for_commits(process: subprocess.Popen[str], output: Path, n: int) -> None:
    deadline = time.monotonic() + 120
    while len(commits(output)) < n:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_a_worker(process: subprocess.Popen[str], spared: set[int], marks: Path, within_s: float) -> None:
    """SIGKILL a worker that was not killed before while it loads a cutout, which it began less than `within_s` ago."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        for member in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error, FileNotFoundError):
                is_loading = time.time() - (marks / str(member.pid)).stat().st_mtime < within_s
                if is_loading and member.pid not in spared and "EmbedUnit" in " ".join(member.cmdline()):
                    member.kill()
                    spared.add(member.pid)
                    return
        time.sleep(0.02)
    raise AssertionError("no worker to kill")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=300)
    return process.returncode, said


@pytest.mark.fault(3, "SIGKILL to the command, twice")
@pytest.mark.fault(1, "SIGKILL to three workers while each loads a cutout")
def test_three_killed_workers_and_two_killed_drivers_change_nothing(
    tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path
) -> None:
    job, output = write_job(tmp_path, survey, tiny_weights), tmp_path / "out"
    for n_commits in (1, 3):
        with driver(job, slow_s=0.05) as process:
            wait_for_commits(process, output, n_commits)
            process.send_signal(signal.SIGKILL)
            assert ended(process)[0] == -signal.SIGKILL
    before = len(commits(output))
    assert 3 <= before < 12
    killed: set[int] = set()
    (marks := tmp_path / "marks").mkdir()
    with driver(job, slow_s=0.3, marks=str(marks)) as process:
        for n_commits in (before + 1, before + 2, before + 3):
            wait_for_commits(process, output, n_commits)
            kill_a_worker(process, killed, marks, within_s=0.15)
        code, said = ended(process)
    assert len(killed) == 3
    assert code == 0, said
    already = re.search(r"(\d+) of 17 units already done", said)
    assert already
    assert int(already[1]) >= before  # Workers may end a unit after their driver was killed.
    assert current_manifest(Store(str(output)), "embeddings").detail["attempts_lost"] >= 3
    assert_same(output, vectors(finished))


@pytest.mark.fault(17, "cutouts that kill their process, and one without end")
@pytest.mark.fault(7, "a cutout that raises MemoryError")
@pytest.mark.parametrize("stages", ["together", "apart"])
def test_a_cutout_that_kills_its_process_is_one_reject(
    tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path, stages: str
) -> None:
    job, output = write_job(tmp_path, survey, tiny_weights, stages=stages), tmp_path / "out"
    with driver(job, deadly=[1007, 1042], hungry=[1050], endless=[1060]) as process:
        code, said = ended(process)
    assert code == 0, said
    store = Store(str(output))
    manifest = current_manifest(store, "embeddings")
    assert manifest.detail["rejected_by_reason"] == {"worker_crash": 3, "timeout": 1}
    rejects = pq.read_table(store.full_path(f"{paths.artefact('embeddings', manifest.id)}/{paths.REJECTS}")).to_pylist()
    assert {row["object_id"]: (row["reason"], row["detail"]) for row in rejects} == {
        1007: ("worker_crash", "its process ended with SIGKILL"),
        1042: ("worker_crash", "its process ended with SIGKILL"),
        1050: ("worker_crash", "its process ran out of memory"),
        1060: ("timeout", "not done after 5 s"),
    }
    assert_same(output, vectors(finished), without={1007, 1042, 1050, 1060})


@pytest.mark.fault(28, "the same command a second time")
@pytest.mark.fault(4, "SIGTERM to the command")
def test_sigterm_finishes_the_units_in_work_and_frees_the_lease(
    tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path
) -> None:
    job, output = write_job(tmp_path, survey, tiny_weights), tmp_path / "out"
    with driver(job, slow_s=0.25) as process:
        wait_for_commits(process, output, 2)
        busy = subprocess.run(
            [str(Path(sys.executable).parent / "voorwerp"), "release", str(job)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert busy.returncode == 75
        assert f"process {process.pid}" in busy.stderr
        process.send_signal(signal.SIGTERM)
        code, said = ended(process)
    assert code == 143, said
    done = len(commits(output))
    assert f"terminated with {done} of 17 units done" in said
    assert 2 < done < 17
    assert not Store(str(output)).exists(paths.LEASE)
    work = [path for path in Store(str(output)).list(paths.WORK) if "/parts/" in path]
    assert len(work) == done  # Every unit that was begun was committed.
    with driver(job) as process:
        code, said = ended(process)
    assert code == 0, said
    assert f"{done} of 17 units already done" in said
    assert_same(output, vectors(finished))


@pytest.mark.fault(2, "SIGKILL to a node of two while its units are in work")
def test_a_lost_node_costs_time_and_nothing_else(
    tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path
) -> None:
    job, output = write_job(tmp_path, survey, tiny_weights, max_seconds=100), tmp_path / "out"
    (marks := tmp_path / "marks").mkdir()
    sabotage = {"marks": str(marks), "until": str(tmp_path / "lost"), "held": [1020, 1050, 1080]}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("two_nodes.py"))],
        env=sabotaged(**sabotage),  # Workers are children of their node. Some units are in work until it is lost.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdin
        assert cluster.stdout
        address = cluster.stdout.readline().strip()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", address)
            with driver(job, **sabotage) as process:
                while not list(marks.glob("held *")):
                    assert process.poll() is None
                    time.sleep(0.05)
                cluster.stdin.write("lose a node\n")
                cluster.stdin.flush()
                assert cluster.stdout.readline() == "lost\n"
                (tmp_path / "lost").touch()
                code, said = ended(process)
        cluster.stdin.close()
    assert code == 0, said
    assert current_manifest(Store(str(output)), "embeddings").detail["attempts_lost"] >= 1
    assert_same(output, vectors(finished))
