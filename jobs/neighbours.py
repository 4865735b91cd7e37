"""Job: neighbours. The objects most like some objects, positions or vectors, by L1 distance in component space.

A few queries are answered in this process, without Ray; many as units of work over it, by the same function.
"""

from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.answer import Question, effort_for, recall_of
from engine.cluster.bulk import Asked, answer_asked, in_order, keep, kept, queries_per_unit
from engine.cluster.counts import Counts, counted
from engine.cluster.filters import Filter, open_filter
from engine.cluster.machine import cpus_of_machine
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.parts import Made
from engine.cluster.resolve import Resolved, places_of_ids, places_of_positions, resolve
from engine.compute.digest import id_digest, table_digest
from engine.compute.search import Places
from engine.storage.answers import check_answer_size, is_folder, write_answer
from engine.storage.parquet import read_table
from engine.storage.store import Store
from jobs.print_answer import print_answer
from jobs.report import note, warn
from jobs.units import (
    Search,
    check_gpu,
    check_output,
    do_units,
    finished,
    publish,
    publish_merged,
    search_identity,
    working,
)
from schemas import paths
from schemas.config import NeighboursJob, SearchSection
from schemas.errors import ConfigError, DataError
from schemas.tables import OBJECT_ID, OK, QUERY, STATUS, neighbours_schema

if TYPE_CHECKING:  # Its libraries take a fifth of a second to load.
    from engine.storage.queries import Queries

MOST_IN_PROCESS = 2_000
"""Queries that are answered without Ray."""


def run(job: NeighboursJob) -> pa.Table | None:
    """Answer the queries; write the answer where the job says, or print it.

    Returns the rows of `neighbours_schema`, or None where there are too many to hold.

    Raises
    ------
    InputNotFoundError
        There is no finished release, or no file of queries.
    ConfigError
        The output's name is of no known kind, or options contradict each other.
    DataError
        An id is not in the release, or vectors have another dimension.
    OutputError, BusyError
        The output holds, or is about to hold, another answer.
    """
    if job.output:
        check_output(job.output)
    elif job.queries:
        raise ConfigError("queries: expected --output for the answers to a file of queries, found none")
    release = open_release(Store(job.release), job.as_of)
    question, passing = question_of(job, release), open_filter(release, job.filter)
    if not job.queries:
        return give(job, release, _asked(release, job), question, passing)
    from engine.storage.queries import read_queries

    queries = read_queries(job.queries)
    if queries.by == "vector" and job.exclusion_radius_arcsec:
        raise ConfigError("exclusion_radius_arcsec: vectors have no place on the sky; ask by id or position instead")
    if job.output and (is_folder(job.output) or queries.n > MOST_IN_PROCESS):
        _run_units(job, release, queries, question, passing)
        return None
    return give(job, release, resolve(release, queries, job.match_radius_arcsec), question, passing)


def question_of(job: SearchSection, release: OpenRelease) -> Question:
    """Compose how queries are answered."""
    effort = None if job.approximate is None else effort_for(release, job.approximate)
    include_self = isinstance(job, NeighboursJob) and job.include_self
    device = "cuda" if job.device == "cuda" else None
    return Question(job.k, job.exclusion_radius_arcsec, include_self, effort, device)


def give(
    job: SearchSection,
    release: OpenRelease,
    resolved: Resolved,
    question: Question,
    passing: Filter,
    names: dict[int, str] | None = None,
) -> pa.Table:
    """Answer a few queries in this process; write the answer or print it, with these names of queries; return it."""
    if question.device:
        check_gpu()
    if job.output:
        check_answer_size(job.output, len(resolved.asked.numbers) * question.k)
    started = perf_counter()
    made = answer_asked(release, resolved.asked, question, passing.on(release), cpus_of_machine())
    found = in_order([made.table, resolved.rest])
    counts = Counts(
        len(resolved.asked.numbers) + len(resolved.rest),
        Counter(made.status.to_pylist()) + Counter(resolved.rest[STATUS].to_pylist()),
    )
    counts.check()
    _warn_of_short_answers(found, job.k, release.n_objects)
    if job.output:
        write_answer(job.output, found)
        _summarise(counts, len(found), job.output, perf_counter() - started)
    else:
        print_answer(found, names)
    _say_recall(release, question)
    return found


