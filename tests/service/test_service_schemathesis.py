"""Whatever is sent to any route, the service answers as its own description says, and never fails."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engine.service.app import OPENAPI
from engine.storage.tokens import open_tokens
from jobs.serve import serving
from schemas.service import SCOPES, Problem, ServeConfig
from tests.service.conftest import Served, bearer

CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXPECTED_FAILURES = {501: "no-encoder", 503: "busy"}
"""Of this release, which has no encoder; and 503 where many wait, or nothing else can answer."""
EXAMPLES = {GenerationMode.POSITIVE: 25, GenerationMode.NEGATIVE: 12}


class Described(NamedTuple):
    """A service, and who may ask it everything."""

    app: FastAPI
    headers: dict[str, str]


@pytest.fixture(scope="module")
def described(served: Served, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    """The whole service as the command serves it, over a database of its own."""
    database = tmp_path_factory.mktemp("schemathesis") / "campaigns.sqlite"
    database.write_bytes(empty_database.read_bytes())
    config = ServeConfig(release=str(served.output), database=str(database), rate_per_minute=1_000_000)
    with serving(config) as app, closing(open_tokens(str(database))) as tokens:
        yield Described(app, bearer(tokens.create("everything", SCOPES, "ann")))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", EXAMPLES, ids=lambda mode: mode.value)
def test_every_route_answers_as_its_description_says(
    described: Described, served: Served, mode: GenerationMode, subtests: pytest.Subtests
) -> None:
    app, headers = described
    schema = schemathesis.openapi.from_asgi(OPENAPI, app, headers=headers)
    known = {"object_id": served.id(0), "name": "odd", "kind": "index", "release": served.release.id}
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        names = [parameter.name for parameter in operation.path_parameters]
        fixed = {name: value for name, value in known.items() if name in names}
        cases = operation.as_strategy(generation_mode=mode, headers=headers)
        if fixed and mode is GenerationMode.POSITIVE:
            there = operation.as_strategy(generation_mode=mode, headers=headers, path_parameters=fixed)
            cases = st.one_of(there, cases)
        with subtests.test(operation.label), suppress(Unsatisfiable):  # Nothing is wrong where nothing is asked for.
            _try(cases, EXAMPLES[mode], headers)


@pytest.mark.timeout(600)
def test_good_questions_are_answered_as_their_description_says(described: Described, served: Served) -> None:
    app, headers = described
    schema = schemathesis.openapi.from_asgi(OPENAPI, app, headers=headers)
    ids, cone = [served.id(3), "unknown"], {"ra_deg": 0, "dec_deg": 10, "radius_arcsec": 3600}
    good: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/neighbours", {"query": {"id": ids[0], "k": 3, "where": "mag_r > 1", "approximate": 0.1}}),
        ("GET", "/v1/neighbours", {"query": {"ra": 0.0001, "dec": 10, "exclusion_radius_arcsec": 1}}),
        ("POST", "/v1/neighbours", {"body": {"ids": ids, "k": 3, "cone": cone, "moc": "0/0-11"}}),
        ("POST", "/v1/neighbours", {"body": {"vectors": served.vectors[:2].tolist()}}),
        ("GET", "/v1/cone", {"query": {"ra": 0, "dec": 10, "radius_arcsec": 3600}}),
        ("GET", "/v1/objects/{object_id}", {"path_parameters": {"object_id": served.id(9)}}),
        ("GET", "/v1/scs", {"query": {"RA": 0, "DEC": 10, "SR": 1}}),
        ("POST", "/v1/campaigns", {"body": {"name": "good", "config": {"space": "search"}}}),
        ("POST", "/v1/campaigns/{name}/next", {"path_parameters": {"name": "good"}, "body": {"n": 3}}),
        ("GET", "/v1/campaigns/{name}/ranking", {"path_parameters": {"name": "good"}}),
    ]
    for method, path, given_parts in good:
        parts = {"media_type": "application/json", **given_parts} if "body" in given_parts else given_parts
        formats = ["json", "votable", "csv", "parquet"] if _has_format(schema[path][method]) else [None]
        for kind in formats:
            query = parts.get("query", {}) | ({"format": kind} if kind else {})
            case = schema[path][method].Case(**{**parts, "query": query})
            response = case.call(headers=headers)
            assert response.status_code in (200, 201), (path, response.content[:500])
            case.validate_response(response, checks=CHECKS)


def _has_format(operation: Any) -> bool:
    return any(parameter.name == "format" for parameter in operation.query)


def _try(cases: Any, n: int, headers: dict[str, str]) -> None:
    @settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def answers_as_described(case: Case) -> None:
        response = case.call(headers=headers)
        asked = f"{case.method} {case.formatted_path} {case.query} {str(case.body)[:500]}"
        about = f"{asked}: {response.status_code} {response.content[:500]!r}"
        if response.status_code >= 400:
            problem = Problem.model_validate_json(response.content)
            assert response.headers["content-type"] == ["application/problem+json"], about
            assert problem.status == response.status_code, about
        else:
            assert str(response.status_code) in case.operation.definition.raw["responses"], about
        if response.status_code >= 500:
            assert EXPECTED_FAILURES.get(response.status_code) == problem.reason, about
        case.validate_response(response, checks=CHECKS)

    answers_as_described()
