"""Nobody gets further than they may: tokens, scopes, rates, sizes, headers, and what is logged."""

import asyncio
import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from engine.service import limits
from engine.service.app import OPENAPI
from engine.service.limits import DailyQuota, RateLimit
from engine.service.security import HEALTH
from engine.storage.tokens import TokenStore
from tests.service.conftest import Served, bearer

Make = Callable[..., FastAPI]
Create = Callable[..., str]


class Clock:
    """Seconds that go by when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def operations(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of everything that the service says it does."""
    for path, item in app.openapi()["paths"].items():
        for method in item:
            named = re.sub("{object_id}|{job}", "1", path).format(name="odd", kind="index", release="0" * 16)
            yield method.upper(), named


def test_every_route_of_data_asks_for_a_token(make_app: Make) -> None:
    app = make_app()
    client, found = TestClient(app), list(operations(app))
    assert len(found) > 20
    for method, path in [*found, ("GET", OPENAPI), ("GET", "/page/"), ("GET", "/docs"), ("OPTIONS", "/v1/release")]:
        answer = client.request(method, path)
        if path == HEALTH:
            assert answer.json() == {"status": "ok"}
        else:
            assert (answer.status_code, answer.json()["reason"]) == (401, "unauthorised"), path
            assert answer.headers["www-authenticate"] == 'Bearer realm="voorwerp"'


def test_a_token_that_allows_nothing_else_opens_no_route(make_app: Make, token_of: Create) -> None:
    app = make_app()
    client = TestClient(app, headers=bearer(token_of("admin")))
    headers = {"Idempotency-Key": "k"}
    for method, path in operations(app):
        if path != HEALTH and (method, path) != ("POST", "/v1/campaigns"):  # Which is what an admin may do.
            content = {"ids": ["1"], "ratings": [{"object_id": "1", "rating": 1}]} if method == "POST" else None
            answer = client.request(method, path, json=content, headers=headers)
            assert answer.status_code == 403, path
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/v1/health/", "/v1//health", "/v1/healthz", "//v1/health", "/v1/health/../release"])
def test_nothing_that_looks_like_health_is_taken_for_it(make_app: Make, path: str) -> None:
    assert TestClient(make_app()).get(path).status_code in (401, 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "{token}"},
        {"Authorization": "Basic {token}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer {token}x"},
        {"Authorization": "Bearer x{token}"},
        {"Authorization": "Bearer {token} {token}"},
        {"X-Token": "{token}"},
        {"Cookie": "token={token}"},
    ],
    ids=str,
)
def test_a_token_that_is_wrong_or_elsewhere_opens_nothing(make_app: Make, token_of: Create, headers: dict) -> None:
    token = token_of("read")
    client = TestClient(make_app(anonymous_read="Authorization" in headers))
    given = {name: value.format(token=token) for name, value in headers.items()}
    assert client.get(f"/v1/release?token={token}&access_token={token}", headers=given).status_code == 401


def test_a_token_is_taken_whatever_the_case_of_bearer_but_not_twice(make_app: Make, token_of: Create) -> None:
    token, client = token_of("read"), TestClient(make_app())
    assert client.get("/v1/release", headers={"Authorization": f"bEARER {token}"}).status_code == 200
    twice = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    assert client.get("/v1/release", headers=twice).status_code == 401


def test_a_revoked_token_opens_nothing_from_then_on(make_app: Make, token_of: Create, tokens: TokenStore) -> None:
    client = TestClient(make_app(), headers=bearer(token_of("read")))
    assert client.get("/v1/release").status_code == 200
    tokens.revoke("read")
    answer = client.get("/v1/release")
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_readers_do_not_rate_and_raters_do_not_read(make_app: Make, token_of: Create) -> None:
    app = make_app()
    reader, rater = (TestClient(app, headers=bearer(token_of(scope))) for scope in ("read", "rate"))
    assert reader.get("/v1/campaigns/odd").status_code == 200
    assert reader.post("/v1/campaigns/odd/next").status_code == 403
    assert reader.post("/v1/campaigns/odd/undo", headers={"Idempotency-Key": "k"}).status_code == 403
    assert rater.post("/v1/campaigns/odd/next").status_code == 200
    assert rater.get("/v1/release").status_code == 403
    assert rater.get("/v1/campaigns").status_code == 403


