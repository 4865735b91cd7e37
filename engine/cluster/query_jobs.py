"""Jobs of bulk queries as the service asks for them: sent, looked at, ended, fetched. A thread works on them."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, get_args
from uuid import uuid4

import pyarrow as pa

from engine.cluster.filters import filter_for
from engine.cluster.parts import run_units_here
from engine.cluster.query_work import RunUnits, question_of
from engine.cluster.query_worker import QueryWorker, Serving, destruction_utc, ended, n_done
from engine.cluster.turns import Turns
from engine.storage.artefacts import utc_now
from engine.storage.query_jobs import JobStore, KeptJob, result_bytes, result_tables
from engine.storage.store import Store
from engine.storage.uploaded import Uploaded, read_uploaded
from schemas import paths
from schemas.config import QueryFileConfig
from schemas.errors import BusyError, ConfigError, DataError, InputNotFoundError
from schemas.manifest import FileRecord
from schemas.service_jobs import (
    JobAnswer,
    JobParameters,
    JobsUsage,
    Phase,
    QueryJob,
    ResultAnswer,
    ResultFormat,
    UploadFormat,
)

UPLOADS_AT_ONCE, UPLOADS_WAITING = 2, 6
"""Each takes a thread of the service, and a process while its table is read."""
_COLUMNS = ("id_column", "ra_column", "dec_column", "vector_column")


class JobLimits(NamedTuple):
    """How much one job may ask."""

    most_queries: int
    most_rows: int
    """Queries times neighbours."""


class KeptResult(NamedTuple):
    """A result as an `engine.service.job_protocol.Result`."""

    file: FileRecord
    jobs: JobStore
    job_id: str

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Read bytes of the Parquet file."""
        return result_bytes(self.jobs.folder(self.job_id), start, stop)

    def tables(self) -> Iterator[pa.Table]:
        """Read rows, a little at a time."""
        return result_tables(self.jobs.folder(self.job_id))


