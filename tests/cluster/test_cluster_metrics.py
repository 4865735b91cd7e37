"""What is counted adds up, whoever collects it; Ray shows it under the names of the schema."""

import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from engine.cluster import ray_metrics
from engine.cluster.batching import Batches
from engine.cluster.metrics import collecting, counted, record, record_store_requests
from engine.cluster.turns import Turns
from engine.storage.store import Store
from schemas.errors import BusyError
from schemas.manifest import Commit
from schemas.metrics import (
    ATTEMPTS_LOST,
    BATCH_FILL,
    METRICS,
    QUEUE_DEPTH,
    ROWS,
    STORE_REQUESTS,
    UNIT_SECONDS,
    UNITS,
    Metric,
)

Recorded = list[tuple[Metric, float, dict[str, str]]]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    """Everything that is recorded while a test runs."""
    found: Recorded = []
    with collecting(lambda metric, value=1, **labels: found.append((metric, value, labels))):
        yield found


def total(recorded: Recorded, metric: Metric, **labels: str) -> float:
    return sum(value for one, value, its in recorded if one == metric and labels.items() <= its.items())


def commit(unit: str, n_ok: int, attempt: int = 1, **rejected: int) -> Commit:
    return Commit(
        unit=unit,
        attempt=attempt,
        n_planned=n_ok + sum(rejected.values()),
        n_ok=n_ok,
        rejected=rejected,
        ok_digest="",
        rejected_digest="",
        files=[],
        durations_s={"total": 3.0, "encode": 2.0, "decode": 0.5},
    )


def test_commits_are_counted_as_they_pass_by_outcome_and_lost_attempts(recorded: Recorded) -> None:
    commits = [commit("a", 7), commit("b", 0, 3, decode_error=2, not_found=1), commit("c", 5)]
    assert list(counted("embed", 3, iter(commits))) == commits
    assert total(recorded, ROWS, stage="embed", outcome="ok") == 12
    assert total(recorded, ROWS, outcome="decode_error") == 2
    assert total(recorded, ROWS) == sum(one.n_planned for one in commits)
    assert total(recorded, ATTEMPTS_LOST) == 2
    assert total(recorded, UNIT_SECONDS) == 9.0
    left = [value for one, value, labels in recorded if one == UNITS and labels["state"] == "left"]
    assert left == [3, 2, 1, 0]


def test_a_run_of_nothing_has_nothing_left(recorded: Recorded) -> None:
    assert list(counted("embed", 0, iter([]))) == []
    assert [(value, labels["state"]) for _, value, labels in recorded] == [(0, "done"), (0, "left")]


def test_every_label_that_is_recorded_is_one_of_the_metric(recorded: Recorded) -> None:
    list(counted("embed", 1, [commit("a", 1, 2, shape=1)]))
    assert {metric for metric, *_ in recorded} > {ROWS, UNITS, UNIT_SECONDS, ATTEMPTS_LOST}
    for metric, _, labels in recorded:
        assert set(labels) == set(metric.labels)


def test_nothing_happens_where_nobody_collects_and_after_a_block(recorded: Recorded) -> None:
    inner: Recorded = []
    with collecting(lambda metric, value=1, **labels: inner.append((metric, value, labels))):
        record(QUEUE_DEPTH, 3, queue="x")
    record(QUEUE_DEPTH, 0, queue="x")
    assert [value for _, value, _ in inner] == [3]
    assert [value for _, value, _ in recorded] == [3, 0]