def test_where_everyone_may_read_nobody_rates_without_a_token(make_app: Make) -> None:
    client = TestClient(make_app(anonymous_read=True))
    assert client.get("/v1/release").status_code == 200
    assert client.post("/v1/campaigns/odd/next").status_code == 403
    assert client.get("/v1/campaigns/odd/ratings").status_code == 403
    assert client.get("/v1/campaigns/odd/ratings?everyone=true").status_code == 403


def test_more_than_a_token_may_ask_in_a_minute_is_put_off_and_others_are_not(make_app: Make, token_of: Create) -> None:
    clock = Clock()
    app = make_app(clock=clock, rate_per_minute=6)
    ann, bob = (TestClient(app, headers=bearer(token_of("read", name=name))) for name in ("ann", "bob"))
    assert [ann.get("/v1/release").status_code for _ in range(7)] == [200] * 6 + [429]
    answer = ann.get("/v1/release")
    assert (answer.json()["reason"], answer.headers["retry-after"]) == ("too-many", "10")
    assert bob.get("/v1/release").status_code == 200
    clock.now += 9.9
    assert ann.get("/v1/release").status_code == 429
    clock.now += 0.2
    assert [ann.get("/v1/release").status_code for _ in range(2)] == [200, 429]


def test_more_than_a_token_may_ask_in_a_day_is_put_off_until_the_next(make_app: Make, token_of: Create) -> None:
    clock = Clock()
    app = make_app(clock=clock, quota_per_day=3)
    ann, bob = (TestClient(app, headers=bearer(token_of("read", name=name))) for name in ("ann", "bob"))
    assert [ann.get("/v1/release").status_code for _ in range(4)] == [200] * 3 + [429]
    clock.now += 3600
    answer = ann.get("/v1/release")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, str(23 * 3600))
    assert bob.get("/v1/release").status_code == 200
    clock.now += 23 * 3600
    assert [ann.get("/v1/release").status_code for _ in range(4)] == [200] * 3 + [429]


def test_without_tokens_each_address_has_its_rate_and_none_shares_that_of_a_token(
    make_app: Make, token_of: Create
) -> None:
    app = make_app(clock=Clock(), rate_per_minute=2, anonymous_read=True)
    here, there = (TestClient(app, client=(address, 1)) for address in ("192.0.2.1", "192.0.2.2"))
    assert [here.get("/v1/release").status_code for _ in range(3)] == [200, 200, 429]
    assert there.get("/v1/release").status_code == 200
    assert here.get("/v1/release", headers=bearer(token_of("read", name="192.0.2.1"))).status_code == 200


@given(st.lists(st.tuples(st.floats(0, 90), st.integers(1, 30)), max_size=30), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_in_no_stretch_of_time_more_is_allowed_than_a_minutes_worth_and_what_time_adds(
    bursts: list[tuple[float, int]], per_minute: int
) -> None:
    clock = Clock()
    rate, allowed = RateLimit(per_minute, clock), []
    for pause_s, n in bursts:
        clock.now += pause_s
        for _ in range(n):
            wait_s = rate.take("ann")
            if not wait_s:
                allowed.append(clock.now)
            assert 0 <= wait_s <= 60 / per_minute + 1e-9
    for first, since in enumerate(allowed):
        for last in range(first, len(allowed)):
            assert last - first + 1 <= per_minute + (allowed[last] - since) * per_minute / 60 + 1e-6


@given(st.lists(st.tuples(st.floats(0, 2e5), st.integers(1, 4)), max_size=30), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_a_quota_allows_each_day_what_it_says_and_says_when_there_is_more(
    bursts: list[tuple[float, int]], per_day: int
) -> None:
    clock = Clock()
    quota, allowed = DailyQuota(per_day, clock), []
    for pause_s, n in bursts:
        clock.now += pause_s
        for _ in range(n):
            if wait_s := quota.take("ann"):
                assert 0 < wait_s <= 86_400 + 1e-6
            else:
                allowed.append(clock.now)
    # A day begins with its first request, so that two of them may meet.
    assert all(last - first > 0 for first, last in zip(allowed, allowed[2 * per_day :], strict=False))
    clock.now += 86_401
    assert [bool(quota.take("ann")) for _ in range(per_day + 1)] == [False] * per_day + [True]


def test_callers_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_CALLERS", 3)
    rate = RateLimit(1, Clock())
    assert rate.take("ann") == 0
    assert rate.take("ann") > 0
    for caller in "bcd":
        rate.take(caller)
    assert len(rate._left) == 3
    assert rate.take("ann") == 0


def call(
    app: FastAPI, path: str, headers: dict[str, str], messages: list[dict[str, Any]]
) -> tuple[int, dict[str, Any], int]:
    """Send a request as its parts; return status, problem, and how many parts were taken."""
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("192.0.2.1", 1)}
    taken, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        if taken > len(messages):
            await asyncio.sleep(10)
        return messages[taken - 1]

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    if not sent:
        return 0, {}, taken
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent)), taken


