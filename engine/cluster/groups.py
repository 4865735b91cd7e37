"""A release in groups of shards, each of which may be in another process: all are asked, and their answers merged.

    question ---> resolve (ids: every group) ---> search (every group, at the same time) ---> merge

Every group answers exactly for its own shards, so the k nearest of what they find are the k nearest of all. Nothing
here knows how a group is reached; `engine.cluster.deployment` reaches them through Ray Serve.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.answer import Question
from engine.cluster.batching import Batches
from engine.cluster.bulk import Asked, answer_each, found_for, in_order
from engine.cluster.filters import Filter
from engine.cluster.opened import OpenRelease
from engine.compute.search import Places
from engine.storage.parquet import as_matrix, as_vectors
from schemas.tables import DEC, DISTANCE, OBJECT_ID, QUERY, QUERY_ID, RA, RANK, UNSEEN

_AT, _SHARD, _ROW, _VECTOR = "at", "shard", "row", "vector"
Answer = TypeVar("Answer")


class Group(Protocol):
    """Some shards of a release, wherever they are."""

    def find(self, ids: pa.Array) -> pa.Table:
        """Say of ids, (m,), that are here: their number in `ids`, shard, row, id, position and vector."""

    def search(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        """Answer queries that say what they know of their own objects, from the shards of this group alone.

        Returns
        -------
        pa.Table
            Of `neighbours_schema`, by query, then by rank; queries for which nothing was found have no row.
        """


class ShardGroup:
    """Some shards of an open release, in this process; queries that wait are searched together.

    Parameters
    ----------
    release : OpenRelease
    numbers : sequence of int
        Of its shards.
    n_threads : int
        That share the queries of a batch.
    """

    def __init__(self, release: OpenRelease, numbers: Sequence[int], n_threads: int = 1) -> None:
        self.release = release.only(numbers)
        self._numbers = np.array(numbers, np.int32)
        self._batches: Batches[Asked, pa.Table] = Batches(self._answer_each)
        self._n_threads = n_threads

    def find(self, ids: pa.Array) -> pa.Table:
        """Look up ids, as `Group.find`."""
        places = self.release.find(ids)
        at = np.flatnonzero(places.rows >= 0)
        held = Places(places.shards[at], places.rows[at])
        own = self.release.take(held, [OBJECT_ID, RA, DEC])
        vectors = as_vectors(self.release.vectors(held))
        columns = {_AT: at, _SHARD: held.shards, _ROW: held.rows, _VECTOR: vectors}
        return pa.table(columns | {name: own[name] for name in own.column_names})

    def search(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        """Answer queries, as `Group.search`."""
        if not how.include_self or asked.places is None or not len(asked.numbers):
            return self._together(asked, how, passing)
        mine = np.isin(asked.places.shards, self._numbers)
        others = replace(how, include_self=False, k=max(how.k - 1, 1))
        parts = [(how, mine), (others, ~mine)]
        return in_order([self._together(asked.some(which), one, passing) for one, which in parts if which.any()])

    def _together(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        if any(passing):  # Its masks may take long to make: others do not wait for that.
            return found_for(self.release, asked, how, passing.on(self.release), self._n_threads)
        return self._batches((how, asked.places is None), asked)

    def _answer_each(self, kind: tuple[Question, bool], asked: Sequence[Asked]) -> list[pa.Table]:
        return answer_each(self.release, asked, kind[0], n_threads=self._n_threads)


class Groups:
    """All groups of a release, asked as one.

    Parameters
    ----------
    groups : sequence of Group
        That share the shards of the release.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._threads = ThreadPoolExecutor(16 * len(groups), thread_name_prefix="groups")

    def find(self, ids: pa.Array) -> tuple[Places, pa.Table]:
        """Find objects by id, (m,): their places, -1 for those that no group holds, and what `Group.find` says."""
        found = pa.concat_tables(self._of_each(lambda group: group.find(ids)))
        places = Places(*np.full((2, len(ids)), -1, np.int32))
        at = found[_AT].to_numpy()
        places.shards[at], places.rows[at] = found[_SHARD].to_numpy(), found[_ROW].to_numpy()
        return places, found

    def search(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        """Answer queries, as `Group.search`, from all groups."""
        return merged(self._of_each(lambda group: group.search(asked, how, passing)), how.k)

    def _of_each(self, ask: Callable[[Group], Answer]) -> list[Answer]:
        return list(self._threads.map(ask, self._groups)) if len(self._groups) > 1 else [ask(self._groups[0])]


def knowing(asked: Asked, found: pa.Table) -> Asked:
    """Add to queries by objects what groups said of these objects."""
    assert asked.places is not None
    held = zip(found[_SHARD].to_pylist(), found[_ROW].to_pylist(), strict=True)
    row_of = {place: row for row, place in enumerate(held)}
    wanted = zip(asked.places.shards.tolist(), asked.places.rows.tolist(), strict=True)
    own = found.take(pa.array([row_of[place] for place in wanted], pa.int64()))
    return asked._replace(vectors=as_matrix(own[_VECTOR]), own=own.select([OBJECT_ID, RA, DEC]))


def merged(answers: Iterable[pa.Table], k: int) -> pa.Table:
    """Merge answers of several groups to the same queries: the k nearest; of equal distance, in order of id.

    An object that was asked about and is listed itself stays the first. No object that was not compared by any of them
    is nearer than the least of their `unseen_distance`.
    """
    table = pa.concat_tables(answers)
    if not len(table):
        return table
    query, distance = table[QUERY].to_numpy(), table[DISTANCE].to_numpy()
    ids = table[OBJECT_ID].combine_chunks()
    order_of_ids = np.argsort(pc.array_sort_indices(ids).to_numpy(), kind="stable")
    is_self = pc.fill_null(pc.equal(ids, table[QUERY_ID].combine_chunks()), False)
    others = ~is_self.to_numpy(zero_copy_only=False)
    order = np.lexsort((order_of_ids, others, distance, query))
    _, first, place = np.unique(query[order], return_index=True, return_inverse=True)
    rank = np.arange(len(order)) - first[place]
    kept = rank < k
    unseen = np.minimum.reduceat(pc.fill_null(table[UNSEEN], np.inf).to_numpy()[order], first)[place][kept]
    made = {
        **dict(zip(table.column_names, table.take(pa.array(order[kept])).columns, strict=True)),
        RANK: pa.array(rank[kept] + 1, pa.int32()),
        UNSEEN: pa.array(unseen, pa.float32(), mask=~np.isfinite(unseen)),
    }
    return pa.table(made, schema=table.schema)
