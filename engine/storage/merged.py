"""Parts of a table that are each in order of a column, read as one table in that order, a little at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from engine.storage.parquet import read_row_group
from engine.storage.store import Store


def groups_of(store: Store, path: str, n_rows: int, rows_per_group: int) -> Iterator[pa.Table]:
    """Read a Parquet file that was written with so many rows per group, group by group; errors as of `read_table`."""
    for group in range(-(-n_rows // rows_per_group)):
        yield read_row_group(store, path, group)


def merged(parts: Sequence[Iterator[pa.Table]], column: str) -> Iterator[pa.Table]:
    """Merge parts by an integer column.

    Parameters
    ----------
    parts : sequence of iterators of pa.Table
        Each in ascending order of the column from its first table to its last.
    column : str
        Never null. Rows of one value are expected in one part, whose order they keep.

    Yields
    ------
    pa.Table
        In ascending order; in memory are a table or two of every part.
    """
    heads = [_Head(part, column) for part in parts]
    while heads:
        for head in heads:
            head.fill()
        heads = [head for head in heads if len(head.values)]
        limit = min((int(head.values[-1]) for head in heads if not head.is_last), default=None)
        taken = [head.take(limit) for head in heads]
        if taken:
            table = pa.concat_tables(taken)
            yield table.take(pa.array(np.argsort(table[column].to_numpy(), kind="stable")))


class _Head:
    """What has been read of one part and not been taken yet."""

    def __init__(self, tables: Iterator[pa.Table], column: str) -> None:
        self._tables, self._column = tables, column
        self._table: pa.Table | None = None
        self.values = np.empty(0, np.int64)
        self.is_last = False

    def fill(self) -> None:
        """Read on until there are two values, so that rows of the first are complete, or the part ends."""
        while not self.is_last and (not len(self.values) or self.values[0] == self.values[-1]):
            table = next(self._tables, None)
            if table is None:
                self.is_last = True
            else:
                self._set(pa.concat_tables([self._table, table]) if self._table else table)

    def take(self, limit: int | None) -> pa.Table:
        """Take the rows below a value, or all."""
        assert self._table is not None
        n = len(self.values) if limit is None else int(np.searchsorted(self.values, limit))
        taken = self._table.slice(0, n)
        self._set(self._table.slice(n))
        return taken

    def _set(self, table: pa.Table) -> None:
        self._table, self.values = table, table[self._column].to_numpy()
