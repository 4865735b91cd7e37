"""Metrics of a service that runs in one process, as Prometheus reads them. The names are those of `schemas.metrics`."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from schemas.metrics import METRICS, Metric


class Registry:
    """Keeps what is recorded, from any thread.

    Parameters
    ----------
    before : callable, optional
        Called before metrics are shown: records what is cheaper to look at now and then than to follow.
    """

    def __init__(self, before: Callable[[], None] | None = None) -> None:
        self._before, self._registry = before, CollectorRegistry()
        self._instruments = {metric.name: self._instrument(metric) for metric in METRICS}
        ProcessCollector(registry=self._registry)

    def record(self, metric: Metric, value: float = 1, **labels: str) -> None:
        """Add to a counter, set a gauge, or observe."""
        instrument = self._instruments[metric.name]
        one = instrument.labels(**labels) if labels else instrument
        if metric.kind == "counter":
            one.inc(value)
        elif metric.kind == "gauge":
            one.set(value)
        else:
            one.observe(value)

    def shown(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics in the format that the header `Accept` asks for; return them and their media type."""
        if self._before:
            self._before()
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def _instrument(self, metric: Metric) -> Any:
        if metric.kind == "histogram":
            return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry)
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.name, metric.help, metric.labels, registry=self._registry)
