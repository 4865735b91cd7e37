"""Names are asked of a resolver only where one is set, and nothing that it answers does harm."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.storage import name_resolver
from engine.storage.name_resolver import NameResolver
from schemas.errors import BusyError
from schemas.service import ServeConfig
from tests.service.conftest import Served, bearer

M31 = b"""# M31\t#Q1
#=S=Simbad (CDS, via client/server):    1     0ms
%@ 1575544
%I.0 M  31
%C.0 AGN
%J 10.684708333 +41.268750000 = 00:42:44.330000 +41:16:07.500000
%J.E [2.34 2.34 90] C 2006AJ....131.1163S
#====Done====
"""
NOTHING = b"# no\t#Q2\n#!SNV=SIMBAD: No known catalog could be found\n#====Done====\n"


class Sesame(NamedTuple):
    """A name resolver of our own."""

    url: str
    asked: list[str]


@pytest.fixture
def sesame() -> Iterator[Sesame]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name = self.path.partition("?")[2]
            if name == "elsewhere":
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/-oI/SNV?M31")
                self.end_headers()
                return
            if name == "slow":
                time.sleep(2)
            self.send_response(500 if name == "broken" else 200)
            self.end_headers()
            answers = {"no": NOTHING, "odd": b"%J 400 +41\n", "large": b"#" * 100_000, "html": b"<html>%J 1 1</html>"}
            if name == "drip":
                for _ in range(30):
                    self.wfile.write(b"#")
                    self.wfile.flush()
                    time.sleep(0.1)
            self.wfile.write(answers.get(name, M31))

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Sesame(f"http://127.0.0.1:{server.server_port}", asked)
    server.shutdown()
    server.server_close()


@pytest.fixture
def asker(make_app: Callable[..., FastAPI], token_of: Callable[..., str], sesame: Sesame) -> TestClient:
    return TestClient(make_app(name_resolver=f"{sesame.url}/"), headers=bearer(token_of("read")))


def test_a_name_has_its_position_and_is_asked_about_once(asker: TestClient, sesame: Sesame) -> None:
    for _ in range(2):
        found = asker.get("/v1/resolve", params={"name": "M 31 & more/../"})
        assert found.json() == {"name": "M 31 & more/../", "ra_deg": 10.684708333, "dec_deg": 41.26875}
    assert sesame.asked == ["/-oI/SNV?M%2031%20%26%20more%2F..%2F"]


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("no", 404, "unknown-name"),
        ("html", 404, "unknown-name"),
        ("odd", 503, "unavailable"),
        ("large", 503, "unavailable"),
        ("broken", 503, "unavailable"),
        ("elsewhere", 503, "unavailable"),
        ("", 422, "invalid"),
        ("x" * 129, 422, "invalid"),
        ("M31\r\nHost: elsewhere", 422, "invalid"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_whatever_the_resolver_answers_is_a_problem_at_worst(
    asker: TestClient, sesame: Sesame, name: str, status: int, reason: str
) -> None:
    answer = asker.get("/v1/resolve", params={"name": name})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert sesame.url not in answer.text
    assert len(sesame.asked) == (status != 422)


def test_a_resolver_that_says_nothing_or_little_by_little_is_not_waited_for(
    asker: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_resolver, "SILENT_S", 0.3)
    monkeypatch.setattr(name_resolver, "WITHIN_S", 0.5)
    for name in ("slow", "drip"):
        assert asker.get("/v1/resolve", params={"name": name}).status_code == 503


def test_few_ask_at_once() -> None:
    resolver = NameResolver("http://127.0.0.1:1")
    for _ in range(name_resolver.AT_ONCE):
        resolver._room.acquire()
    with pytest.raises(BusyError):
        resolver.resolve("M31")


def test_without_a_resolver_nothing_is_asked(reader: TestClient) -> None:
    answer = reader.get("/v1/resolve", params={"name": "M31"})
    assert (answer.status_code, answer.json()["reason"]) == (404, "no-resolver")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x", "http://a:b@c/", "https://x/?q=", "x", "https://x/ "])
def test_a_resolver_is_asked_over_http_alone(served: Served, url: str) -> None:
    with pytest.raises(ValueError, match="name_resolver"):
        ServeConfig(release=str(served.output), name_resolver=url)