def part(n_bytes: int, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": b"1" * n_bytes, "more_body": more}


def test_a_body_that_says_it_is_too_large_is_refused_unread(make_app: Make, token_of: Create) -> None:
    app, headers = make_app(max_body_bytes=2000), bearer(token_of("read"))
    for length in ("2001", "99999999999999999999", "-1", "1e3", "0x10"):
        status, problem, taken = call(app, "/v1/neighbours", {**headers, "Content-Length": length}, [part(10)])
        assert (status, problem["reason"], taken) == (413, "too-large", 0)


def test_a_body_is_counted_whatever_it_says_and_refused_at_the_first_byte_too_many(
    make_app: Make, token_of: Create
) -> None:
    app, headers = make_app(max_body_bytes=2000), bearer(token_of("read"))
    for told in ({}, {"Content-Length": "10"}):
        status, problem, taken = call(app, "/v1/neighbours", {**headers, **told}, [part(900)] * 100)
        assert (status, problem["reason"], taken) == (413, "too-large", 3)
    status, problem, _ = call(app, "/v1/neighbours", headers, [part(1000), part(1000, more=False)])
    assert (status, problem["reason"]) == (422, "invalid")


def test_chunks_over_the_wire_are_counted(make_app: Make, token_of: Create) -> None:
    client = TestClient(make_app(max_body_bytes=2000), headers=bearer(token_of("read")))
    answer = client.post("/v1/neighbours", content=(b"1" * 500 for _ in range(5)))
    assert (answer.status_code, answer.json()["reason"]) == (413, "too-large")
    assert client.get("/v1/release").status_code == 200


def test_without_a_token_no_byte_of_a_body_is_read(make_app: Make) -> None:
    status, problem, taken = call(make_app(), "/v1/neighbours", {}, [part(10)])
    assert (status, problem["reason"], taken) == (401, "unauthorised", 0)


def test_a_body_that_never_ends_is_waited_for_no_longer_than_is_said(
    make_app: Make, token_of: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.05)
    status, problem, _ = call(make_app(), "/v1/neighbours", bearer(token_of("read")), [part(10)])
    assert (status, problem["reason"]) == (408, "timeout")


def test_a_client_that_leaves_in_the_middle_is_not_answered(make_app: Make, token_of: Create) -> None:
    left = [part(10), {"type": "http.disconnect"}]
    assert call(make_app(), "/v1/neighbours", bearer(token_of("read")), left)[0] == 0


def test_more_requests_at_once_than_there_is_room_for_are_put_off_unread(make_app: Make, token_of: Create) -> None:
    app, headers = make_app(most_at_once=2), [(b"authorization", bearer(token_of("read"))["Authorization"].encode())]
    scope = {"type": "http", "method": "GET", "path": "/v1/release", "raw_path": b"", "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("t", 80), "client": None}

    async def ask(is_slow: bool) -> tuple[int, dict[bytes, bytes]]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.3 if is_slow else 0)
            return part(0, more=False)

        async def send(message: Any) -> None:
            sent.append(message)

        await app(dict(scope), receive, send)
        return sent[0]["status"], dict(sent[0]["headers"])

    async def together() -> list[tuple[int, dict[bytes, bytes]]]:
        slow = [asyncio.create_task(ask(True)) for _ in range(2)]
        await asyncio.sleep(0.1)
        return [*await asyncio.gather(ask(False)), *await asyncio.gather(*slow), *await asyncio.gather(ask(False))]

    found = asyncio.run(together())
    assert [status for status, _ in found] == [429, 200, 200, 200]
    assert found[0][1][b"retry-after"] == b"1"


def test_every_answer_carries_the_headers_that_keep_browsers_from_running_it(
    make_app: Make, token_of: Create, served: Served
) -> None:
    headers = bearer(token_of("read"))
    client = TestClient(make_app(max_body_bytes=2000), headers=headers)
    answers = [
        client.get("/v1/release"),
        client.get("/v1/health"),
        client.get(f"/v1/objects/{served.id(0)}/cutout.jpg"),
        client.get("/v1/nothing"),
        client.post("/v1/release"),
        client.get("/v1/cone"),
        client.post("/v1/neighbours", content=b"1" * 2001),
        client.get("/v1/release", headers={"Authorization": "no"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 405, 422, 413, 401]
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.headers["x-request-id"]) == 32
        assert "server" not in answer.headers
    kept = [answer.headers["cache-control"] for answer in answers]
    assert [kept[2], *{*kept[:2], *kept[3:]}] == ["private, max-age=3600", "no-store"]


def test_pages_of_other_sites_may_not_ask_unless_they_are_named(make_app: Make, token_of: Create) -> None:
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}
    asks |= {"Access-Control-Request-Headers": "authorization"}
    closed = TestClient(make_app())
    answer = closed.options("/v1/release", headers=asks)
    assert answer.status_code == 401
    token = bearer(token_of("read"))
    for found in (answer, closed.get("/v1/release", headers={**token, "Origin": "https://example.org"})):
        assert not any(name.startswith("access-control") for name in found.headers)
    opened = TestClient(make_app(cors_origins=["https://example.org"]))
    allowed = opened.options("/v1/release", headers=asks)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://example.org")
    assert "access-control-allow-credentials" not in allowed.headers
    other = opened.options("/v1/release", headers={**asks, "Origin": "https://example.com"})
    assert "access-control-allow-origin" not in other.headers
    assert opened.get("/v1/release", headers={"Origin": "https://example.org"}).status_code == 401


@pytest.mark.parametrize("origin", ["*", "example.org", "https://*", "https://example.org/", "null", "file:///x"])
def test_sites_are_named_exactly(make_app: Make, origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        make_app(cors_origins=[origin])


def test_each_request_is_one_json_line_without_tokens_wherever_they_were_put(
    make_app: Make, token_of: Create, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_of("read", "rate", name="ann-laptop", rater="ann")
    secret = token.rpartition(".")[2]
    client = TestClient(make_app(), headers=bearer(token), client=("192.0.2.1", 1))
    with caplog.at_level(logging.DEBUG):
        client.get("/v1/release")
        client.get(f"/v1/release?token={token}")
        client.get(f"/v1/objects/{token}")
        client.get(f"/{token}")
        client.get("/v1/release", headers={"Authorization": f"Basic {token}"})
        client.post("/v1/campaigns/odd/next", content=token)
        client.post("/v1/campaigns/odd/rate", headers={"Idempotency-Key": token}, json={"ratings": []})
    logged = [one.getMessage() for one in caplog.records if not one.name.startswith("http")]  # The client's own.
    assert secret not in "\n".join(logged)
    lines = [json.loads(one.message) for one in caplog.records if one.name == "voorwerp.audit"]
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("GET", "/v1/release", 200),
        ("GET", "/v1/release", 200),
        ("GET", "/v1/objects/{object_id}", 404),
        ("GET", None, 404),
        ("GET", None, 401),
        ("POST", "/v1/campaigns/{name}/next", 422),
        ("POST", "/v1/campaigns/{name}/rate", 422),
    ]
    assert {(line["caller"], line["rater"]) for line in lines if line["status"] != 401} == {("ann-laptop", "ann")}
    assert {line["address"] for line in lines} == {"192.0.2.1"}
    assert len({line["request"] for line in lines}) == 7
    assert all(line["bytes"] > 0 and line["milliseconds"] >= 0 for line in lines)


@pytest.mark.fault(38, "a database of tokens that fails")
def test_a_database_that_fails_lets_nobody_in_and_is_not_described(
    make_app: Make, token_of: Create, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(make_app(), headers=bearer(token_of("read")))
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("ALTER TABLE tokens RENAME TO hidden")
    answer = client.get("/v1/release")
    assert f"request {answer.json()['request']}: database" in caplog.text
    assert (answer.status_code, answer.json()["reason"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert "sqlite" not in answer.text
    assert client.get(HEALTH).status_code == 200


def test_websockets_are_closed_at_once(make_app: Make, token_of: Create) -> None:
    from starlette.websockets import WebSocketDisconnect

    client = TestClient(make_app(), headers=bearer(token_of("read")))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/release"):
        pass
