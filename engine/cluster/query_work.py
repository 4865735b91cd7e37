"""The work of one job of bulk queries: what its queries mean, units, and one result in their order.

Whatever is done is kept and found again, so that a job goes on where it was left: by this process, or the next one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.cluster.answer import Question, effort_for
from engine.cluster.bulk import answer_asked, keep, kept, queries_per_unit
from engine.cluster.counts import counted
from engine.cluster.filters import filter_for
from engine.cluster.opened import OpenRelease
from engine.cluster.parts import ROWS_PER_GROUP, Made, Make, PartsTask, run_units_here
from engine.cluster.protocol import begin, read_commits
from engine.cluster.resolve import resolve
from engine.compute.digest import id_digest
from engine.storage.artefacts import utc_now
from engine.storage.merged import groups_of, merged
from engine.storage.parquet import read_table
from engine.storage.query_jobs import JobStore, write_result
from engine.storage.store import Store
from engine.storage.uploaded import asked_queries
from schemas import paths
from schemas.manifest import Commit
from schemas.service_jobs import JobEnd, JobParameters, JobStart, JobUnits, QueryJob
from schemas.tables import CUTOUT, OK, QUERY, STATUS, neighbours_schema

RunUnits = Callable[[Sequence[dict[str, Any]], PartsTask, Make, OpenRelease], Iterator[Commit]]
"""Does units, wherever that is, and yields a commit record as each is done: `run_units_here`, or over a cluster."""


def question_of(asked: JobParameters, release: OpenRelease) -> Question:
    """Compose how queries are answered; errors as of `effort_for`."""
    effort = None if asked.approximate is None else effort_for(release, asked.approximate)
    return Question(asked.k, asked.exclusion_radius_arcsec, asked.include_self, effort)


def work_on(
    jobs: JobStore,
    job: QueryJob,
    release: OpenRelease,
    goes_on: Callable[[], bool],
    run_units: RunUnits = run_units_here,
) -> JobEnd | None:
    """Begin a job, or go on with it, until it is done or is not to go on.

    Parameters
    ----------
    jobs : JobStore
    job : QueryJob
    release : OpenRelease
        The one that the job names.
    goes_on : callable
        Asked before every unit.
    run_units : callable

    Returns
    -------
    JobEnd or None
        How it ended, its result written; not said to `jobs` yet. None where there is more to do.

    Raises
    ------
    DataError, ConfigError
        The job cannot be answered.
    StoreError
        The store failed; the same call goes on.
    IntegrityError
        Files are not what they were.
    WorkersLostError
        Processes died of it again and again.
    """
    folder, schema = jobs.folder(job.id), _schema(release)
    asked = job.parameters
    question, passing = question_of(asked, release), filter_for(release.schema, asked.within, None, asked.where)
    jobs.begin(job.id, JobStart(started_utc=utc_now()))
    work, units = folder.below(paths.work(job.id)), _units(jobs, job, folder, release)
    starts = range(0, units.n_asked, units.per_unit)
    records = [{"unit": f"{group:07d}", "group": group} for group in range(len(starts))]
    commits = {one.unit: one for one in read_commits(folder, job.id)}
    missing = [record for record in records if record["unit"] not in commits]
    task = PartsTask(
        work=folder.uri(),
        parts=folder.uri(),
        run_id=job.id,
        release=release.store.uri(),
        release_id=release.id,
    )

    def make(opened: OpenRelease, record: dict[str, Any]) -> Made:
        made = answer_asked(opened, kept(work, record["group"]), question, passing.on(opened))
        return made._replace(table=made.table.select(schema.names))

    if missing and not goes_on():
        return None
    for commit in run_units(missing, task, make, release):
        commits[commit.unit] = commit
        if len(commits) < len(records) and not goes_on():
            return None
    done = [commits[f"{group:07d}"] for group in range(len(starts))]
    return _finished(folder, job, units, done, read_table(work, paths.UNANSWERED).select(schema.names), schema)


def _units(jobs: JobStore, job: QueryJob, folder: Store, release: OpenRelease) -> JobUnits:
    """Find out what the queries mean, and cut them into units; once."""
    found = jobs.find(job.id)
    if found and found.units:
        return found.units
    begin(folder, job.id, "queries")
    queries = asked_queries(folder, paths.asked(job.upload))
    resolved = resolve(release, queries, job.parameters.match_radius_arcsec)
    per_unit = queries_per_unit(queries.n, job.parameters.k)
    keep(release, resolved.asked, resolved.rest, folder.below(paths.work(job.id)), per_unit)
    units = JobUnits(n_asked=len(resolved.asked.numbers), per_unit=per_unit)
    jobs.cut(job.id, units)
    return units


def _finished(
    folder: Store, job: QueryJob, units: JobUnits, commits: list[Commit], rest: pa.Table, schema: pa.Schema
) -> JobEnd:
    asked = np.setdiff1d(np.arange(job.n_queries), rest[QUERY].to_numpy())
    counts = counted(commits, job.n_queries, Counter(rest[STATUS].to_pylist()), id_digest(asked.tolist()))
    parts = [
        groups_of(folder, file.path, commit.counts["rows"], ROWS_PER_GROUP)
        for commit in commits
        for file in commit.files
    ]
    result, n_rows = write_result(folder, schema, merged([*parts, iter([rest])], QUERY))
    return JobEnd(
        phase="COMPLETED",
        ended_utc=utc_now(),
        n_done=job.n_queries,
        answered=counts.by_status[OK],
        unanswered={status: n for status, n in sorted(counts.by_status.items()) if status != OK and n},
        n_rows=n_rows,
        result=result,
    )


def _schema(release: OpenRelease) -> pa.Schema:
    """Columns of a result: where a cutout lies is not told."""
    return pa.schema([field for field in neighbours_schema(release.id_type) if field.name != CUTOUT])
