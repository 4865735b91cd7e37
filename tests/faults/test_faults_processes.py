"""Real processes are killed; the output is that of a run in which nothing happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from engine.storage.artefacts import claimed, read_manifest
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix, read_row_group
from engine.storage.store import Store
from jobs import release, verify
from jobs.embed import read_units
from schemas import paths
from schemas.config import ReleaseJob, load_job
from schemas.manifest import Manifest
from tests.conftest import make_job
from tests.searched import files_with

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


VOORWERP = str(Path(sys.executable).with_name("voorwerp"))
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "the-key-of-the-store",
    "HF_TOKEN": "hf_the-token-of-the-hub",
    "VOORWERP_DATABASE": "postgresql://me:the-word-of-the-database@localhost/ratings",
    "VOORWERP_TOKEN": "ann.the-token-of-the-service",
}
"""Known to every process of these tests; nothing that is written or said may hold them."""


def find_embeddings(output: Path) -> Manifest:
    store = Store(str(output))
    return read_manifest(store, "embeddings", claimed(store, "embeddings"))


def vectors(output: Path) -> dict[int, np.ndarray]:
    folder = Store(str(output)).below(paths.artefact("embeddings", find_embeddings(output).id))
    table = read_columns(folder, ["object_id", "embedding"])
    return dict(zip(table["object_id"].to_pylist(), as_matrix(table["embedding"]), strict=True))


def assert_same(job: Path, expected: dict[int, np.ndarray], without: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Check that a job's embeddings are those of a run in which nothing happened, and that its release takes them."""
    settings = load_job(ReleaseJob, job, {})
    output = Path(settings.output)
    before = {path: path.stat().st_mtime_ns for path in (output / "embeddings").rglob("*") if path.is_file()}
    release.run(settings)
    assert before == {path: path.stat().st_mtime_ns for path in (output / "embeddings").rglob("*") if path.is_file()}
    found = vectors(output)
    assert found.keys() == expected.keys() - without
    for object_id, vector in found.items():
        assert np.abs(vector - expected[object_id]).max() <= 1e-5 * np.abs(vector).max()
    assert verify.run(str(output))
    assert files_with(Store(str(output)), ["object_id"])
    assert not files_with(Store(str(output)), list(SECRETS.values()))


def sabotaged(**sabotage: object) -> dict[str, str]:
    """Environment of processes whose loading of cutouts goes wrong."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent / "sabotage"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **SECRETS, "PYTHONPATH": path, "VOORWERP_TEST_SABOTAGE": json.dumps(sabotage)}


@contextmanager
def driver(job: Path, command: str = "embed", **sabotage: object) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own; its Ray processes are gone afterwards, whatever happened."""
    process = subprocess.Popen(
        [VOORWERP, command, str(job)], env=sabotaged(**sabotage), stderr=subprocess.PIPE, text=True
    )
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for member in family:
            member.kill() if member.is_running() else None


def planned(folder: Path, survey: Path, weights: Path, max_seconds: float = 5, **embed: object) -> Path:
    """Plan the survey, whose embedding is what faults meet; return the file of the job."""
    settings = make_job(
        survey, folder / "out", weights, cutouts={"max_seconds": max_seconds}, embed={"workers": 2, **embed}
    )
    job = folder / "job.yaml"
    job.write_text(settings.model_dump_json())
    release.run_plan(settings)
    return job


def commits(output: Path) -> list[str]:
    return [path for path in Store(str(output)).list(paths.WORK) if path.endswith(".json")]


def all_but_two_units(output: Path) -> list[int]:
    """Ids of a plan's objects without those of its first two units."""
    store = Store(str(output))
    plan = claimed(store, "plan")
    folder = store.below(paths.artefact("plan", plan))
    units = read_units(read_manifest(store, "plan", plan), store)[2:]
    tables = [read_row_group(folder, unit.partition.path, unit.row_group) for unit in units]
    return [object_id for table in tables for object_id in table["object_id"].to_pylist()]


