"""What a service counts, who may read it, and that it can be read when nobody else is let in."""

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families as families
from starlette.testclient import TestClient

from engine.cluster.metrics import collecting
from engine.service.metrics import Registry
from engine.service.security import HEALTH, METRICS
from engine.storage.campaigns import CampaignStore
from schemas.metrics import METRICS as DECLARED
from schemas.metrics import QUEUE_DEPTH, RATINGS, REQUEST_SECONDS
from tests.service.conftest import Served, bearer

Make = Callable[..., FastAPI]
Create = Callable[..., str]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(client: TestClient, token: str) -> Samples:
    """What is shown: values by name and labels."""
    answer = client.get(METRICS, headers=bearer(token))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in families(answer.text)
        for one in family.samples
    }


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(value for (one, its), value in found.items() if one == name and labels.items() <= dict(its).items())


def test_requests_are_counted_by_route_method_and_status(make_app: Make, token_of: Create, served: Served) -> None:
    client, collector = TestClient(make_app(), headers=bearer(token_of("read"))), token_of("metrics")
    for _ in range(3):
        client.get("/v1/objects/" + served.id(0))
    client.get("/v1/objects/unknown")
    client.get("/v1/no-such-route")
    client.request("BREW", "/v1/release")
    found = samples(client, collector)
    route = "/v1/objects/{object_id}"
    assert total(found, "voorwerp_requests_total", route=route, method="GET", status="200") == 3
    assert total(found, "voorwerp_requests_total", route=route, status="404") == 1
    assert total(found, "voorwerp_requests_total", route="none") == 1
    assert total(found, "voorwerp_requests_total", method="other") == 1
    assert total(found, "voorwerp_request_seconds_count", route=route) == 4
    assert total(found, "voorwerp_queue_depth", queue="requests") == 1  # This one.


def test_no_value_of_a_label_is_what_a_caller_wrote(make_app: Make, token_of: Create) -> None:
    client, collector = TestClient(make_app(), headers=bearer(token_of("read"))), token_of("metrics")
    client.get("/v1/objects/secretly")
    client.get("/secretly?secretly=secretly")
    client.request("SECRETLY", "/v1/release")
    assert "secretly" not in client.get(METRICS, headers=bearer(collector)).text.lower()


def test_only_tokens_of_scope_metrics_read_metrics_and_they_read_nothing_else(make_app: Make, token_of: Create) -> None:
    client = TestClient(make_app(anonymous_read=True))
    assert client.get(METRICS).status_code == 403
    assert client.get(METRICS, headers=bearer("nobody.0000")).status_code == 401
    for scope in ("read", "rate", "admin"):
        assert client.get(METRICS, headers=bearer(token_of(scope))).status_code == 403
    collector = bearer(token_of("metrics"))
    assert client.get(METRICS, headers=collector).status_code == 200
    assert client.post(METRICS, headers=collector).status_code == 405
    for path in ("/v1/release", "/v1/campaigns"):
        assert client.get(path, headers=collector).status_code == 403
    assert TestClient(make_app()).get(METRICS).status_code == 401


def test_a_collector_is_let_in_however_often_it_asks_and_when_there_is_no_room(
    make_app: Make, token_of: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(rate_per_minute=2, quota_per_day=3)
    client, collector, reader = TestClient(app), bearer(token_of("metrics")), bearer(token_of("read"))
    assert {client.get(METRICS, headers=collector).status_code for _ in range(9)} == {200}
    assert [client.get("/v1/release", headers=reader).status_code for _ in range(3)] == [200, 200, 429]

    full = make_app(most_at_once=1)
    client = TestClient(full)
    client.get(HEALTH)
    gate = full.middleware_stack
    while type(gate).__name__ != "Gate":
        gate = gate.app if hasattr(gate, "app") else gate._app  # type: ignore[union-attr]
    monkeypatch.setattr(gate, "_inside", 1)
    assert client.get("/v1/release", headers=reader).status_code == 429
    assert client.get(METRICS, headers=collector).status_code == 200
    monkeypatch.setattr(gate, "_inside", 100)  # Nor do others get in by its door.
    assert client.get(METRICS, headers=collector).status_code == 429


def test_a_rating_and_what_is_learned_from_it_are_counted(
    make_app: Make, token_of: Create, served: Served, store: CampaignStore
) -> None:
    registry = Registry()
    client = TestClient(make_app(), headers=bearer(token_of("read", "rate")))
    with collecting(registry.record):
        ratings = [{"object_id": served.id(row), "rating": row % 3} for row in range(6)]
        client.post("/v1/campaigns/odd/rate", json={"ratings": ratings}, headers={"Idempotency-Key": "a"})
        client.post("/v1/campaigns/odd/next", json={"n": 2})
        client.post("/v1/campaigns/odd/undo", headers={"Idempotency-Key": "b"})
        client.get("/v1/neighbours", params={"id": served.id(0), "k": 3})
    text = registry.shown("")[0].decode()
    found = {(one.name, tuple(one.labels.items())): one.value for f in families(text) for one in f.samples}
    assert found["voorwerp_ratings_total", (("kind", "rate"),)] == 6
    assert found["voorwerp_ratings_total", (("kind", "undo"),)] == 1
    assert found["voorwerp_fit_seconds_count", ()] == 1
    assert found["voorwerp_fit_seconds_sum", ()] > 0
    assert found["voorwerp_batch_fill_count", (("of", "search"),)] == 1
    assert found["voorwerp_queue_depth", (("queue", "search"),)] == 0
    assert found["voorwerp_queue_depth", (("queue", "campaigns"),)] == 0


def test_every_declared_metric_can_be_recorded_and_is_shown_under_its_names() -> None:
    calls: list[int] = []
    registry = Registry(before=lambda: calls.append(1))
    for metric in DECLARED:
        registry.record(metric, 0.5, **dict.fromkeys(metric.labels, "x"))
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        text = registry.shown(accept)[0].decode()
        for metric in DECLARED:
            assert metric.help in text
            for series in metric.series:
                assert f"\n{series}{{" in text or f"\n{series} " in text, series
    assert len(calls) == 2
    assert "process_resident_memory_bytes" in text


def test_names_and_labels_are_as_prometheus_has_them() -> None:
    assert len({metric.name for metric in DECLARED}) == len(DECLARED)
    for metric in DECLARED:
        assert metric.name.startswith("voorwerp_")
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert (metric.unit == "seconds") == metric.name.endswith("_seconds")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert not {"le", "job", "instance", "quantile"} & set(metric.labels)
    assert QUEUE_DEPTH.series == ("voorwerp_queue_depth",)
    assert RATINGS.series == ("voorwerp_ratings_total",)
    assert REQUEST_SECONDS.series[0] == "voorwerp_request_seconds_bucket"
