"""Parquet through a store: what is damaged is never returned as data."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.storage.parquet import read_row_group, read_sorted_groups, read_table, write_table
from engine.storage.store import Store
from schemas.errors import IntegrityError
from schemas.tables import vector_type


def table(n: int = 200) -> pa.Table:
    vectors = np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)
    return pa.table(
        {
            "object_id": pa.array(range(n)),
            "name": [f"J{number}" for number in range(n)],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 6).cast(vector_type(6)),
        }
    )


def footer_start(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def test_a_table_comes_back_with_types_and_row_groups(store: Store) -> None:
    write_table(store, "t.parquet", table(), rows_per_group=64)
    assert read_table(store, "t.parquet").equals(table())
    assert read_table(store, "t.parquet", ["name"]).column_names == ["name"]
    assert read_row_group(store, "t.parquet", 3).equals(table().slice(192))


def test_an_empty_table_comes_back(store: Store) -> None:
    write_table(store, "t.parquet", table().slice(0, 0))
    assert read_table(store, "t.parquet").schema == table().schema


def test_a_row_group_that_is_not_there_is_refused(local_store: Store) -> None:
    write_table(local_store, "t.parquet", table(), rows_per_group=64)
    with pytest.raises(IntegrityError, match=r"t\.parquet"):
        read_row_group(local_store, "t.parquet", 4)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all, whatever its name says", b"PAR1" * 50])
def test_what_is_no_parquet_file_is_refused(store: Store, data: bytes) -> None:
    store.write("t.parquet", data)
    with pytest.raises(IntegrityError, match=r"t\.parquet: not a whole Parquet file"):
        read_table(store, "t.parquet")


@pytest.mark.fault(5, "a table cut at every length")
def test_a_file_that_was_cut_anywhere_is_refused(local_store: Store) -> None:
    write_table(local_store, "t.parquet", table())
    data = local_store.read("t.parquet")
    for length in [*range(0, len(data), 151), len(data) - 1]:
        local_store.write("cut.parquet", data[:length])
        with pytest.raises(IntegrityError):
            read_table(local_store, "cut.parquet")


def test_a_changed_bit_in_a_page_is_never_returned_as_data(local_store: Store) -> None:
    write_table(local_store, "t.parquet", table())
    data = local_store.read("t.parquet")
    refused = 0
    places = range(4, footer_start(data), 67)
    for place in places:
        local_store.write("bad.parquet", data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            assert read_table(local_store, "bad.parquet").equals(table())
        except IntegrityError:
            refused += 1
    # What is left are bits of page headers that nobody reads.
    assert refused > 0.9 * len(places)


def test_a_changed_footer_raises_nothing_but_an_integrity_error(local_store: Store) -> None:
    # The footer has no checksum of its own; the manifest's SHA-256 stands for it.
    write_table(local_store, "t.parquet", pa.table({"_": pa.array([1, 2, 3]), "ααα": ["a", "b", "c"]}))
    data = local_store.read("t.parquet")
    for place in range(footer_start(data), len(data)):
        for flip in (4, 128):
            local_store.write("bad.parquet", data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            try:
                read_table(local_store, "bad.parquet")
            except IntegrityError:
                continue


def groups_of(store: Store, values: list, column: str = "object_id") -> dict[int, list]:
    """First row and content of the row groups that are read for some values."""
    return {start: found.to_pylist() for start, found in read_sorted_groups(store, "t.parquet", column, values)}


def test_only_the_groups_that_can_hold_a_value_are_read(store: Store) -> None:
    write_table(store, "t.parquet", pa.table({"object_id": range(0, 200, 2)}), rows_per_group=10)
    assert groups_of(store, [0]) == {0: list(range(0, 20, 2))}
    assert groups_of(store, [199, 41, 198]) == {20: list(range(40, 60, 2)), 90: list(range(180, 200, 2))}
    assert groups_of(store, [38, 40, 38]).keys() == {10, 20}
    assert groups_of(store, [19, -1, 200]) == {}
    assert groups_of(store, []) == {}
    assert groups_of(store, list(range(200))).keys() == set(range(0, 100, 10))


def test_texts_are_found_in_the_order_of_their_bytes(store: Store) -> None:
    names = sorted(["", "A", "Z", "a", "zz", "é", "ÿ", "\u3042", "\ufffd", "\U0001f30c"])
    write_table(store, "t.parquet", pa.table({"object_id": names}), rows_per_group=2)
    for number, name in enumerate(names):
        assert name in groups_of(store, [name])[number // 2 * 2]
    assert groups_of(store, ["B", "zzz", "\U0001ffff"]).keys() <= {2, 4}


def test_a_value_that_several_groups_hold_is_read_from_all_of_them(local_store: Store) -> None:
    write_table(local_store, "t.parquet", pa.table({"object_id": [1, 2, 2, 2, 2, 3]}), rows_per_group=2)
    assert groups_of(local_store, [2]) == {0: [1, 2], 2: [2, 2], 4: [2, 3]}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-50, 50), max_size=40), st.lists(st.integers(-60, 60), max_size=5), st.integers(1, 9))
def test_no_row_with_a_wanted_value_is_left_out(
    local_store: Store, ids: list[int], wanted: list[int], rows_per_group: int
) -> None:
    write_table(local_store, "t.parquet", pa.table({"object_id": pa.array(ids, pa.int64())}), rows_per_group)
    found = groups_of(local_store, wanted)
    for start, part in found.items():
        assert part == ids[start : start + rows_per_group]
    rows = {start + at for start, part in found.items() for at, value in enumerate(part) if value in wanted}
    assert rows == {row for row, value in enumerate(ids) if value in wanted}


@pytest.mark.parametrize("long", [False, True])
def test_groups_without_limits_are_read(local_store: Store, long: bool) -> None:
    # Parquet leaves out limits of more than 4 KiB.
    names = [letter * (5000 if long else 1) for letter in "abcd"]
    sink = io.BytesIO()
    pq.write_table(pa.table({"object_id": names}), sink, row_group_size=2, write_statistics=long)
    local_store.write("t.parquet", sink.getvalue())
    assert groups_of(local_store, ["c"]).keys() == {0, 2}
    assert groups_of(local_store, []) == {}


def test_a_column_behind_nested_ones_is_judged_by_its_own_limits(local_store: Store) -> None:
    nested = {
        "shape": [{"object_id": 0.5, "radius": 2.0}] * 4,
        "embedding": pa.array([[1.0, 2.0]] * 4, vector_type(2)),
        "object_id": [1, 2, 3, 4],
    }
    write_table(local_store, "t.parquet", pa.table(nested), rows_per_group=2)
    assert groups_of(local_store, [4]) == {2: [3, 4]}


def test_a_column_that_is_not_there_and_a_cut_file_are_refused(store: Store) -> None:
    record = write_table(store, "t.parquet", table())
    with pytest.raises(IntegrityError, match=r"t\.parquet"):
        groups_of(store, [5], "ra_deg")
    store.write("t.parquet", store.read("t.parquet")[: record.size_bytes // 2])
    with pytest.raises(IntegrityError, match=r"t\.parquet: not a whole Parquet file"):
        groups_of(store, [5])