def _run_units(
    job: NeighboursJob, release: OpenRelease, queries: "Queries", question: Question, passing: Filter
) -> None:
    assert job.output
    started = perf_counter()
    if not is_folder(job.output):
        check_answer_size(job.output, queries.n * job.k)
    settings = {
        "k": job.k,
        "filter": passing.identity,
        "exclusion_radius_arcsec": job.exclusion_radius_arcsec,
        "include_self": job.include_self,
        "effort": question.effort,
        "match_radius_arcsec": job.match_radius_arcsec,
        "queries": _digest(queries),
    }
    identity = search_identity(release, **settings)
    search = Search("neighbours", identity, job.output, release, job.device, job.ray)
    if finished(search):
        return
    per_unit = queries_per_unit(queries.n, job.k)
    with working(search) as held:
        work = search.own_work
        if not work.exists(paths.QUERIES):
            resolved = resolve(release, queries, job.match_radius_arcsec)
            keep(release, resolved.asked, resolved.rest, work, per_unit)
        rest = read_table(work, paths.UNANSWERED)
        n_asked = queries.n - len(rest)
        starts = range(0, n_asked, per_unit)
        records = [{"unit": f"{group:07d}", "group": group} for group in range(len(starts))]

        def make(opened: OpenRelease, record: dict[str, Any]) -> Made:
            return answer_asked(opened, kept(work, record["group"]), question, passing.on(opened))

        sizes = [min(per_unit, n_asked - start) for start in starts]
        few = queries.n <= MOST_IN_PROCESS
        commits = do_units(search, records, sizes, "queries", make, held, in_process=few)
        asked = np.setdiff1d(np.arange(queries.n), rest[QUERY].to_numpy())
        counts = counted(commits, queries.n, Counter(rest[STATUS].to_pylist()), id_digest(asked.tolist()))
        n_rows = sum(commit.counts["rows"] for commit in commits) + len(rest)
        held.check()
        if is_folder(job.output):
            counted_rows = counts.record | {"rows": n_rows}
            publish(search, commits, counted_rows, neighbours_schema(release.id_type), started, rest)
        else:
            publish_merged(search, commits, neighbours_schema(release.id_type), QUERY, rest)
    _summarise(counts, n_rows, job.output, perf_counter() - started)
    _say_recall(release, question)


def _asked(release: OpenRelease, job: NeighboursJob) -> Resolved:
    """Find the objects that are named one by one; here what is unknown is an error, and what is far a warning."""
    by_id = _places_of_ids(release, job.ids)
    by_position, separations = _places_of_positions(release, job)
    places = Places(*(np.concatenate(pair) for pair in zip(by_id, by_position, strict=True)))
    matches = np.concatenate([np.full(len(job.ids), np.nan), separations])
    asked = Asked(np.arange(len(places.rows)), places, None, matches)
    return Resolved(asked, neighbours_schema(release.id_type).empty_table())


def _places_of_ids(release: OpenRelease, ids: tuple[str, ...]) -> Places:
    id_type = release.id_type
    wanted = pa.array(ids, pa.string())
    try:
        wanted.cast(id_type)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"--id: expected {id_type} ids as in this release, found {', '.join(ids)!r}: {error}"
        ) from error
    places = places_of_ids(release, wanted)
    unknown = [text for text, row in zip(ids, places.rows, strict=True) if row < 0]
    if unknown:
        raise DataError(f"--id: {unknown[0]!r} is not among the {release.n_objects:,} objects of this release")
    return places


def _places_of_positions(release: OpenRelease, job: NeighboursJob) -> tuple[Places, np.ndarray]:
    if not job.positions_deg:
        return Places(*np.empty((2, 0), np.int32)), np.empty(0)
    ra_deg, dec_deg = np.array(job.positions_deg).T
    places, separations = places_of_positions(release, ra_deg, dec_deg)
    found = release.take(places, [OBJECT_ID])[OBJECT_ID].to_pylist()
    for position, object_id, separation in zip(job.positions_deg, found, separations, strict=True):
        note("position", f"{position[0]} {position[1]}: nearest object is {object_id}, {separation:,.1f} arcsec away")
        if separation > job.match_radius_arcsec:
            warn(f"that is more than {job.match_radius_arcsec:g} arcsec: the release may not cover this position")
    return places, separations


def _digest(queries: "Queries") -> str:
    if queries.by == "id":
        columns: dict[str, Any] = {"id": queries.ids}
    elif queries.by == "position":
        columns = {"ra_deg": queries.ra_deg, "dec_deg": queries.dec_deg}
    else:
        assert queries.vectors is not None
        columns = {str(j): values for j, values in enumerate(queries.vectors.T)}
    return table_digest(pa.table(columns))


def _summarise(counts: Counts, n_rows: int, output: str, seconds: float) -> None:
    note("neighbours", f"{counts}; {n_rows:,} rows in {output}, {seconds:,.1f} s")


def _say_recall(release: OpenRelease, question: Question) -> None:
    if question.effort is not None:
        recall = recall_of(release, question.effort)
        note(
            "neighbours",
            f"approximate: effort {question.effort}, which found {recall:.2%} of held-out queries' neighbours",
        )


def _warn_of_short_answers(found: pa.Table, k: int, n_objects: int) -> None:
    answered = pc.equal(found[STATUS], OK).to_numpy()
    short = int((np.unique(found[QUERY].to_numpy()[answered], return_counts=True)[1] < k).sum())
    if short:
        warn(f"{short:,} queries have fewer than {k} neighbours: no more of the {n_objects:,} objects qualify")
