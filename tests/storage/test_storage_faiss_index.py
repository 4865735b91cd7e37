"""FAISS shards: written as exact L1, opened only if nothing changed."""

import faiss
import numpy as np
import pytest

from engine.storage.faiss_index import read_flat_shard, write_flat_shard
from engine.storage.store import Store
from schemas.errors import IntegrityError


def vectors(n: int = 50, d: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def other_indexes() -> dict[str, faiss.Index]:
    inverted = faiss.IndexIVFFlat(faiss.IndexFlat(4, faiss.METRIC_L1), 4, 1, faiss.METRIC_L1)
    inverted.train(vectors())
    made = {
        "flat L2": faiss.IndexFlatL2(4),
        "flat inner product": faiss.IndexFlatIP(4),
        "flat maximum": faiss.IndexFlat(4, faiss.METRIC_Linf),
        "inverted lists": inverted,
        "graph": faiss.IndexHNSWFlat(4, 8, faiss.METRIC_L1),
        "renumbered": faiss.IndexIDMap2(faiss.IndexFlat(4, faiss.METRIC_L1)),
        "pre-transformed": faiss.IndexPreTransform(faiss.IndexFlat(4, faiss.METRIC_L1)),
    }
    for name in ("flat L2", "flat inner product", "graph"):
        made[name].add(vectors())
    return made


def test_a_shard_comes_back_with_its_vectors_in_order_and_l1(store: Store) -> None:
    record = write_flat_shard(store, "shard-00000.faiss", vectors())
    index = read_flat_shard(store, record)
    assert (index.ntotal, index.d, index.metric_type) == (50, 4, faiss.METRIC_L1)
    np.testing.assert_array_equal(index.reconstruct_n(0, 50), vectors())


def test_vectors_of_another_layout_are_stored_alike(local_store: Store) -> None:
    for given in (np.asfortranarray(vectors()), vectors().astype(np.float64), vectors(50, 8)[:, ::2]):
        index = read_flat_shard(local_store, write_flat_shard(local_store, "s.faiss", given))
        np.testing.assert_array_equal(index.reconstruct_n(0, 50), given.astype(np.float32))


@pytest.mark.parametrize("place", [0, 40, -1])
def test_changed_bytes_are_refused(store: Store, place: int) -> None:
    record = write_flat_shard(store, "s.faiss", vectors())
    data = bytearray(store.read("s.faiss"))
    data[place] ^= 1
    store.write("s.faiss", bytes(data))
    with pytest.raises(IntegrityError, match=rf"s\.faiss: expected SHA-256 {record.sha256}, found"):
        read_flat_shard(store, record)


def test_a_cut_shard_is_refused(local_store: Store) -> None:
    record = write_flat_shard(local_store, "s.faiss", vectors())
    local_store.write("s.faiss", local_store.read("s.faiss")[:100])
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        read_flat_shard(local_store, record)


@pytest.mark.parametrize("kind", other_indexes())
def test_an_index_of_another_kind_is_refused_even_with_the_right_hash(local_store: Store, kind: str) -> None:
    record = local_store.write("s.faiss", faiss.serialize_index(other_indexes()[kind]).tobytes())
    with pytest.raises(IntegrityError, match=r"s\.faiss: expected a flat L1 index, found Index"):
        read_flat_shard(local_store, record)


@pytest.mark.parametrize("data", [b"", b"not an index", bytes(1000)])
def test_what_is_no_index_is_refused_even_with_the_right_hash(local_store: Store, data: bytes) -> None:
    record = local_store.write("s.faiss", data)
    with pytest.raises(IntegrityError, match=r"s\.faiss"):
        read_flat_shard(local_store, record)


def test_a_missing_shard_is_told_apart(store: Store) -> None:
    record = write_flat_shard(store, "s.faiss", vectors())
    with pytest.raises(IntegrityError, match="missing, although a manifest names it"):
        read_flat_shard(store.below("elsewhere"), record)
