"""The service and its tokens as a person at a terminal has them."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

import jobs
from engine.storage.tokens import open_tokens
from jobs.serve import serving
from schemas.errors import ConfigError, InputNotFoundError
from schemas.service import ServeConfig
from tests.jobs.conftest import Generated, command


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where commands keep tokens unless they are told otherwise."""
    monkeypatch.setenv("VOORWERP_DATABASE", str(tmp_path / "campaigns.sqlite"))
    return str(tmp_path / "campaigns.sqlite")


def test_tokens_are_created_listed_and_revoked_at_the_terminal(database: str) -> None:
    reader = command("token", "create", "reader").strip()
    ann = command("token", "create", "ann", "--scope", "read", "--scope", "rate").strip()
    laptop = command("token", "create", "laptop", "--scope", "rate", "--rater", "ann", "--database", database).strip()
    store = open_tokens(database)
    found = [store.verify(token) for token in (reader, ann, laptop)]
    assert [(one.scopes, one.rater) for one in found if one] == [
        (("read",), None),
        (("read", "rate"), "ann"),
        (("rate",), "ann"),
    ]
    command("token", "revoke", "laptop")
    assert store.verify(laptop) is None
    listed = command("token", "list")
    assert [line.split("\t")[0] for line in listed.splitlines()] == ["ann", "laptop", "reader"]
    assert "revoked" in listed.splitlines()[1]
    assert not any(token.rpartition(".")[2] in listed for token in (reader, ann, laptop))
    store.close()


def test_what_is_wrong_with_a_token_or_a_service_is_said(database: str, generated: Generated, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scopes of read, rate, admin"):
        command("token", "create", "ann", "--scope", "write")
    with pytest.raises(InputNotFoundError, match="none yet"):
        command("token", "revoke", "ann")
    with pytest.raises(ConfigError, match="most_kk: unknown key"):
        command("serve", generated.output, "-s", "most_kk=3")
    with pytest.raises(InputNotFoundError, match="no finished release"):
        command("serve", tmp_path, "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="Address already in use"):
        command("serve", generated.output, "--port", str(taken.getsockname()[1]))
    with pytest.raises(ConfigError, match="host, port: expected an address"):
        command("serve", generated.output, "--host", "no.such.host.invalid", "--port", "0")


def test_a_package_that_serving_needs_and_is_not_there_is_named(
    database: str, generated: Generated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "jobs.serve", raising=False)
    monkeypatch.delattr(jobs, "serve", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install 'voorwerp\[serve\]'"):
        command("serve", generated.output)


def test_a_service_answers_until_it_is_told_to_end_and_finishes_what_it_is_asked(
    database: str, generated: Generated
) -> None:
    token = command("token", "create", "ann").strip()
    arguments = ["serve", str(generated.output), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", "from jobs.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as process:
        assert process.stderr
        said = next(line for line in process.stderr if "serving" in line)
        address = said.split()[1].partition("/v1")[0]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        with httpx.Client(headers=headers, timeout=30) as client:
            answer = client.get(f"{address}/v1/neighbours", params={"id": str(generated.ids[0]), "k": 5})
            (one,) = answer.json()["answers"]
            nearest = generated.nearest(generated.vectors[0], 6)
            assert [int(row["object_id"]) for row in one["neighbours"]] == [object_id for object_id, _ in nearest[1:]]
            begun, go_on = threading.Event(), threading.Event()

            def slowly():  # type: ignore[no-untyped-def]
                yield b'{"ids": ["'
                begun.set()
                go_on.wait(20)
                yield str(generated.ids[0]).encode() + b'"]}'

            late: list[int] = []
            asking = threading.Thread(
                target=lambda: late.append(client.post(f"{address}/v1/neighbours", content=slowly()).status_code)
            )
            asking.start()
            begun.wait(20)
            process.send_signal(signal.SIGTERM)
            threading.Timer(0.5, go_on.set).start()
            asking.join(30)
            assert late == [200]
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [(line["route"], line["status"], line["caller"]) for line in lines] == [("/v1/neighbours", 200, "ann")] * 2
    assert token not in stdout + stderr


@pytest.mark.fault(34, "a newer release under a service")
def test_a_service_goes_on_with_its_release_when_there_is_a_newer_one(
    database: str, make_release: Callable[..., Generated]
) -> None:
    old = make_release()
    config = ServeConfig(release=str(old.output), database=database, anonymous_read=True)

    def asked(client: TestClient, made: Generated) -> str:
        """Ask about an object; the answer is right for these vectors. Return which release it is from."""
        said = client.get("/v1/neighbours", params={"id": str(made.ids[0]), "k": 4, "include_self": True}).json()
        found = [int(row["object_id"]) for row in said["answers"][0]["neighbours"]]
        assert found == [object_id for object_id, _ in made.nearest(made.vectors[0], 4)]
        assert client.get("/v1/release").json()["release"] == said["release"]
        return str(said["release"])

    with serving(config) as app:
        client = TestClient(app)
        before = asked(client, old)
        new = make_release(seed=4, rows_per_partition=150)
        assert asked(client, old) == before
        listed = client.get("/v1/releases").json()["releases"]
        assert [one["is_served"] for one in listed] == [False, True]
    with serving(config) as app:
        assert asked(TestClient(app), new) != before
