"""Merging parts: the order of the whole, whatever the pieces."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from engine.storage.merged import groups_of, merged
from engine.storage.store import Store


def part(values: list[int], name: str, size: int) -> Iterator[pa.Table]:
    table = pa.table({"query": pa.array(values, pa.int64()), "rank": [f"{name}{at}" for at in range(len(values))]})
    return (table.slice(start, size) for start in range(0, len(values), size))


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 7))
def test_rows_come_in_order_and_those_of_one_value_in_theirs(owners: list[int], size: int) -> None:
    values: list[list[int]] = [[] for _ in range(6)]
    for query, owner in enumerate(owners):
        values[owner] += [query] * (1 + query % 4)
    tables = list(merged([part(own, str(number), size) for number, own in enumerate(values)], "query"))
    rows = [row for table in tables for row in table.to_pylist()]
    expected = [
        {"query": query, "rank": f"{number}{at}"} for number, own in enumerate(values) for at, query in enumerate(own)
    ]
    assert rows == sorted(expected, key=lambda row: row["query"])


def test_no_parts_and_empty_parts_give_no_rows() -> None:
    assert list(merged([], "query")) == []
    empty = pa.table({"query": pa.array([], pa.int64())})
    assert sum(len(table) for table in merged([iter([empty]), iter([])], "query")) == 0


def test_a_file_is_read_group_by_group(tmp_path: Path) -> None:
    table = pa.table({"query": np.arange(10)})
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=4)
    groups = list(groups_of(Store(str(tmp_path)), "part.parquet", 10, 4))
    assert [len(group) for group in groups] == [4, 4, 2]
    assert pa.concat_tables(groups).equals(table)
    assert list(groups_of(Store(str(tmp_path)), "part.parquet", 0, 4)) == []
