"""Rows of a table in another order, for tables of any size."""

from itertools import pairwise

import numpy as np
import pyarrow as pa

ROWS_AT_ONCE = 1 << 17
"""Rows of one chunk of the result."""
_BYTES_AT_ONCE = 1 << 30
"""Of one chunk: Arrow's text and bytes hold 2 GiB in one piece."""


def gather(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Take rows of a table, as `pa.Table.take` does, without bringing any column into one piece first.

    That would double a column in memory for the time, and fail where text has more than 2 GiB.

    Parameters
    ----------
    table : pa.Table
        However it is chunked.
    rows : (n,) integer array
        From 0; a row may be taken repeatedly.
    """
    columns = [_gathered(column, rows) for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _gathered(column: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    at_once = max(1, min(ROWS_AT_ONCE, _BYTES_AT_ONCE * len(column) // max(column.nbytes, 1)))
    blocks = (rows[first : first + at_once] for first in range(0, len(rows), at_once))
    return pa.chunked_array([_block(column, starts, block) for block in blocks], column.type)


def _block(column: pa.ChunkedArray, starts: np.ndarray, rows: np.ndarray) -> pa.Array:
    """Take rows chunk by chunk, then bring them into their order."""
    chunk_of = np.searchsorted(starts, rows, side="right") - 1
    by_chunk = np.argsort(chunk_of, kind="stable")
    edges = np.flatnonzero(np.diff(chunk_of[by_chunk], prepend=-1, append=len(starts)))
    parts = []
    for first, last in pairwise(edges):
        chunk = chunk_of[by_chunk[first]]
        parts.append(column.chunk(chunk).take(pa.array(rows[by_chunk[first:last]] - starts[chunk])))
    taken = pa.concat_arrays(parts)
    if len(parts) == 1:
        return taken
    order = np.empty_like(by_chunk)
    order[by_chunk] = np.arange(len(rows))
    return taken.take(pa.array(order))
