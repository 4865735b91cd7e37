"""FAISS indexes of one shard: the kinds that are right under L1, cells probed as asked, recall as defined."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.approximate import build, recall, search
from engine.compute.quantiser import nearest_cells, train
from schemas.index import IndexKind

KINDS: list[IndexKind] = ["flat", "ivf-flat", "hnsw-flat"]
NO_CELLS = np.empty((1, 0), np.int64)


def gaussian(n: int, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "made"), [("flat", faiss.IndexFlat), ("ivf-flat", faiss.IndexIVFFlat), ("hnsw-flat", faiss.IndexHNSWFlat)]
)
def test_an_index_is_of_its_kind_under_l1_and_holds_every_vector(kind: IndexKind, made: type) -> None:
    vectors = gaussian(200)
    index = build(vectors, kind, train(vectors, 5))
    assert type(index) is made
    assert (index.metric_type, index.ntotal, index.d) == (faiss.METRIC_L1, 200, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_is_its_own_nearest_and_distances_are_sums_of_absolute_differences(kind: IndexKind) -> None:
    vectors = gaussian(300)
    centroids = train(vectors, 4)
    index = build(vectors, kind, centroids)
    distances, rows = search(index, vectors[:20], 3, 64, nearest_cells(vectors[:20], centroids, 4))
    assert rows[:, 0].tolist() == list(range(20))
    np.testing.assert_allclose(distances, np.abs(vectors[:20, np.newaxis] - vectors[rows]).sum(axis=2), rtol=1e-5)
    assert (np.diff(distances) >= 0).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), n_cells=st.integers(1, 9), width=st.integers(1, 14), k=st.integers(1, 50))
def test_exactly_the_objects_of_the_cells_that_are_asked_are_looked_at(
    seed: int, n_cells: int, width: int, k: int
) -> None:
    # Rows may be wider than there are cells: what is left of them is in other shards.
    random = np.random.default_rng(seed)
    vectors = gaussian(60, seed=seed)
    centroids = train(vectors, n_cells)
    cell_of = nearest_cells(vectors, centroids, 1)[:, 0]
    probed = np.full((3, width), -1)
    for line in probed:
        some = random.permutation(n_cells)[: random.integers(1, min(n_cells, width) + 1)]
        line[random.permutation(width)[: len(some)]] = some
    k = min(k, len(vectors))
    distances, rows = search(build(vectors, "ivf-flat", centroids), vectors[:3], k, 1, probed)
    for number in range(3):
        members = np.flatnonzero(np.isin(cell_of, probed[number]))
        exact = np.sort(np.abs(vectors[members] - vectors[number]).sum(axis=1))[:k]
        n = len(exact)
        assert set(rows[number, :n]) <= set(members)
        np.testing.assert_allclose(distances[number, :n], exact, rtol=1e-5)
        assert (rows[number, n:] == -1).all()
        assert np.isinf(distances[number, n:]).all()


def test_more_effort_finds_more_in_a_graph() -> None:
    vectors, queries = gaussian(3000, 20), gaussian(50, 20, 1)
    exact = search(build(vectors, "flat", vectors[:1]), queries, 10, 1, NO_CELLS)[1]
    graph = build(vectors, "hnsw-flat", vectors[:1])
    low, high = (recall(search(graph, queries, 10, effort, NO_CELLS)[1], exact) for effort in (1, 256))
    assert low < high
    assert high > 0.95


def test_recall_is_the_mean_share_of_true_neighbours_that_were_found() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
    found = np.array([[4, 9, 1, -1], [7, 6, 5, 8], [1, 2, 3, 4]])
    assert recall(found, exact) == (0.5 + 1.0) / 2
    assert recall(exact, exact) == 1.0
    assert recall(np.full((3, 4), -1), exact) == 0.0


def test_where_there_are_no_true_neighbours_none_is_missed() -> None:
    assert recall(np.empty((2, 0), int), np.empty((2, 0), int)) == 1.0
    assert recall(np.empty((0, 5), int), np.empty((0, 5), int)) == 1.0
