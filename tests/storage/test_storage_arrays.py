"""Named arrays and JSON through a store."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.storage.arrays import map_arrays, read_arrays, write_arrays, write_json
from engine.storage.store import Store
from schemas.errors import InputNotFoundError, IntegrityError


def test_arrays_come_back_with_types_shapes_and_names(store: Store) -> None:
    arrays = {
        "components": np.random.default_rng(0).normal(size=(4, 7)).T,
        "mean": np.arange(7, dtype=np.float32)[::2],
        "n": np.array(5, np.int64),
    }
    write_arrays(store, "pca.safetensors", arrays)
    found = read_arrays(store, "pca.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array.reshape(found[name].shape))


def test_a_scalar_stays_a_scalar(local_store: Store) -> None:
    write_arrays(local_store, "x", {"n": np.array(5.0)})
    assert read_arrays(local_store, "x")["n"].size == 1


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_a_cut_file_is_refused(local_store: Store, keep: int) -> None:
    write_arrays(local_store, "x.safetensors", {"a": np.arange(10.0)})
    local_store.write("x.safetensors", local_store.read("x.safetensors")[:keep])
    with pytest.raises(IntegrityError, match=r"x\.safetensors: not a whole safetensors file"):
        read_arrays(local_store, "x.safetensors")


def test_a_missing_file_is_told_apart(local_store: Store) -> None:
    with pytest.raises(InputNotFoundError):
        read_arrays(local_store, "x.safetensors")


def test_json_is_readable_and_ends_with_a_line(local_store: Store) -> None:
    write_json(local_store, "pca.json", {"n": 3, "names": ["a", "é"]})
    text = local_store.read("pca.json").decode()
    assert text.endswith("}\n")
    assert json.loads(text) == {"n": 3, "names": ["a", "é"]}


def mapped(store: Store, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    write_arrays(store, "x.safetensors", arrays)
    return map_arrays(Path(store.full_path("x.safetensors")))


def test_arrays_are_mapped_as_they_are_read_aligned_and_read_only(local_store: Store) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "blocks": random.normal(size=(3, 5, 128)).astype(np.float32),
        "rows": random.integers(100, size=(3, 128)).astype(np.int32),
        "odd": random.normal(size=7).astype(np.float32),
        "double": random.normal(size=(2, 3)),
        "long": np.array([2**40]),
        "scalar": np.array(5.0),
    }
    found = mapped(local_store, arrays)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].flags.aligned
        assert not found[name].flags.writeable
        np.testing.assert_array_equal(found[name], read_arrays(local_store, "x.safetensors")[name])


@pytest.mark.parametrize("others", [{}, {"more": np.arange(3.0)}])
def test_empty_arrays_keep_their_shapes(local_store: Store, others: dict[str, np.ndarray]) -> None:
    found = mapped(local_store, {"blocks": np.empty((0, 10, 128), np.float32), "low": np.empty((10, 0)), **others})
    assert found["blocks"].shape == (0, 10, 128)
    assert found["blocks"].dtype == np.float32
    assert found["low"].shape == (10, 0)


def assert_not_mapped(folder: Path, data: bytes) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"x\.safetensors: not a whole safetensors file"):
        map_arrays(path)


def test_a_file_that_was_cut_anywhere_is_not_mapped(local_store: Store, tmp_path: Path) -> None:
    write_arrays(local_store, "x", {"a": np.arange(10.0), "b": np.arange(3, dtype=np.int32)})
    data = local_store.read("x")
    for length in range(len(data)):
        assert_not_mapped(tmp_path, data[:length])


def with_header(header: object, data: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**fields: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | fields


@pytest.mark.parametrize(
    "data",
    [
        (2**20).to_bytes(8, "little") + b"{" * 2**20,
        (2**63).to_bytes(8, "little") + b"{}",
        (2**20 - 1).to_bytes(8, "little") + b"[" * 2**20,
        with_header([]),
        with_header("text"),
        with_header(5),
        with_header({}),
        with_header({"a": None}),
        with_header({"a": entry(dtype="F16")}),
        with_header({"a": entry(dtype=["F32"])}),
        with_header({"a": entry(shape=[5])}),
        with_header({"a": entry(shape=[2**70])}),
        with_header({"a": entry(shape=["4"])}),
        with_header({"a": entry(data_offsets=[0, 10**30])}),
        with_header({"a": entry(data_offsets=[0, 15])}),
        with_header({"a": entry(data_offsets=[])}),
        with_header({"a": entry(data_offsets="all")}),
        with_header({"a": {"dtype": "F32"}}),
        b"\x08\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(64),
    ],
)
def test_a_header_that_promises_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    assert_not_mapped(tmp_path, data)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200), st.binary(min_size=1, max_size=9))
def test_whatever_bytes_are_changed_nothing_but_an_integrity_error_is_raised(
    local_store: Store, place: int, change: bytes
) -> None:
    data = bytearray(local_store.read("x") if local_store.exists("x") else b"")
    if not data:
        write_arrays(local_store, "x", {"a": np.arange(10.0), "b": np.arange(3, dtype=np.int32)})
        data = bytearray(local_store.read("x"))
    data[place : place + len(change)] = change
    path = Path(local_store.full_path("changed.safetensors"))
    path.write_bytes(data)
    try:
        map_arrays(path)
    except IntegrityError:
        return
