"""Many queries: in order of the shard they lie in, cut into units, each answered by itself as a few queries are."""

from collections.abc import Callable
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


def answer_asked(
    release: OpenRelease,
    asked: Asked,
    question: Question,
    allowed: Callable[[int], np.ndarray | None] | None = None,
    n_threads: int = 1,
) -> Made:
    """Answer queries, however many: rows of `neighbours_schema` by query, those without any answer among them."""
    found = answer(
        release, asked.numbers, asked.places, asked.vectors, question, allowed, asked.match_arcsec, n_threads
    )
    none = ~np.isin(asked.numbers, found[QUERY].to_numpy())
    empty = unanswered(asked.numbers[none], [NONE_QUALIFIES] * int(none.sum()), release.id_type)
    status = pa.chunked_array([np.where(none, NONE_QUALIFIES, OK)], pa.string())
    return Made(in_order([found, empty]), pa.chunked_array([asked.numbers]), status)


def in_order(tables: list[pa.Table]) -> pa.Table:
    """Put rows of answers in order of query; a query's own rows keep theirs."""
    table = pa.concat_tables(tables)
    return table.take(pa.array(np.argsort(table[QUERY].to_numpy(), kind="stable")))


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