def wait_until(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_commits(process: subprocess.Popen[str], output: Path, n: int) -> None:
    wait_until(process, lambda: len(commits(output)) >= n)


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
    assert not [name for name, secret in SECRETS.items() if secret in said]
    return process.returncode, said


@pytest.mark.fault(1, "SIGKILL to three workers while each loads a cutout")
@pytest.mark.fault(3, "SIGKILL to the command, after SIGTERM to the same")
@pytest.mark.fault(4, "SIGTERM to the command")
@pytest.mark.fault(28, "the same command a second time")
def test_a_run_goes_on_from_sigterm_sigkill_and_three_killed_workers_as_if_nothing_had_happened(
    tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path
) -> None:
    job, output = planned(tmp_path, survey, tiny_weights, max_seconds=100), tmp_path / "out"
    (marks := tmp_path / "marks").mkdir()
    (later := tmp_path / "later").mkdir()
    go = tmp_path / "go"
    with driver(job, "release", held=all_but_two_units(output), marks=str(marks), until=str(go)) as process:
        wait_for_commits(process, output, 1)
        busy = subprocess.run([VOORWERP, "release", str(job)], capture_output=True, text=True, check=False)
        assert busy.returncode == 75
        assert f"process {process.pid}" in busy.stderr
        wait_until(process, lambda: any(marks.glob("held *")))
        process.send_signal(signal.SIGTERM)
        wait_until(process, lambda: any("drain" in path for path in Store(str(output)).list(paths.WORK)))
        go.touch()
        code, said = ended(process)
    assert code == 143, said
    terminated = len(commits(output))
    assert f"terminated with {terminated} of 17 units done" in said
    assert 1 < terminated <= 4  # Two, and those that were held.
    assert not Store(str(output)).exists(paths.LEASE)
    work = [path for path in Store(str(output)).list(paths.WORK) if "/parts/" in path]
    assert len(work) == terminated  # Every unit that was begun was committed.

    with driver(job, "release", slow_s=0.25) as process:
        wait_for_commits(process, output, terminated + 1)
        process.send_signal(signal.SIGKILL)
        assert ended(process)[0] == -signal.SIGKILL
    before = len(commits(output))
    assert terminated < before < 14
    assert not Store(str(output)).exists(paths.CURRENT)

    killed: set[int] = set()
    with driver(job, "release", slow_s=0.3, marks=str(later)) as process:
        for number in range(3):
            wait_for_commits(process, output, before + number)
            kill_a_worker(process, killed, later, within_s=0.15)
        code, said = ended(process)
    assert len(killed) == 3
    assert code == 0, said
    already = re.search(r"(\d+) of 17 units already done", said)
    assert already
    assert int(already[1]) >= before  # Workers may end a unit after their driver was killed.
    assert "90 planned = 90 embedded + 0 rejected" in said
    assert find_embeddings(output).detail["attempts_lost"] >= 3
    assert_same(job, vectors(finished))


@pytest.mark.fault(17, "cutouts that kill their process, and one without end")
@pytest.mark.fault(7, "a cutout that raises MemoryError")
@pytest.mark.parametrize("stages", ["together", "apart"])
def test_a_cutout_that_kills_its_process_is_one_reject(
    tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path, stages: str
) -> None:
    job, output = planned(tmp_path, survey, tiny_weights, stages=stages), tmp_path / "out"
    with driver(job, deadly=[1007, 1042], hungry=[1050], endless=[1060]) as process:
        code, said = ended(process)
    assert code == 0, said
    store = Store(str(output))
    manifest = find_embeddings(output)
    assert manifest.detail["rejected_by_reason"] == {"worker_crash": 3, "timeout": 1}
    rejects = pq.read_table(store.full_path(f"{paths.artefact('embeddings', manifest.id)}/{paths.REJECTS}")).to_pylist()
    assert {row["object_id"]: (row["reason"], row["detail"]) for row in rejects} == {
        1007: ("worker_crash", "its process ended with SIGKILL"),
        1042: ("worker_crash", "its process ended with SIGKILL"),
        1050: ("worker_crash", "its process ran out of memory"),
        1060: ("timeout", "not done after 5 s"),
    }
    assert_same(job, vectors(finished), without={1007, 1042, 1050, 1060})