def test_calls_that_wait_are_counted_and_batches_say_how_full_they_are(recorded: Recorded) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def answer(kind: str, items: list[int]) -> list[int]:
        begun.set()
        assert go_on.wait(60)
        return items

    together: Batches[int, int] = Batches(answer)
    threads = [threading.Thread(target=together, args=("kind", number)) for number in range(5)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    depth = [0.0]
    while max(depth) < 4:
        depth = [value for metric, value, _ in recorded if metric == QUEUE_DEPTH]
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert [value for metric, value, _ in recorded if metric == QUEUE_DEPTH][-1] == 0
    assert [value * 64 for metric, value, _ in recorded if metric == BATCH_FILL] == [1, 4]


def test_who_waits_for_a_turn_is_counted_and_who_is_sent_away_is_not(recorded: Recorded) -> None:
    turns = Turns("pictures", 1, 1, "drawn")
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        with turns.one():
            pass

    waiting = threading.Thread(target=wait)
    with turns.one():
        waiting.start()
        while not [value for *_, value, labels in recorded[2:] if value == 1 and labels == {"queue": "drawn"}]:
            time.sleep(0.01)
        with pytest.raises(BusyError), turns.one():
            pass
    waiting.join(60)
    assert [value for _, value, _ in recorded] == [1, 0, 1, 0]


def test_requests_to_stores_are_recorded_once(s3_server: str, recorded: Recorded) -> None:
    record_store_requests()
    recorded.clear()
    store = Store(f"{s3_server}/metrics")
    store.write("a", b"a")
    record_store_requests()
    n = total(recorded, STORE_REQUESTS, outcome="answered")
    assert n >= 1
    record_store_requests()
    assert total(recorded, STORE_REQUESTS) == n


def test_what_a_stage_asks_of_stores_is_recorded_also_where_it_fails(s3_server: str, recorded: Recorded) -> None:
    from engine.cluster.stream import _measured

    class Stage:
        def __init__(self, answer: str) -> None:
            self.answer = answer

        def __call__(self, row: str) -> str:
            if not Store(f"{s3_server}/metrics").exists(row):
                raise ValueError(row)
            return self.answer

    made = _measured(Stage)("there")
    assert _measured(Stage).__name__ == "Stage"
    assert isinstance(made, Stage)
    Store(f"{s3_server}/metrics").write("b", b"b")
    record_store_requests()
    for stage in (made, _measured(lambda row: made.answer if Stage.__call__(made, row) else "")):
        recorded.clear()
        assert stage("b") == "there"
        assert total(recorded, STORE_REQUESTS, outcome="answered") >= 1
        recorded.clear()
        with pytest.raises(ValueError, match="missing"):
            stage("missing")
        assert total(recorded, STORE_REQUESTS, outcome="answered") >= 1


def test_without_a_cluster_nothing_goes_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_metrics.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_metrics, "_instrument", None)
    ray_metrics.to_ray(ROWS, 1, stage="embed", outcome="ok")


@pytest.mark.cluster
def test_ray_shows_what_drivers_and_workers_count_under_the_names_of_the_schema(ray_session: None) -> None:
    import ray

    from engine.cluster.stream import stream

    def work(row: dict[str, int]) -> dict[str, int]:
        record(BATCH_FILL, 0.5, of="encoder")
        return row

    def shown() -> dict[str, dict[str, float]]:
        with suppress(OSError), urllib.request.urlopen(address, timeout=10) as answer:
            return parsed(answer.read().decode())
        return {}

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    list(counted("shown", 1, [commit("a", 7, 2, decode_error=2)]))
    assert len(list(stream([{"number": 0}], {"fn": work}))) == 1
    wanted = {"ray_voorwerp_rows_total", "ray_voorwerp_units", "ray_voorwerp_batch_fill_bucket"}
    found = shown()
    until = time.monotonic() + 180  # Ray hands metrics on every ten seconds.
    while not wanted <= found.keys() and time.monotonic() < until:
        time.sleep(0.5)
        found = shown()
    assert wanted <= found.keys()
    known = {f"ray_{series}" for metric in METRICS for series in metric.series}
    assert {name for name in found if name.startswith("ray_voorwerp_")} <= known
    rows = {labels: value for labels, value in found["ray_voorwerp_rows_total"].items() if 'stage="shown"' in labels}
    assert sorted(rows.values()) == [2, 7]
    assert {re.search(r'outcome="(\w+)"', labels)[1] for labels in rows} == {"ok", "decode_error"}  # type: ignore[index]


def parsed(text: str) -> dict[str, dict[str, float]]:
    """Names, labels and values of what an agent shows."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in re.findall(r"^(\w+)(\{.*\})? (\S+)", text, flags=re.MULTILINE):
        found.setdefault(name, {})[labels] = float(value)
    return found
