"""Metrics through Ray: its agent on every node shows them, with `ray_` before each name, to whoever collects."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from engine.cluster.metrics import collect, record_store_requests
from schemas.metrics import Metric


def to_ray(metric: Metric, value: float = 1, **labels: str) -> None:
    """Record in Ray, where this process is connected to it."""
    if not ray.is_initialized():
        return
    instrument = _instrument(metric)
    if metric.kind == "counter":
        if value > 0:
            instrument.inc(value, labels)
    elif metric.kind == "gauge":
        instrument.set(value, labels)
    else:
        instrument.observe(value, labels)


@contextmanager
def measured() -> Iterator[None]:
    """Let Ray collect from this worker, and record what the block asked of stores, however it ends."""
    collect(to_ray)
    try:
        yield
    finally:
        record_store_requests()


@cache
def _instrument(metric: Metric) -> Any:
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, list(metric.buckets), metric.labels)
    return (Counter if metric.kind == "counter" else Gauge)(metric.name, metric.help, metric.labels)
