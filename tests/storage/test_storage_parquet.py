"""Parquet through a store: what is damaged is never returned as data."""

import numpy as np
import pyarrow as pa
import pytest

from engine.storage.parquet import read_row_group, read_table, write_table
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
