"""Many queries: in order of the shard they lie in, cut into units, each answered by itself as a few queries are."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from engine.cluster.answer import Question, answer, unanswered
from engine.cluster.opened import OpenRelease
from engine.cluster.parts import Made
from engine.compute.boxes import kd_order, lower_bounds
from engine.compute.search import Places
from engine.storage.parquet import as_matrix, as_vectors, read_row_group, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.tables import MATCH, NONE_QUALIFIES, OK, QUERY

_ROWS_PER_UNIT = 500_000
_QUERIES_PER_UNIT = (128, 4_096)
_UNITS = 64
_SHARD, _ROW, _VECTOR = "shard", "row", "vector"


class Asked(NamedTuple):
    """Queries that can be answered: by objects of the release, or by vectors."""

    numbers: np.ndarray
    """(q,) int64, of the queries."""
    places: Places | None = None
    vectors: np.ndarray | None = None
    """(q, d) float32, finite."""
    match_arcsec: np.ndarray | None = None
    """(q,) float64, NaN where the object was not asked for by position."""
    own: pa.Table | None = None
    """(q,) ids and positions of the objects, where they are known."""

    def some(self, which: np.ndarray) -> "Asked":
        """Take some of the queries, by their places or as a mask."""
        places = self.places and Places(self.places.shards[which], self.places.rows[which])
        vectors, matches = (None if part is None else part[which] for part in (self.vectors, self.match_arcsec))
        own = None if self.own is None else self.own.take(pa.array(np.arange(len(self.numbers))[which]))
        return Asked(self.numbers[which], places, vectors, matches, own)


def answer_asked(
    release: OpenRelease,
    asked: Asked,
    question: Question,
    allowed: Callable[[int], np.ndarray | None] | None = None,
    n_threads: int = 1,
) -> Made:
    """Answer queries, however many: rows of `neighbours_schema` by query, those without any answer among them."""
    return completed(found_for(release, asked, question, allowed, n_threads), asked, release.id_type)


def completed(found: pa.Table, asked: Asked, id_type: pa.DataType) -> Made:
    """Add to what was found the rows of queries without any answer, and what became of each query."""
    none = ~np.isin(asked.numbers, found[QUERY].to_numpy())
    empty = unanswered(asked.numbers[none], [NONE_QUALIFIES] * int(none.sum()), id_type)
    status = pa.chunked_array([np.where(none, NONE_QUALIFIES, OK)], pa.string())
    return Made(in_order([found, empty]), pa.chunked_array([asked.numbers]), status)


def found_for(
    release: OpenRelease,
    asked: Asked,
    question: Question,
    allowed: Callable[[int], np.ndarray | None] | None = None,
    n_threads: int = 1,
) -> pa.Table:
    """Find neighbours of queries: rows of `neighbours_schema` by query; those without any answer have none."""
    numbers, places, vectors, match_arcsec, own = asked
    return answer(release, numbers, places, vectors, question, allowed, match_arcsec, n_threads, own)


def answer_each(
    release: OpenRelease,
    several: Sequence[Asked],
    question: Question,
    allowed: Callable[[int], np.ndarray | None] | None = None,
    n_threads: int = 1,
) -> list[pa.Table]:
    """Find neighbours, as `found_for`, of the queries of several who ask in the same way, in one search."""
    if len(several) == 1:
        return [found_for(release, several[0], question, allowed, n_threads)]
    starts = np.cumsum([0, *(len(one.numbers) for one in several)])
    found = found_for(release, together(several), question, allowed, n_threads)
    rows = np.searchsorted(found[QUERY].to_numpy(), starts)
    answers = []
    for one, start, first, end in zip(several, starts, rows, rows[1:], strict=False):
        part = found.slice(first, end - first)
        numbers = one.numbers[part[QUERY].to_numpy() - start]
        answers.append(part.set_column(0, part.schema.field(QUERY), pa.array(numbers, pa.int64())))
    return answers


def together(several: Sequence[Asked]) -> Asked:
    """Join queries of one kind; they are numbered anew, from 0."""
    places = [one.places for one in several if one.places is not None]
    vectors = [one.vectors for one in several if one.vectors is not None]
    own = [one.own for one in several if one.own is not None]
    numbers = np.arange(sum(len(one.numbers) for one in several))
    matches = [np.full(len(one.numbers), np.nan) if one.match_arcsec is None else one.match_arcsec for one in several]
    return Asked(
        numbers,
        Places(*(np.concatenate(part) for part in zip(*places, strict=True))) if places else None,
        np.concatenate(vectors) if vectors else None,
        np.concatenate(matches),
        pa.concat_tables(own) if own else None,
    )


def in_order(tables: list[pa.Table]) -> pa.Table:
    """Put rows of answers in order of query; a query's own rows keep theirs."""
    table = pa.concat_tables([table for table in tables if len(table)] or tables[:1])
    numbers = table[QUERY].to_numpy()
    if (numbers[1:] >= numbers[:-1]).all():  # As of a single query: most that a service is asked.
        return table
    return table.take(pa.array(np.argsort(numbers, kind="stable")))


def queries_per_unit(n_queries: int, k: int) -> int:
    """Choose how many queries a unit has: enough units to share out and to resume, none of over half a million rows."""
    fewest, most = _QUERIES_PER_UNIT
    return max(1, min(max(-(-n_queries // _UNITS), fewest), most, _ROWS_PER_UNIT // k))


def keep(release: OpenRelease, asked: Asked, rest: pa.Table, work: Store, per_unit: int) -> None:
    """Write the queries of a run, a row group per unit, and the rows of those that have no answer.

    Queries that lie in one shard follow each other, so that a unit asks few shards.
    """
    write_table(work, paths.UNANSWERED, rest)
    columns: dict[str, Any] = {QUERY: asked.numbers}
    if asked.places is not None:
        columns |= {_SHARD: asked.places.shards, _ROW: asked.places.rows}
        order = np.lexsort((asked.places.rows, asked.places.shards))
    else:
        assert asked.vectors is not None
        columns[_VECTOR] = as_vectors(asked.vectors)
        order = kd_order(asked.vectors, per_unit)
        order = order[np.argsort(_nearest_shards(release, asked.vectors[order]), kind="stable")]
    if asked.match_arcsec is not None:
        columns[MATCH] = asked.match_arcsec
    write_table(work, paths.QUERIES, pa.table(columns).take(pa.array(order)), per_unit)


def kept(work: Store, group: int) -> Asked:
    """Read the queries of a unit."""
    table = read_row_group(work, paths.QUERIES, group)
    numbers = table[QUERY].to_numpy()
    match_arcsec = table[MATCH].to_numpy() if MATCH in table.column_names else None
    if _VECTOR in table.column_names:
        return Asked(numbers, None, as_matrix(table[_VECTOR]), match_arcsec)
    return Asked(numbers, Places(table[_SHARD].to_numpy(), table[_ROW].to_numpy()), None, match_arcsec)


def _nearest_shards(release: OpenRelease, vectors: np.ndarray) -> np.ndarray:
    low, high = (np.stack([getattr(shard, side) for shard in release.shards]) for side in ("low", "high"))
    step = max(1, 10_000_000 // len(release.shards))
    parts = [
        lower_bounds(vectors[start : start + step], low, high).argmin(axis=1) for start in range(0, len(vectors), step)
    ]
    return np.concatenate(parts)
