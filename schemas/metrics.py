"""Every metric, declared once: what a job counts while it runs, and what a service does.

Names are those that queries use. A process that runs under Ray hands its numbers to Ray, which puts `ray_` before each
name; `deploy/monitoring/prometheus.yaml` takes that away when they are collected.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

MetricKind = Literal["counter", "gauge", "histogram"]
Source = Literal["job", "service"]
_SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG_S = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Metric(NamedTuple):
    """One metric."""

    name: str
    """Without the endings that a counter and a histogram get when they are shown; see `series`."""
    kind: MetricKind
    unit: str
    labels: tuple[str, ...]
    help: str
    sources: tuple[Source, ...]
    """What counts it."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the series that a query can ask for."""
        if self.kind == "counter":
            return (f"{self.name}_total",)
        if self.kind == "histogram":
            return tuple(f"{self.name}_{ending}" for ending in ("bucket", "sum", "count"))
        return (self.name,)


Recorder = Callable[..., None]
"""Takes a metric, a value and labels by keyword: adds to a counter, sets a gauge, or observes."""

ROWS = Metric(
    "voorwerp_rows",
    "counter",
    "rows",
    ("stage", "outcome"),
    "Rows of units that this run committed, by what came of them: ok, or why not",
    ("job",),
)
UNITS = Metric(
    "voorwerp_units",
    "gauge",
    "units",
    ("stage", "state"),
    "Units of work of this run: done by it, and left to do",
    ("job",),
)
UNIT_SECONDS = Metric(
    "voorwerp_unit_seconds",
    "histogram",
    "seconds",
    ("stage",),
    "Time that a unit took from its beginning to its commit",
    ("job",),
    _LONG_S,
)
ATTEMPTS_LOST = Metric(
    "voorwerp_attempts_lost",
    "counter",
    "attempts",
    ("stage",),
    "Attempts at committed units that died with their worker and were made again",
    ("job",),
)
DECODE_SECONDS = Metric(
    "voorwerp_decode_seconds",
    "counter",
    "seconds",
    ("stage",),
    "Time that workers waited for cutouts to be read and decoded",
    ("job",),
)
ENCODE_SECONDS = Metric(
    "voorwerp_encode_seconds", "counter", "seconds", ("stage",), "Time that workers spent encoding", ("job",)
)
BATCH_FILL = Metric(
    "voorwerp_batch_fill",
    "histogram",
    "ratio",
    ("of",),
    "How full batches are, of what one may hold: views of the encoder on CPUs, questions that are searched together",
    ("job", "service"),
    (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0),
)
STORE_REQUESTS = Metric(
    "voorwerp_store_requests",
    "counter",
    "requests",
    ("outcome",),
    "Requests to object stores by what came of them: answered, retried, or given_up after the last try",
    ("job", "service"),
)
REQUESTS = Metric(
    "voorwerp_requests",
    "counter",
    "requests",
    ("route", "method", "status"),
    "Requests that were answered",
    ("service",),
)
REQUEST_SECONDS = Metric(
    "voorwerp_request_seconds",
    "histogram",
    "seconds",
    ("route", "method"),
    "Time from a request to the end of its answer",
    ("service",),
    _SHORT_S,
)
QUEUE_DEPTH = Metric(
    "voorwerp_queue_depth",
    "gauge",
    "requests",
    ("queue",),
    "What waits: for a search, for a turn at pictures, images, tables, filtered questions or campaigns; bulk queries "
    "that have not ended (jobs); and all requests that are being answered (requests)",
    ("service",),
)
FIT_SECONDS = Metric(
    "voorwerp_fit_seconds",
    "histogram",
    "seconds",
    (),
    "Time that learning from ratings took: a fit of the Gaussian process",
    ("job", "service"),
    _SHORT_S,
)
RATINGS = Metric(
    "voorwerp_ratings",
    "counter",
    "ratings",
    ("kind",),
    "Ratings that were recorded (rate) and taken back (undo); a request that is sent again counts again",
    ("service",),
)

METRICS = (
    ROWS,
    UNITS,
    UNIT_SECONDS,
    ATTEMPTS_LOST,
    DECODE_SECONDS,
    ENCODE_SECONDS,
    BATCH_FILL,
    STORE_REQUESTS,
    REQUESTS,
    REQUEST_SECONDS,
    QUEUE_DEPTH,
    FIT_SECONDS,
    RATINGS,
)


def no_recorder(metric: Metric, value: float = 1, **labels: str) -> None:
    """Record nothing."""
