"""Labels in: a table of ids and what is known of them."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.storage.store import Store
from engine.storage.table_file import kind_of, read_table_file
from engine.storage.votes import read_votes
from schemas.errors import DataError, InputNotFoundError
from schemas.tables import OBJECT_ID
from schemas.validation import did_you_mean

LABEL = "label"
_SHOWN = 5


def read_labels(uri: str, id_column: str, label_column: str | None) -> pa.Table:
    """Read a table of labels.

    Parameters
    ----------
    uri : str
        Parquet, CSV, FITS table or VOTable; local or s3://.
    id_column : str
    label_column : str or None
        The only other column when None.

    Returns
    -------
    pa.Table
        `object_id` and `label`; rows without a label are left out.

    Raises
    ------
    InputNotFoundError
        Nothing is at the path.
    DataError
        A column is missing, or cannot be told; an id is missing, or has two different labels; there is no label.
    """
    store = Store(uri)
    if not store.exists(""):
        raise InputNotFoundError(f"labels: expected a table, found nothing at {store.uri()}")
    table = read_table_file(store, kind_of(uri) or "parquet", (id_column,))
    if label_column is None:
        others = [name for name in table.column_names if name != id_column]
        if len(others) != 1:
            raise DataError(f"{store.uri()}: expected --label-column, for there are several: {', '.join(others)}")
        label_column = others[0]
    for name in (id_column, label_column):
        if name not in table.column_names:
            hint = did_you_mean(name, table.column_names)
            raise DataError(f"{store.uri()}: expected a column {name!r}, found {', '.join(table.column_names)}{hint}")
    labels = pa.table({OBJECT_ID: table[id_column], LABEL: table[label_column]})
    if labels[OBJECT_ID].null_count:
        raise DataError(f"{store.uri()}: expected an id in every row, found {labels[OBJECT_ID].null_count} without")
    labels = labels.filter(pc.is_valid(labels[LABEL]))
    if pa.types.is_floating(labels[LABEL].type):
        labels = labels.filter(pc.is_finite(labels[LABEL]))
    if len(labels) == 0:
        raise DataError(f"{store.uri()}: expected at least one label, found none")
    distinct = labels.group_by([OBJECT_ID, LABEL]).aggregate([])
    counted = pc.value_counts(distinct[OBJECT_ID].combine_chunks())
    twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    if len(twice):
        shown = ", ".join(map(str, twice.to_pylist()[:_SHOWN]))
        raise DataError(f"{store.uri()}: expected one label per object, found {len(twice):,} with several: {shown}")
    return distinct


def read_counts(uri: str, id_column: str, columns: Sequence[str]) -> pa.Table:
    """Read a table of votes for the answers to one question.

    Returns
    -------
    pa.Table
        `object_id`, and the columns as int32; rows without a vote are left out.

    Raises
    ------
    InputNotFoundError, DataError
        As of `engine.storage.votes.read_votes`; or there is no vote at all.
    """
    found = read_votes(uri, columns, id_column)
    total = sum(found[column].to_numpy() for column in columns)
    found = found.filter(pa.array(np.asarray(total) > 0))
    if len(found) == 0:
        raise DataError(f"{Store(uri).uri()}: expected at least one vote, found none")
    return found


def numbers_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return labels that are numbers, or truth values, as float64."""
    return np.asarray(column.cast(pa.float64()).to_numpy())
