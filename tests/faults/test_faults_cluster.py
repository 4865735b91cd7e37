"""A cluster of several nodes behind a token: nodes are lost and come, and nobody else sends it jobs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.test_faults_processes import (
    VOORWERP,
    assert_same,
    driver,
    ended,
    find_embeddings,
    planned,
    sabotaged,
    vectors,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-that-only-this-cluster-knows"}


class Nodes(NamedTuple):
    """A running cluster."""

    process: subprocess.Popen[str]
    folder: Path
    """For marks of what its workers do."""
    address: str
    dashboard: str

    def tell(self, **what: object) -> str | None:
        """Add or lose a node; return the id of a new one."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(what), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, (what, (self.folder / "said").read_text())
        return json.loads(answer).get("node")

    def marked(self, what: str) -> set[str]:
        """What the marks of a kind name."""
        return {path.name.partition(" ")[2] for path in self.folder.glob(f"marks/{what} *")}

    def wait_for_held(self, is_running: Callable[[], bool], said: Callable[[], str]) -> None:
        """Wait until a cutout is held in a worker."""
        while not self.marked("held"):
            assert is_running(), said()
            time.sleep(0.05)

    def let_go(self) -> None:
        """Hold no cutout any more."""
        (self.folder / "go").touch()

    def hold(self) -> None:
        """Hold cutouts again, and forget all marks."""
        (self.folder / "go").unlink(missing_ok=True)
        for path in (self.folder / "marks").iterdir():
            path.unlink()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head that does no work. Some units stay in work until they are let go."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "marks").mkdir()
    sabotage = {"marks": str(folder / "marks"), "until": str(folder / "go"), "held": [1020, 1050, 1080], "no_gpu": True}
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nodes.py")), "dashboard"],
            env=sabotaged(**sabotage) | TOKEN,  # Workers are children of their node.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        yield Nodes(process, folder, **json.loads(process.stdout.readline()))
        process.stdin.close()


@pytest.mark.fault(2, "SIGKILL to the node that does all the work, and another one in its place")
def test_a_lost_node_costs_time_and_nothing_else(
    nodes: Nodes, tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, output = planned(tmp_path, survey, tiny_weights, max_seconds=100), tmp_path / "out"
    nodes.hold()
    nodes.tell(add="first", num_cpus=4)
    with monkeypatch.context() as patch:
        for name, value in {**TOKEN, "RAY_ADDRESS": nodes.address}.items():
            patch.setenv(name, value)
        with driver(job) as process:
            nodes.wait_for_held(lambda: process.poll() is None, lambda: str(process.communicate()))
            nodes.tell(lose="first")
            nodes.tell(add="second", num_cpus=3)
            nodes.let_go()
            code, said = ended(process)
    nodes.tell(lose="second")
    assert code == 0, said
    assert find_embeddings(output).detail["attempts_lost"] >= 1
    assert_same(job, vectors(finished))


def submit(nodes: Nodes, job: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Send the embedding of a job to the cluster, as `ray job submit` does; what it says goes to a file.

    Its runtime environment wants JSON logs. A working directory is not sent: nodes on one machine delete each other's.
    """
    ray, runtime = str(Path(sys.executable).with_name("ray")), json.dumps({"env_vars": {"VOORWERP_LOG": "json"}})
    sending = [ray, "job", "submit", "--address", f"http://{nodes.dashboard}", "--runtime-env-json", runtime]
    with job.with_suffix(".said").open("wb") as said:
        return subprocess.Popen(
            [*sending, "--", VOORWERP, "embed", str(job)],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def submit_when_ready(nodes: Nodes, job: Path) -> subprocess.Popen[bytes]:
    """Send the job with the token, again while the cluster says that none of its nodes is ready for jobs."""
    until = time.monotonic() + 120
    while True:
        process = submit(nodes, job, **TOKEN)
        while process.poll() is None and "submitted successfully" not in said_in(job):
            time.sleep(0.2)
        if process.poll() in (None, 0):
            return process
        assert "No available agent" in said_in(job), said_in(job)
        assert time.monotonic() < until


def said_in(job: Path) -> str:
    return job.with_suffix(".said").read_text()


def test_a_job_is_sent_with_the_token_alone_and_its_stages_run_where_they_belong_on_nodes_that_come_later_too(
    nodes: Nodes, tmp_path: Path, survey: Path, tiny_weights: Path, finished: Path
) -> None:
    job = planned(tmp_path, survey, tiny_weights, max_seconds=100, device="cuda", workers=1)
    assert submit(nodes, job, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="another-one").wait(120) != 0
    assert "Authentication failed" in said_in(job)

    nodes.hold()
    gpu_node = nodes.tell(add="gpu", num_cpus=1, num_gpus=1)
    cpu_node = nodes.tell(add="cpus", num_cpus=1)
    with submit_when_ready(nodes, job) as process:
        nodes.wait_for_held(lambda: process.poll() is None, lambda: said_in(job))
        later_node = nodes.tell(add="later", num_cpus=2)
        nodes.let_go()
        assert process.wait(400) == 0, said_in(job)
    said = [json.loads(line) for line in said_in(job).splitlines() if line.startswith("{")]
    assert any("90 planned = 90 embedded + 0 rejected" in line.get("message", "") for line in said)
    assert nodes.marked("encoded") == {gpu_node}
    assert gpu_node not in nodes.marked("loaded")
    assert nodes.marked("loaded") == {cpu_node, later_node}
    found = find_embeddings(tmp_path / "out").detail
    assert (found["device"], found["workers"]) == ("cuda", 1)
    assert_same(job, vectors(finished))
