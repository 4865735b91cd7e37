"""FAISS indexes: mapped as they were written; every other kind is refused before FAISS sees it."""

from itertools import permutations
from pathlib import Path

import faiss
import numpy as np
import pytest

from engine.storage.faiss_index import map_index, write_index
from engine.storage.local_copy import verified_path
from engine.storage.store import Store
from schemas.errors import IntegrityError
from schemas.index import IndexKind

KINDS: list[IndexKind] = ["flat", "ivf-flat", "hnsw-flat"]
N, D = 60, 4


def vectors(n: int = N, d: int = D) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def made(kind: IndexKind, metric: int = faiss.METRIC_L1, n: int = N, d: int = D) -> faiss.Index:
    quantiser = faiss.IndexFlatL2(d)
    if kind == "flat":
        index = faiss.IndexFlat(d, metric)
    elif kind == "hnsw-flat":
        index = faiss.IndexHNSWFlat(d, 8, metric)
    else:
        index = faiss.IndexIVFFlat(quantiser, d, 3, metric)
        index.train(vectors(n, d))
    index.add(vectors(n, d))
    return index


def forbidden() -> dict[str, faiss.Index]:
    """Indexes of other kinds: wrong under L1, or able to hide one that is."""
    return {
        "flat L2": faiss.IndexFlatL2(D),
        "flat inner product": faiss.IndexFlatIP(D),
        "renumbered": faiss.IndexIDMap2(faiss.IndexFlat(D, faiss.METRIC_L1)),
        "pre-transformed": faiss.IndexPreTransform(faiss.IndexFlat(D, faiss.METRIC_L1)),
        "product quantiser": faiss.IndexPQ(D, 2, 4, faiss.METRIC_L1),
        "scalar quantiser": faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_8bit),
        "graph of scalar quantiser": faiss.IndexHNSWSQ(D, faiss.ScalarQuantizer.QT_8bit, 8),
        "refined": faiss.IndexRefineFlat(faiss.IndexFlatL2(D)),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shard-00000.faiss"


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS reads nothing here."""
    monkeypatch.setattr(faiss, "read_index", lambda *arguments: pytest.fail("FAISS saw the file"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_is_mapped_answers_as_the_one_in_memory(store: Store, kind: IndexKind) -> None:
    index = made(kind)
    mapped = map_index(verified_path(store, write_index(store, "shard-00000.faiss", index)), kind, N, D)
    assert type(mapped) is type(index)
    if kind == "ivf-flat":
        index.nprobe = mapped.nprobe = 2
    for found, expected in zip(mapped.search(vectors(), 9), index.search(vectors(), 9), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_vectors_of_a_mapped_index_are_not_read_into_memory(local_store: Store) -> None:
    record = write_index(local_store, "shard-00000.faiss", made("ivf-flat"))
    mapped = map_index(Path(local_store.full_path(record.path)), "ivf-flat", N, D)
    assert isinstance(faiss.downcast_InvertedLists(mapped.invlists), faiss.OnDiskInvertedLists)


@pytest.mark.fault(25, "indexes of kinds that abort FAISS")
@pytest.mark.parametrize("name", forbidden())
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("unread")
def test_an_index_of_a_forbidden_kind_is_refused_before_faiss_sees_it(path: Path, kind: IndexKind, name: str) -> None:
    path.write_bytes(faiss.serialize_index(forbidden()[name]).tobytes())
    with pytest.raises(IntegrityError, match=rf"shard-00000\.faiss: expected a FAISS index of kind {kind}"):
        map_index(path, kind, N, D)


@pytest.mark.parametrize(("kind", "other"), list(permutations(KINDS, 2)))
@pytest.mark.usefixtures("unread")
def test_an_index_of_another_kind_than_the_manifest_says_is_refused_before_faiss_sees_it(
    path: Path, kind: IndexKind, other: IndexKind
) -> None:
    path.write_bytes(faiss.serialize_index(made(other)).tobytes())
    with pytest.raises(IntegrityError, match=f"expected a FAISS index of kind {kind}"):
        map_index(path, kind, N, D)


@pytest.mark.parametrize("data", [b"", b"Ix", b"not an index", bytes(1000), b"\x80\x04pickle"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("unread")
def test_what_is_no_index_is_refused_before_faiss_sees_it(path: Path, kind: IndexKind, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"expected a FAISS index of kind {kind}"):
        map_index(path, kind, N, D)


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_begins_like_an_index_is_refused(path: Path, kind: IndexKind) -> None:
    data = faiss.serialize_index(made(kind)).tobytes()
    for damaged in (data[:4], data[:16], data[:4] + bytes(500)):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"shard-00000\.faiss"):
            map_index(path, kind, N, D)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_under_another_metric_is_refused(path: Path, kind: IndexKind) -> None:
    path.write_bytes(faiss.serialize_index(made(kind, faiss.METRIC_Linf)).tobytes())
    with pytest.raises(IntegrityError, match=f"under L1, found {N} of {D} under metric {faiss.METRIC_Linf}"):
        map_index(path, kind, N, D)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(N - 1, D), (N, D + 1), (0, D)])
def test_an_index_of_another_size_is_refused(path: Path, kind: IndexKind, n: int, d: int) -> None:
    path.write_bytes(faiss.serialize_index(made(kind)).tobytes())
    with pytest.raises(IntegrityError, match=f"expected {n} vectors of {d} components under L1, found {N} of {D}"):
        map_index(path, kind, n, d)
