"""What this process counts while it works, handed to whoever collects it: Ray, a service, or nobody.

Nothing here knows who that is, and counting costs a microsecond where nobody asks. Functions of compute and storage
return numbers; what calls them records those.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from engine.storage.failures import Requests, requests_made
from schemas.manifest import Commit
from schemas.metrics import (
    ATTEMPTS_LOST,
    DECODE_SECONDS,
    ENCODE_SECONDS,
    ROWS,
    STORE_REQUESTS,
    UNIT_SECONDS,
    UNITS,
    Metric,
    Recorder,
)
from schemas.tables import OK

_recorders: list[Recorder] = []
_lock = threading.Lock()
_recorded = Requests()
"""Requests to stores that were recorded before."""


def record(metric: Metric, value: float = 1, **labels: str) -> None:
    """Add to a counter, set a gauge, or observe, with everyone who collects."""
    for recorder in _recorders:
        recorder(metric, value, **labels)


def collect(recorder: Recorder) -> None:
    """Let somebody collect from now on, until this process ends."""
    if recorder not in _recorders:
        _recorders.append(recorder)


@contextmanager
def collecting(recorder: Recorder) -> Iterator[None]:
    """Let somebody collect for the length of a block; whoever collects already goes on, and collects once."""
    if recorder in _recorders:
        yield
        return
    _recorders.append(recorder)
    try:
        yield
    finally:
        _recorders.remove(recorder)


def record_commit(stage: str, commit: Commit) -> None:
    """Record a unit that was just committed."""
    if commit.n_ok:
        record(ROWS, commit.n_ok, stage=stage, outcome=OK)
    for reason, n in commit.rejected.items():
        record(ROWS, n, stage=stage, outcome=reason)
    if commit.attempt > 1:
        record(ATTEMPTS_LOST, commit.attempt - 1, stage=stage)
    for metric, part in ((DECODE_SECONDS, "decode"), (ENCODE_SECONDS, "encode")):
        if seconds := commit.durations_s.get(part):
            record(metric, seconds, stage=stage)
    if (seconds := commit.durations_s.get("total")) is not None:
        record(UNIT_SECONDS, seconds, stage=stage)


def counted(stage: str, n_units: int, commits: Iterable[Commit]) -> Iterator[Commit]:
    """Record commits as they pass, and how many of the units of this run are done and left."""
    for n_done, commit in enumerate(chain([None], commits)):
        record(UNITS, n_done, stage=stage, state="done")
        record(UNITS, n_units - n_done, stage=stage, state="left")
        if commit:
            record_commit(stage, commit)
            yield commit


def record_store_requests() -> None:
    """Record the requests that this process made of object stores since it was last asked."""
    global _recorded
    with _lock:
        made, before = requests_made(), _recorded
        _recorded = made
    for outcome, now, then in zip(Requests._fields, made, before, strict=True):
        if now > then:
            record(STORE_REQUESTS, now - then, outcome=outcome)
