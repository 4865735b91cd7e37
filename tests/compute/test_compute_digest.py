"""Digests: equal content, equal digest, whatever the order, the pieces and the machine."""

import datetime
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.digest import add_digests, id_digest, table_digest

ids = st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1), max_size=20)
quick = settings(deadline=None, max_examples=60)


def test_the_digest_of_one_id_is_its_blake2b_and_of_none_is_zero() -> None:
    # printf 42 | b2sum --length=128, its bytes read as a little-endian number.
    assert id_digest([42]) == bytes.fromhex("755345b7ef54b0d592c17e04737ab3d9")[::-1].hex()
    assert id_digest([]) == "0" * 32


@quick
@given(ids, st.randoms(use_true_random=False))
def test_the_digest_of_ids_is_free_of_order(values: list[int | str], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(values, len(values))
    assert id_digest(shuffled) == id_digest(values)


@quick
@given(ids, ids)
def test_digests_add_as_bags_do(first: list[int | str], second: list[int | str]) -> None:
    assert add_digests([id_digest(first), id_digest(second)]) == id_digest([*first, *second])


@quick
@given(ids.filter(bool), st.integers(0, 100))
def test_a_duplicate_and_a_missing_id_are_noticed(values: list[int | str], which: int) -> None:
    row = which % len(values)
    assert id_digest([*values, values[row]]) != id_digest(values)
    assert id_digest(values[:row] + values[row + 1 :]) != id_digest(values)


def test_an_integer_id_and_its_text_are_one_object() -> None:
    assert id_digest([7]) == id_digest(["7"])


COLUMNS = {
    "integers": pa.array([1, None, 3]),
    "floats": pa.array([1.5, float("nan"), None]),
    "halves": pa.array(np.array([1, 2, 3], np.float16)),
    "flags": pa.array([True, None, False]),
    "text": pa.array(["a", None, "é"]),
    "large text": pa.array(["a", None, ""], pa.large_string()),
    "bytes": pa.array([b"a", None, b""]),
    "large bytes": pa.array([b"a", None, b""], pa.large_binary()),
    "lists": pa.array([[1.0, None], None, []]),
    "vectors": pa.array([[1, 2], [3, 4], None], pa.list_(pa.float32(), 2)),
    "structs": pa.array([{"a": 1}, None, {"a": 2}]),
    "dates": pa.array([datetime.date(2020, 1, 1), None, datetime.date(2020, 1, 2)]),
    "times": pa.array([datetime.datetime(2020, 1, 1), None, datetime.datetime(2020, 1, 2)]),
    "categories": pa.array(["a", "b", "a"]).dictionary_encode(),
    "decimals": pa.array([1, None, 2], pa.decimal128(5, 2)),
    "nothing": pa.nulls(3),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_has_a_digest_that_ignores_chunks(name: str) -> None:
    column = COLUMNS[name]
    chunked = pa.chunked_array([column.slice(0, 1), column.slice(1, 0), column.slice(1)])
    assert table_digest(pa.table({"x": chunked})) == table_digest(pa.table({"x": column}))


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "nothing"])
def test_a_column_of_any_type_has_a_digest_that_follows_values_and_their_order(name: str) -> None:
    column = COLUMNS[name]
    orders = [[0, 1, 2], [2, 1, 0], [0, 0, 2], [0, None, 2]]
    taken = [column.take(pa.array(order, pa.int64())) for order in orders]
    distinct = {str(values.to_pylist()) for values in taken}
    assert len({table_digest(pa.table({"x": values})) for values in taken}) == len(distinct) > 1


def test_the_layout_under_the_digest_of_a_table_is_fixed() -> None:
    # Plans are named by it: name, type and length; packed nulls; then the values, nulls as zero.
    expected = hashlib.sha256(b"x\0int64\0003\0" + bytes([0b0100_0000]) + np.array([5, 0, -1], "<i8").tobytes())
    assert table_digest(pa.table({"x": pa.array([5, None, -1])})) == expected.hexdigest()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"x": pa.array([1])}, {"x": pa.array([1], pa.int32())}),
        ({"x": pa.array([0])}, {"x": pa.array([None], pa.int64())}),
        ({"x": pa.array([""])}, {"x": pa.array([None], pa.string())}),
        ({"x": pa.array(["ab", "c"])}, {"x": pa.array(["a", "bc"])}),
        ({"x": pa.array([1]), "y": pa.array([2])}, {"y": pa.array([2]), "x": pa.array([1])}),
        ({"x": pa.array([1])}, {"y": pa.array([1])}),
        ({"x": pa.array([1])}, {"x": pa.array([1]), "y": pa.array([None], pa.int64())}),
        ({"x": pa.array([], pa.int64())}, {"x": pa.array([], pa.string())}),
    ],
)
def test_type_null_border_name_and_column_order_all_count(first: dict, second: dict) -> None:
    assert table_digest(pa.table(first)) != table_digest(pa.table(second))


def test_a_sliced_table_has_the_digest_of_a_copy() -> None:
    table = pa.table({"x": range(10), "y": [str(n) for n in range(10)]})
    copy = pa.table({"x": range(3, 7), "y": [str(n) for n in range(3, 7)]})
    assert table_digest(table.slice(3, 4)) == table_digest(copy)
