"""Every error is a problem document, and none tells about the inside of the service."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.cluster.serving import ReleaseSearcher
from engine.service.problems import problem_of
from schemas import errors
from schemas.service import Problem
from tests.service.conftest import Served, bearer

Make = Callable[..., FastAPI]
Create = Callable[..., str]
SECRET = "/srv/private/release"


class Failing(ReleaseSearcher):
    """A release whose every question fails."""

    def __init__(self, served: Served, error: Exception) -> None:
        super().__init__(served.release)
        self.error = error

    def neighbours(self, question: Any) -> Any:
        raise self.error


def assert_problem(answer: Any, status: int, reason: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert (problem.type, problem.status, problem.reason) == ("about:blank", status, reason)
    assert problem.title
    assert problem.detail
    assert problem.request == answer.headers["x-request-id"]
    return answer.json()


def test_what_is_wrong_with_a_request_is_said_place_by_place(reader: TestClient) -> None:
    answer = reader.post("/v1/neighbours", json={"ids": ["1"], "k": 0, "match_radius_arcsec": "far", "uri": "x"})
    problem = assert_problem(answer, 422, "invalid")
    assert {one["where"] for one in problem["errors"]} == {"body.k", "body.match_radius_arcsec", "body.uri"}
    assert all(one["said"] for one in problem["errors"])


def test_a_thousand_mistakes_are_not_listed_one_by_one(reader: TestClient) -> None:
    problem = assert_problem(reader.post("/v1/neighbours", json={"ids": [1] * 5000}), 422, "invalid")
    assert len(problem["errors"]) == 20


def test_routes_and_methods_that_are_not_there_are_problems_too(reader: TestClient) -> None:
    assert_problem(reader.get("/v1/nothing"), 404, "no-such-route")
    answer = reader.delete("/v1/release")
    assert_problem(answer, 405, "no-such-method")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"ids": ["\\ud800"]}', b"[" * 100_000, b'{"k": ' + b"9" * 5000]
)
def test_bodies_that_are_no_question_are_refused(reader: TestClient, body: bytes) -> None:
    answer = reader.post("/v1/neighbours", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, answer.status_code, "invalid")
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    ("error", "status", "reason", "is_told"),
    [
        (errors.ConfigError(SECRET), 422, "invalid", True),
        (errors.DataError(SECRET), 422, "invalid", True),
        (errors.InputNotFoundError(SECRET), 404, "not-found", False),
        (errors.OutputError(SECRET), 409, "conflict", False),
        (errors.BusyError(SECRET), 503, "busy", True),
        (errors.StoreError(SECRET), 503, "unavailable", False),
        (errors.IntegrityError(SECRET), 500, "internal", False),
        (errors.VoorwerpError(SECRET), 500, "internal", False),
        (RuntimeError(SECRET), 500, "internal", False),
        (MemoryError(SECRET), 500, "internal", False),
        (RecursionError(SECRET), 500, "internal", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_the_engine_has_its_status_and_tells_no_more_than_the_caller_should_know(
    make_app: Make,
    token_of: Create,
    served: Served,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    reason: str,
    is_told: bool,
) -> None:
    client = TestClient(make_app(searcher=Failing(served, error)), headers=bearer(token_of("read")))
    with caplog.at_level(logging.ERROR):
        answer = client.get("/v1/neighbours", params={"id": served.id(0)})
    problem = assert_problem(answer, status, reason)
    assert (SECRET in answer.text) == is_told
    assert "Traceback" not in answer.text
    assert (answer.headers.get("retry-after") is not None) == (status == 503)
    assert answer.headers["content-security-policy"]
    if status >= 500:
        assert any(problem["request"] in one.getMessage() for one in caplog.records)
        assert SECRET in caplog.text


def test_every_error_of_the_project_has_a_status() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert all(400 <= problem_of(kind("x")).status <= 503 for kind in kinds)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "a%0d%0aSet-Cookie:x=1",
        "'%20OR%201=1",
        "<script>alert(1)</script>",
        "s3://bucket/key",
        "file:///etc/passwd",
        "%ff%fe",
        "%F0%9F%8C%8C",
        "９",
        "-1",
        "+5",
        "1e3",
        "1_000",
        "99999999999999999999999",
        "1" * 256,
        "a/b/c",
    ],
)
def test_hostile_ids_and_names_are_nothing_but_unknown(reader: TestClient, served: Served, name: str) -> None:
    for path in ("/v1/objects/{}", "/v1/objects/{}/cutout.jpg", "/v1/campaigns/{}"):
        answer = reader.get(path.format(name))
        assert_problem(answer, answer.status_code, answer.json()["reason"])
        assert answer.status_code in (404, 422)
        assert str(served.output) not in answer.text
        assert "set-cookie" not in answer.headers
        assert "<script>" not in answer.text


def test_an_unknown_campaign_names_neither_the_database_nor_other_campaigns(reader: TestClient, tmp_path: Path) -> None:
    for name in ("od", "elsewhere"):
        answer = reader.get(f"/v1/campaigns/{name}")
        assert_problem(answer, 404, "not-found")
        assert str(tmp_path) not in answer.text
        assert "odd" not in answer.text
        assert "/another/release" not in answer.text


def test_the_service_says_what_its_problems_are(reader: TestClient) -> None:
    described = reader.get("/v1/openapi.json").json()
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    assert all(list(one["responses"]["default"]["content"]) == ["application/problem+json"] for one in operations)
    assert len({one["operationId"] for one in operations}) == len(operations)
