"""A thread that works on jobs of bulk queries while a service answers: one unit after the other, behind everybody else.

Its units are searched by one thread of low priority (Linux schedules threads, not processes): whoever waits for an
answer gets the cores first, and what they leave is the jobs'. A job gives way to another token's after a while, and
whose last turn is longest ago comes first, so that no table of millions keeps out a small one. Of several services
that share a place of jobs, one works on them: the one that holds its lease.
"""

import logging
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from engine.cluster.metrics import record
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.parts import run_units_here
from engine.cluster.query_work import RunUnits, work_on
from engine.storage.artefacts import utc_now
from engine.storage.lease import Held, lease
from engine.storage.query_jobs import JobStore, KeptJob
from schemas.errors import BusyError, ConfigError, DataError, InputNotFoundError, StoreError, VoorwerpError
from schemas.metrics import QUEUE_DEPTH
from schemas.service_jobs import EndPhase, JobEnd, QueryJob

NICENESS = 10
SLICE_S = 60.0
"""For which a job is worked on while those of other tokens wait."""
LOOK_AGAIN_S = 5.0
"""After which jobs that other processes were sent are looked for, and those that are to be deleted."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
"""After a failure of the store; doubling."""

_log = logging.getLogger("voorwerp.service")


class Serving(NamedTuple):
    """What is served, and for how long jobs are kept."""

    release: OpenRelease
    output: str
    """As jobs name it; those of other outputs are left alone."""
    kept_days: float


class QueryWorker:
    """The thread; `close` ends it after the unit that it is at, which is done again otherwise.

    Parameters
    ----------
    jobs : JobStore
    serving : Serving
    run_units : callable
        In this process by default.
    """

    def __init__(self, jobs: JobStore, serving: Serving, run_units: RunUnits = run_units_here) -> None:
        self._jobs, self._serving, self._run_units = jobs, serving, run_units
        self._stop, self._news = threading.Event(), threading.Event()
        self._last_turn: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="query-jobs", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def look(self) -> None:
        """Say that there is something new."""
        self._news.set()

    def close(self, patience_s: float = 30.0) -> None:
        """End, and wait for that, but not for ever: what is not committed then is done again."""
        self._stop.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _run(self) -> None:
        if sys.platform == "linux":
            me = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, me, max(NICENESS, os.getpriority(os.PRIO_PROCESS, me)))
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                with lease(self._jobs.store) as held:
                    while not self._stop.is_set() and not held.lost.is_set():
                        self._turn(held)
                        pause_s = FIRST_PAUSE_S
            except BusyError:  # Another service works on these jobs.
                self._stop.wait(LOOK_AGAIN_S)
            except Exception as error:
                _log.error("jobs: %s; again in %g s", error, pause_s, exc_info=not isinstance(error, VoorwerpError))
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _turn(self, held: Held) -> None:
        """Take away what is over, then work on one job for a while, or wait for one."""
        self._news.clear()
        kept = self._all()
        for one in kept:
            if one.end and _is_past(destruction_utc(one.end, self._serving.kept_days)):
                self._jobs.delete(one.job.id)
        self._jobs.sweep()
        waiting = [one for one in kept if one.end is None]
        record(QUEUE_DEPTH, len(waiting), queue="jobs")
        if waiting:
            chosen = min(waiting, key=lambda one: (self._last_turn.get(one.job.owner, 0.0), one.job.created_utc))
            self._last_turn[chosen.job.owner] = time.monotonic()
            self._work_on(chosen.job, held)
        else:
            self._last_turn.clear()
            self._news.wait(LOOK_AGAIN_S)

    def _work_on(self, job: QueryJob, held: Held) -> None:
        until, is_first = time.monotonic() + SLICE_S, True

        def goes_on() -> bool:
            nonlocal is_first
            if self._stop.is_set() or held.lost.is_set() or not self._jobs.is_open(job.id):
                return False
            begins, is_first = is_first, False  # A turn is one unit at least, or nobody would get anywhere.
            return begins or time.monotonic() < until or not self._others_wait(job.owner)

        try:
            release = self._release_of(job)
            end = work_on(self._jobs, job, release, goes_on, self._run_units)
        except (DataError, ConfigError) as error:
            end = self._failed(job, str(error))
        except StoreError:
            raise
        except Exception as error:
            _log.error("job %s: %s", job.id, error, exc_info=not isinstance(error, VoorwerpError))
            end = self._failed(job, "the service failed; its log says how, under the name of this job")
        if end and not held.lost.is_set():
            self._jobs.end(job.id, end)
            self._jobs.sweep()

    def _release_of(self, job: QueryJob) -> OpenRelease:
        """The release that a job is about, which may have been served before this one."""
        served = self._serving.release
        if job.release == served.id:
            return served
        try:
            return open_release(served.store, job.release)
        except InputNotFoundError as error:
            raise DataError("the release that was asked is not there any more; ask again about this one") from error

    def _others_wait(self, owner: str) -> bool:
        return any(one.end is None and one.job.owner != owner for one in self._all())

    def _all(self) -> list[KeptJob]:
        return [one for one in self._jobs.all() if one.job.output == self._serving.output]

    def _failed(self, job: QueryJob, detail: str) -> JobEnd:
        return ended("ERROR", self._jobs.find(job.id), detail)


def ended(phase: EndPhase, kept: KeptJob | None, error: str | None = None) -> JobEnd:
    """Describe the end of a job that has no result."""
    return JobEnd(phase=phase, ended_utc=utc_now(), n_done=n_done(kept) if kept else 0, error=error)


def n_done(kept: KeptJob) -> int:
    """Count the queries of a job that are answered or have a reason."""
    if kept.end:
        return kept.end.n_done
    if not kept.units:
        return 0
    n_asked, per_unit = kept.units.n_asked, kept.units.per_unit
    done = sum(max(0, min(per_unit, n_asked - number * per_unit)) for number in kept.n_committed)
    return kept.job.n_queries - n_asked + done


def destruction_utc(end: JobEnd, kept_days: float) -> str:
    """When a job that has ended is deleted."""
    return (datetime.fromisoformat(end.ended_utc) + timedelta(days=kept_days)).isoformat(timespec="seconds")


def _is_past(at_utc: str) -> bool:
    return datetime.fromisoformat(at_utc) <= datetime.now(UTC)
