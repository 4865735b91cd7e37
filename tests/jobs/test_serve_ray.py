"""The service over Ray: the same answers as from one process, and never a wrong one while its processes die."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from engine.storage.store import Store
from jobs import serve_ray
from schemas.errors import InputNotFoundError
from tests.jobs.conftest import Generated, command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


class Service:
    """A service that runs, and its processes."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self._process, self.address = process, address

    def kill(self, replica: str) -> int:
        """SIGKILL every replica of a name; say how many."""
        n = 0
        for member in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if replica in " ".join(member.cmdline()):
                    member.kill()
                    n += 1
        return n


@contextmanager
def serving(output: Path, *options: str) -> Iterator[Service]:
    arguments = ["serve", str(output), "--port", "0", *options]
    with subprocess.Popen(
        [sys.executable, "-c", "from jobs.cli import main; main()", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    ) as process:
        assert process.stderr
        try:
            said = next((line for line in iter(process.stderr.readline, "") if line.startswith("serving")), "")
            assert said
            # Nobody else reads what comes later; it must not fill the pipe.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Service(process, said.split()[1].partition("/v1")[0])
            process.terminate()
            assert process.wait(60) in (0, 143)
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for member in family:
                with suppress(psutil.Error):
                    member.kill()


@pytest.mark.fault(33, "SIGKILL to replicas while questions come")
def test_a_service_over_ray_answers_as_one_process_does_and_survives_its_processes(
    generated: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOORWERP_DATABASE", str(tmp_path / "campaigns.sqlite"))
    scopes = [part for scope in ("read", "rate", "admin") for part in ("--scope", scope)]
    token = command("token", "create", "ann", *scopes).strip()
    with (
        serving(generated.output, "--groups", "2", "-s", "rate_per_minute=1000000", "-s", "rankers=2") as service,
        httpx.Client(base_url=service.address, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client,
    ):

        def assert_right(row: int) -> int:
            """Ask about an object; the answer is the right one, or that there is none now."""
            answer = client.get("/v1/neighbours", params={"id": str(generated.ids[row]), "k": 9, "include_self": True})
            if answer.status_code == 200:
                (one,) = answer.json()["answers"]
                expected = generated.nearest(generated.vectors[row], 9)
                found = [int(neighbour["object_id"]) for neighbour in one["neighbours"]]
                assert found[0] == generated.ids[row]
                assert sorted(found) == sorted(object_id for object_id, _ in expected)
                assert one["exactness"] == "exact"
            return answer.status_code

        assert {assert_right(row) for row in range(0, 600, 40)} == {200}
        position = {"ra": generated.ra_deg[5], "dec": generated.dec_deg[5], "k": 3}
        (at,) = client.get("/v1/neighbours", params=position).json()["answers"]
        assert at["query_id"] == str(generated.ids[5])
        vectors = {"vectors": [generated.vectors[3].tolist(), generated.vectors[90].tolist()], "k": 2}
        by_vector = client.post("/v1/neighbours", json=vectors).json()["answers"]
        assert [one["neighbours"][0]["object_id"] for one in by_vector] == [str(generated.ids[row]) for row in (3, 90)]

        # What is wrong is said as it was in the process where it was found.
        assert client.get("/v1/neighbours", params={"id": "5", "k": 3}).status_code == 404
        wrong = client.post("/v1/neighbours", json={"vectors": [[1.0, 2.0]], "k": 3})
        assert (wrong.status_code, "components" in wrong.json()["detail"]) == (422, True)
        assert client.get("/v1/campaigns/none").status_code == 404
        assert httpx.get(f"{service.address}/v1/release").status_code == 401

        def next_batch() -> list[dict[str, Any]]:
            """Ask for a batch; where its space takes longer to be read than an answer may, it is to come back later."""
            for _ in range(8):
                answer = client.post("/v1/campaigns/odd/next")
                if answer.status_code == 200:
                    return answer.json()["asked"]
                assert (answer.status_code, "Retry-After" in answer.headers) == (503, True), answer.text
                threading.Event().wait(float(answer.headers["Retry-After"]))
            raise AssertionError(answer.text)

        made = client.post("/v1/campaigns", json={"name": "odd", "config": {"space": "search", "batch": 4}})
        assert made.status_code == 201, made.text
        asked = next_batch()
        ratings = [{"object_id": one["object_id"], "rating": number} for number, one in enumerate(asked)]
        rated = client.post(
            "/v1/campaigns/odd/rate", json={"ratings": ratings}, headers={"Idempotency-Key": "first"}
        ).json()["recorded"]
        assert [one["rating"] for one in rated] == [0, 1, 2, 3]

        # The space of a campaign lies in two actors: nothing is ranked without one of them, and it comes back.
        best = client.get("/v1/campaigns/odd/ranking", params={"n": 600}).json()["ranked"]
        assert len({one["object_id"] for one in best}) == 600
        assert service.kill("ray::_Holder") == 2
        lost = client.post("/v1/campaigns/odd/next")
        assert (lost.status_code, "Retry-After" in lost.headers) == (503, True), lost.text
        assert len(next_batch()) == 4

        statuses: Counter[int] = Counter()
        stop = threading.Event()

        def ask_on() -> None:
            row = 0
            while not stop.is_set():
                row = (row + 7) % 600
                statuses[assert_right(row)] += 1

        failed: list[BaseException] = []

        def asking() -> None:
            try:
                ask_on()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=asking) for _ in range(3)]
        for thread in threads:
            thread.start()
        for replica in ("Shards-0", "Shards-1", "Campaigns"):
            assert service.kill(f"ray::ServeReplica:voorwerp:{replica}") == 1
            while statuses.total() < 20:
                stop.wait(0.1)
                assert not failed, failed
            statuses_before = statuses[200]
            for _ in range(600):  # The group comes back.
                if failed or statuses[200] > statuses_before + 20:
                    break
                stop.wait(0.1)
            assert statuses[200] > statuses_before + 20, statuses
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not failed, failed
        assert set(statuses) <= {200, 503}, statuses
        held = client.get("/v1/campaigns/odd/ratings")
        for _ in range(600):
            if held.status_code == 200:
                break
            stop.wait(0.1)
            held = client.get("/v1/campaigns/odd/ratings")
        assert held.json()["n_ratings"] == 4


def test_a_release_that_is_not_there_is_said_before_ray_is_started(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no finished release"):
        serve_ray.build({"release": str(Store(str(tmp_path)).uri()), "groups": 2})
