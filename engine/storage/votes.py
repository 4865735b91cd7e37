"""Volunteer votes in: a table of counts per answer, checked against a tree of questions."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.storage.store import Store
from engine.storage.table_file import integers_if_exact, kind_of, read_table_file
from schemas.errors import DataError, InputNotFoundError
from schemas.tables import OBJECT_ID
from schemas.tree import Tree
from schemas.validation import did_you_mean

_TOTAL = "_total-votes"
_SHOWN = 5


def read_votes(uri: str, asked: Tree | Sequence[str], id_column: str = OBJECT_ID) -> pa.Table:
    """Read a votes table.

    Parameters
    ----------
    uri : str
        Parquet, CSV, FITS table or VOTable; local or s3://.
    asked : Tree or sequence of str
        Its columns have to be there; a column `question_total-votes` of a tree is checked where it is there.
    id_column : str

    Returns
    -------
    pa.Table
        `object_id`, then a column of int32 counts per answer in their order. A missing count is 0.

    Raises
    ------
    InputNotFoundError
        Nothing is at the path.
    DataError
        A column is missing, ids are repeated or missing, or counts are negative, not whole, or more than the total.
    """
    store = Store(uri)
    if not store.exists(""):
        raise InputNotFoundError(f"votes: expected a table, found nothing at {store.uri()}")
    table = read_table_file(store, kind_of(uri) or "parquet", (id_column,))
    names = table.column_names
    wanted = asked.columns if isinstance(asked, Tree) else tuple(asked)
    for column in (id_column, *wanted):
        if column not in names:
            hint = did_you_mean(column, names, cutoff=0.6)
            raise DataError(f"{store.uri()}: expected a column {column!r}, found none{hint}")
    ids = table[id_column]
    if pa.types.is_string(ids.type):
        ids = integers_if_exact(ids)
    if ids.null_count:
        raise DataError(
            f"{store.uri()}: column {id_column!r}: expected an id in every row, found {ids.null_count} nulls"
        )
    counted = pc.value_counts(ids.combine_chunks())
    repeated = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    if len(repeated):
        shown = ", ".join(map(str, repeated.to_pylist()[:_SHOWN]))
        raise DataError(f"{store.uri()}: expected every id once, found {len(repeated):,} repeated: {shown}")
    columns = {OBJECT_ID: ids}
    columns |= {column: _counts(table[column], column, ids, store) for column in wanted}
    for question in asked.questions if isinstance(asked, Tree) else ():
        if f"{question.name}{_TOTAL}" in names:
            total = _counts(table[f"{question.name}{_TOTAL}"], f"{question.name}{_TOTAL}", ids, store)
            summed = sum(columns[column].to_numpy().astype(np.int64) for column in question.columns)
            _refuse(summed > total.to_numpy(), f"more votes than {question.name}{_TOTAL}", ids, store)
    return pa.table(columns)


def _counts(column: pa.ChunkedArray, name: str, ids: pa.ChunkedArray, store: Store) -> pa.Array:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"{store.uri()}: column {name!r}: expected counts of votes, found {column.type}")
    values = np.nan_to_num(column.cast(pa.float64()).to_numpy(), nan=0.0, posinf=np.inf, neginf=-np.inf)
    _refuse((values < 0) | (values != np.round(values)) | (values > 2**31 - 1), f"no count in {name!r}", ids, store)
    return pa.array(values.astype(np.int32))


def _refuse(bad: np.ndarray, what: str, ids: pa.ChunkedArray, store: Store) -> None:
    if bad.any():
        shown = ", ".join(str(ids[int(row)].as_py()) for row in np.flatnonzero(bad)[:_SHOWN])
        raise DataError(f"{store.uri()}: {what} in {int(bad.sum()):,} rows, among them {shown}")