class QueryJobs:
    """Jobs on one release as an `engine.service.job_protocol.Jobs`.

    Parameters
    ----------
    jobs : JobStore
    serving : Serving
    limits : JobLimits
    news : callable
        Told where there is something to do; `QueryWorker.look`.
    """

    def __init__(self, jobs: JobStore, serving: Serving, limits: JobLimits, news: Callable[[], None]) -> None:
        self._jobs, self._serving, self._limits, self._news = jobs, serving, limits, news
        self._sending = Turns("tables", UPLOADS_AT_ONCE, UPLOADS_WAITING)

    def usage(self, owner: str) -> JobsUsage:
        """Say how much there is already, of all and of one."""
        kept = self._all()
        mine = [one for one in kept if one.job.owner == owner]
        return JobsUsage(
            n_open=sum(one.end is None for one in kept),
            n_own_open=sum(one.end is None for one in mine),
            own_bytes=sum(one.size_bytes for one in mine),
        )

    def create(
        self,
        owner: str,
        key: str | None,
        parameters: JobParameters,
        format_: UploadFormat | None,
        parts: Iterator[bytes],
    ) -> JobAnswer:
        """Take a table, read it, and queue a job; errors as of the protocol."""
        self._check(parameters)
        with self._sending.one():
            job_id, upload = _id_of(owner, key), uuid4().hex
            folder, sha256 = self._jobs.folder(job_id), hashlib.sha256()
            table, asked = paths.uploaded(upload), paths.asked(upload)
            counts = False
            try:
                with folder.writing(table) as sink:
                    for part in parts:
                        sha256.update(part)
                        sink.write(part)
                found = self._read(job_id, table, asked, parameters, format_)
                job = QueryJob(
                    id=job_id,
                    owner=owner,
                    output=self._serving.output,
                    release=self._serving.release.id,
                    index=self._serving.release.index.id,
                    parameters=parameters,
                    by=found.by,
                    n_queries=found.n,
                    upload=upload,
                    table_sha256=sha256.hexdigest(),
                    created_utc=utc_now(),
                )
                counting = self._jobs.create(job)
                counts = counting is not None and counting.upload == upload
            finally:
                self._jobs.drop(job_id, [table] if counts else [table, asked])
        if counting is None:
            raise BusyError("the job of this Idempotency-Key is being deleted; try again")
        if _question(counting) != _question(job):
            raise DataError(f"Idempotency-Key {key!r} was sent before, with another table or other parameters")
        self._news()
        return self.one(job_id, owner)

    def all(self, owner: str | None) -> list[JobAnswer]:
        """Describe the jobs of an owner, or of everybody, the newest first."""
        return [self._answer(one) for one in reversed(self._all()) if owner in (None, one.job.owner)]

    def one(self, job_id: str, owner: str | None) -> JobAnswer:
        """Describe a job; errors as of the protocol."""
        return self._answer(self._kept(job_id, owner))

    def abort(self, job_id: str, owner: str | None) -> JobAnswer:
        """End a job without a result, unless it has ended; errors as of the protocol."""
        kept = self._kept(job_id, owner)
        if kept.end is None:
            self._jobs.end(job_id, ended("ABORTED", kept))
            self._news()
        return self.one(job_id, owner)

    def delete(self, job_id: str, owner: str | None) -> None:
        """End a job and forget it; errors as of the protocol."""
        self._kept(job_id, owner)
        self._jobs.delete(job_id)
        self._news()

    def result(self, job_id: str, owner: str | None) -> KeptResult | None:
        """Open the result of a job; None where it has none, or none yet; errors as of the protocol."""
        end = self._kept(job_id, owner).end
        return KeptResult(end.result, self._jobs, job_id) if end and end.result else None

    def _all(self) -> list[KeptJob]:
        return [one for one in self._jobs.all() if one.job.output == self._serving.output]

    def _kept(self, job_id: str, owner: str | None) -> KeptJob:
        kept = self._jobs.find(job_id)
        if kept is None or kept.job.output != self._serving.output or owner not in (None, kept.job.owner):
            raise InputNotFoundError(f"no job {job_id} of {owner}")
        return kept

    def _check(self, parameters: JobParameters) -> None:
        """Refuse what no table could be asked with, before one is taken."""
        release = self._serving.release
        question_of(parameters, release)
        filter_for(release.schema, parameters.within, None, parameters.where)

    def _read(
        self, job_id: str, table: str, asked: str, parameters: JobParameters, format_: UploadFormat | None
    ) -> Uploaded:
        columns = {name: getattr(parameters, name) for name in _COLUMNS}
        config = QueryFileConfig(path="", format=format_, **columns)
        most, dimension = self._limits.most_queries, self._serving.release.detail.dimension
        found = read_uploaded(self._jobs.folder(job_id), table, asked, config, most, dimension)
        if found.by == "vector" and parameters.exclusion_radius_arcsec:
            raise ConfigError(
                "exclusion_radius_arcsec: vectors have no place on the sky; ask by id or position instead"
            )
        if found.n * parameters.k > self._limits.most_rows:
            raise ConfigError(
                f"k: expected at most {self._limits.most_rows:,} neighbours of all queries together, "
                f"found {found.n:,} queries of {parameters.k:,}"
            )
        return found

    def _answer(self, kept: KeptJob) -> JobAnswer:
        job, end, done = kept.job, kept.end, n_done(kept)
        running: Phase = "EXECUTING" if kept.start else "QUEUED"
        result = None
        if end and end.result:
            links = {kind: f"/v1/jobs/{job.id}/result?format={kind}" for kind in get_args(ResultFormat)}
            size_bytes, sha256 = end.result.size_bytes, end.result.sha256
            result = ResultAnswer(n_rows=end.n_rows, size_bytes=size_bytes, sha256=sha256, links=links)
        return JobAnswer(
            id=job.id,
            owner=job.owner,
            phase=end.phase if end else running,
            release=job.release,
            index=job.index,
            parameters=job.parameters,
            by=job.by,
            n_queries=job.n_queries,
            n_done=done,
            progress=round(done / job.n_queries, 4),
            created_utc=job.created_utc,
            started_utc=kept.start.started_utc if kept.start else None,
            ended_utc=end.ended_utc if end else None,
            destruction_utc=destruction_utc(end, self._serving.kept_days) if end else None,
            answered=end.answered if end else 0,
            unanswered=end.unanswered if end else {},
            error=end.error if end else None,
            result=result,
        )


@contextmanager
def open_jobs(
    store: Store, serving: Serving, limits: JobLimits, run_units: RunUnits = run_units_here
) -> Iterator[QueryJobs]:
    """Keep jobs in a store, and work on them, for the length of a block."""
    jobs = JobStore(store)
    worker = QueryWorker(jobs, serving, run_units)
    worker.start()
    try:
        yield QueryJobs(jobs, serving, limits, worker.look)
    finally:
        worker.close()


def _question(job: QueryJob) -> QueryJob:
    """What two requests of one key have in common."""
    return job.model_copy(update={"upload": "", "created_utc": "", "release": "", "index": ""})


def _id_of(owner: str, key: str | None) -> str:
    """Name a job: by who sends it and the key, or anew."""
    return hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()[:32] if key else uuid4().hex
