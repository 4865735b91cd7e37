"""Job: diff. What differs between two releases: objects that came, changed, moved or went, and whose neighbours did."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster.answer import Question
from engine.cluster.bulk import Asked, answer_asked
from engine.cluster.changes import read_outline
from engine.cluster.machine import cpus_of_machine
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.resolve import places_of_ids
from engine.compute.changes import Compared, changes_table, compare, neighbours_table
from engine.storage.artefacts import all_releases, release_chain, utc_now
from engine.storage.parquet import write_table
from engine.storage.store import Store
from jobs.previous import basis_in
from jobs.report import console, note, progress
from schemas import paths
from schemas.diff import Diff, DiffJob, NeighboursDiff
from schemas.errors import ConfigError, DataError
from schemas.manifest import Manifest
from schemas.tables import OBJECT_ID

DIFF = "diff.json"
NEIGHBOURS = "neighbours.parquet"
_BATCH = 500


class _Pair(NamedTuple):
    now: OpenRelease
    before: OpenRelease
    plan: Manifest
    plan_before: Manifest


def run(job: DiffJob) -> Diff:
    """Compare two releases; print a summary, and write the tables where the job says.

    Raises
    ------
    InputNotFoundError
        There is no such release, or an artefact of it is gone.
    DataError
        Their ids are of two types, so that no object of one can be in the other; or one holds no object.
    """
    pair = _opened(job)
    n_objects = pair.plan.counts["planned"] + pair.plan_before.counts["planned"]
    with progress("compare", n_objects, "objects") as advance:
        now = read_outline(pair.now.store, pair.plan, advance).objects
        before = read_outline(pair.before.store, pair.plan_before, advance).objects
    if now[OBJECT_ID].type != before[OBJECT_ID].type:
        raise DataError(f"expected ids of one type, found {now[OBJECT_ID].type} and before {before[OBJECT_ID].type}")
    found = compare(now, before)
    near = _neighbours(job, pair, now, found) if job.sample else None
    diff = Diff(
        release=pair.now.id,
        previous=pair.before.id,
        same_basis=basis_in(pair.now.components.identity) == basis_in(pair.before.components.identity),
        counts=found.counts,
        neighbours=None if near is None else _summary(job.k, near),
        created_utc=utc_now(),
    )
    if job.output:
        target = Store(job.output)
        write_table(target, paths.CHANGES, changes_table(now, before, found))
        if near is not None:
            write_table(target, NEIGHBOURS, near)
        target.write(DIFF, diff.model_dump_json(indent=1).encode())
        note("diff", f"tables in {target.uri()}")
    _show(diff)
    return diff


def _opened(job: DiffJob) -> _Pair:
    store = Store(job.release)
    now = open_release(store, job.as_of)
    if job.previous is None and job.previous_as_of is None:
        older = [one.id for one in all_releases(store)]
        after = older[older.index(now.id) + 1 :]
        if not after:
            raise ConfigError(f"{store.uri()}: release {now.id} is its first; name another output to compare with")
        before = open_release(store, after[0])
    else:
        before = open_release(Store(job.previous or job.release), job.previous_as_of)
    plans = [release_chain(one.store, one.index)["plan"] for one in (now, before)]
    for plan in plans:
        if not plan.counts["units"]:
            raise DataError(f"expected objects in both releases, found none in plan {plan.id}")
    return _Pair(now, before, *plans)


def _neighbours(job: DiffJob, pair: _Pair, now: pa.Table, found: Compared) -> pa.Table:
    """Ask both releases about some of the objects that are in both."""
    common = np.flatnonzero(found.previous >= 0)
    ids = now[OBJECT_ID].combine_chunks().take(pa.array(common))
    places = [places_of_ids(release, ids) for release in (pair.now, pair.before)]
    searchable = np.flatnonzero(np.all([place.rows >= 0 for place in places], axis=0))
    random = np.random.default_rng(job.seed)
    if len(searchable) > job.sample:
        searchable = np.sort(random.choice(searchable, job.sample, replace=False))
    ids = ids.take(pa.array(searchable))
    tables = []
    with progress("neighbours", len(ids), "objects") as advance:
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            tables.append(neighbours_table(some, *(_answers(release, some, job.k) for release in pair[:2])))
            advance(len(some))
    if not tables:
        raise DataError(
            "expected objects that are embedded in both releases, found none; leave neighbours out with --sample 0"
        )
    return pa.concat_tables(tables)


def _answers(release: OpenRelease, ids: pa.Array, k: int) -> pa.Table:
    asked = Asked(np.arange(len(ids)), places_of_ids(release, ids))
    return answer_asked(release, asked, Question(k), n_threads=cpus_of_machine()).table


def _summary(k: int, near: pa.Table) -> NeighboursDiff:
    shared = near["n_shared"].to_numpy()
    return NeighboursDiff(
        k=k,
        n_asked=len(near),
        n_unchanged=int((np.array([len(one) for one in near["gained"].to_pylist()]) == 0).sum()),
        mean_shared=float(shared.mean()),
    )


def _show(diff: Diff) -> None:
    note("diff", f"{diff.previous} -> {diff.release}")
    table = Table(box=SIMPLE_HEAD)
    table.add_column("objects")
    table.add_column("", justify="right")
    for name, count in diff.counts.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    if near := diff.neighbours:
        basis = "one basis" if diff.same_basis else "components fitted anew"
        note(
            "neighbours",
            f"of {near.n_asked:,} objects {near.n_unchanged:,} have the same {near.k} nearest; on average "
            f"{near.mean_shared:.2f} of them stay ({basis})",
        )
