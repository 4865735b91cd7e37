"""Named arrays and JSON through a store."""

import json

import numpy as np
import pytest

from engine.storage.arrays import read_arrays, write_arrays, write_json
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
