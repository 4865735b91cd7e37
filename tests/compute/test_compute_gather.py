"""Rows in another order: those that Arrow would take, however the table is chunked and however much text it has."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.compute import gather as module
from engine.compute.gather import gather

N = 11
TABLE = pa.table(
    {
        "number": pa.array([*range(N - 1), None]),
        "text": pa.array([f"é{number}" for number in range(N - 1)] + [None]),
        "category": pa.array(["a", "b"] * 5 + [None]).dictionary_encode(),
        "vector": pa.array([[number, -number] for number in range(N)], pa.list_(pa.float32(), 2)),
        "list": pa.array([["x"] * number for number in range(N)]),
        "nothing": pa.nulls(N),
    }
)


def chunked(table: pa.Table, ends: list[int]) -> pa.Table:
    """The table in pieces that end at these rows; some may be empty."""
    edges = sorted([0, *ends, len(table)])
    return pa.concat_tables([table.slice(a, b - a) for a, b in pairwise(edges)])


@given(st.lists(st.integers(0, N - 1)), st.lists(st.integers(0, N), max_size=4), st.sampled_from([1, 3, 1000]))
def test_the_rows_are_those_that_arrow_takes(rows: list[int], ends: list[int], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", at_once)
        found = gather(chunked(TABLE, ends), np.array(rows, np.int64))
    found.validate(full=True)
    assert found.schema == TABLE.schema
    assert found.to_pylist() == TABLE.take(pa.array(rows, pa.int64())).to_pylist()


def test_of_a_table_without_rows_none_are_taken() -> None:
    found = gather(TABLE.schema.empty_table(), np.empty(0, np.int64))
    assert (len(found), found.schema) == (0, TABLE.schema)


def test_text_of_more_than_two_gib_is_taken_where_arrow_gives_up() -> None:
    piece = pa.array(["x" * 1_000_000] * 250 + ["last"])
    column = pa.chunked_array([piece] * 9)
    assert column.nbytes > 2**31
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        column.take(pa.array([250]))
    found = gather(pa.table({"text": column}), np.array([9 * 251 - 1, 250]))
    assert found["text"].to_pylist() == ["last", "last"]
