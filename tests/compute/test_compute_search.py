"""Neighbours: exact under L1, the same for any shards, with ties by row and exclusions on the sky."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from engine.compute.search import Neighbours, nearest, neighbours, vector

quick = settings(deadline=None, max_examples=60)


def shard(vectors: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlat(vectors.shape[1], faiss.METRIC_L1)
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


def shards(vectors: np.ndarray, cuts: list[int]) -> list[faiss.Index]:
    return [shard(piece) for piece in np.split(vectors, sorted(cuts)) if len(piece)]


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = cdist(queries, vectors, "cityblock")
    order = np.lexsort((np.broadcast_to(np.arange(len(vectors)), distances.shape), distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def on_a_line(separations_arcsec: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Positions at these separations from RA 10, Dec 0."""
    return np.full(len(separations_arcsec), 10.0), np.array(separations_arcsec) / 3600


def ask(vectors: np.ndarray, query_row: int, k: int, radius: float = 0.0, include_self: bool = False) -> Neighbours:
    ra, dec = on_a_line([1000.0 * row for row in range(len(vectors))])
    return neighbours([shard(vectors)], ra, dec, query_row, k, radius, include_self)


def test_distances_are_sums_of_absolute_differences() -> None:
    vectors = np.array([[0, 0], [3, 4], [-1, 1], [10, 10]], np.float32)
    distances, rows = nearest([shard(vectors)], np.array([[0, 0]], np.float32), 4)
    assert rows.tolist() == [[0, 2, 1, 3]]
    assert distances.tolist() == [[0, 2, 7, 20]]


@quick
@given(st.integers(0, 1000), st.integers(1, 80), st.integers(1, 12), st.data())
def test_the_nearest_are_those_of_brute_force(seed: int, n: int, d: int, data: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    vectors, queries = (
        generator.normal(size=(n, d)).astype(np.float32),
        generator.normal(size=(3, d)).astype(np.float32),
    )
    k = data.draw(st.integers(1, n))
    distances, rows = nearest([shard(vectors)], queries, k)
    expected_distances, expected_rows = brute_force(vectors, queries, k)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows, expected_rows)


@quick
@given(st.integers(0, 1000), st.integers(1, 80), st.lists(st.integers(0, 80), max_size=4), st.data())
def test_ties_are_in_order_of_row_and_shards_do_not_show(
    seed: int, n: int, cuts: list[int], data: st.DataObject
) -> None:
    # Small integers: float32 sums are exact and most distances are shared by many rows.
    generator = np.random.default_rng(seed)
    vectors, queries = (generator.integers(0, 3, (rows, 2)).astype(np.float32) for rows in (n, 4))
    k = data.draw(st.integers(1, n))
    expected_distances, expected_rows = brute_force(vectors, queries, k)
    distances, rows = nearest(shards(vectors, cuts), queries, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(distances, expected_distances)


def test_many_tied_rows_over_shards_come_in_order_of_row() -> None:
    vectors = np.random.default_rng(0).integers(0, 4, (5000, 3)).astype(np.float32)
    _, rows = nearest(shards(vectors, [1234, 1300]), vectors[:20], 200)
    np.testing.assert_array_equal(rows, brute_force(vectors, vectors[:20], 200)[1])


def test_an_object_is_no_neighbour_of_itself_unless_asked() -> None:
    vectors = np.arange(6, dtype=np.float32)[:, None]
    assert ask(vectors, 2, 3).rows.tolist() == [1, 3, 0]
    found = ask(vectors, 2, 3, include_self=True)
    assert found.rows.tolist() == [2, 1, 3]
    assert (found.distances[0], found.separations_arcsec[0]) == (0.0, 0.0)


def test_asking_for_more_than_there_is_returns_what_there_is() -> None:
    vectors = np.arange(4, dtype=np.float32)[:, None]
    assert ask(vectors, 0, 100).rows.tolist() == [1, 2, 3]
    assert ask(vectors, 0, 100, include_self=True).rows.tolist() == [0, 1, 2, 3]
    assert ask(vectors[:1], 0, 5).rows.tolist() == []


def test_objects_within_the_radius_are_left_out_and_those_on_its_edge_too() -> None:
    ra, dec = on_a_line([0, 50, 99.9, 100.1, 500])
    index = [shard(np.arange(5, dtype=np.float32)[:, None])]
    found = neighbours(index, ra, dec, 0, 5, exclusion_radius_arcsec=100.0, include_self=False)
    assert found.rows.tolist() == [3, 4]
    np.testing.assert_allclose(found.separations_arcsec, [100.1, 500], rtol=1e-6)
    edge = float(found.separations_arcsec[0])
    assert neighbours(index, ra, dec, 0, 5, edge, include_self=False).rows.tolist() == [4]


def test_without_a_radius_an_object_at_the_same_position_is_a_neighbour() -> None:
    ra, dec = on_a_line([0, 0, 5])
    index = [shard(np.arange(3, dtype=np.float32)[:, None])]
    assert neighbours(index, ra, dec, 0, 2, 0.0, include_self=False).rows.tolist() == [1, 2]


def test_the_radius_works_at_the_pole_and_across_ra_zero() -> None:
    ra, dec = np.array([0.001, 359.999, 0.2, 0, 180]), np.array([0, 0, 0, 89.999, 89.999])
    index = [shard(np.arange(5, dtype=np.float32)[:, None])]
    assert neighbours(index, ra, dec, 0, 5, 10.0, include_self=False).rows.tolist() == [2, 3, 4]
    assert neighbours(index, ra, dec, 3, 5, 10.0, include_self=False).rows.tolist() == [2, 1, 0]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 15), st.booleans(), st.lists(st.integers(0, 300), max_size=3))
def test_more_exclusions_than_asked_for_still_give_k_neighbours(
    seed: int, k: int, include_self: bool, cuts: list[int]
) -> None:
    # The 250 rows nearest in components are all nearest on the sky: the search must widen itself, several times.
    generator = np.random.default_rng(seed)
    vectors = np.sort(generator.uniform(0, 1, 300)).astype(np.float32)[:, None] + [[0.0, 1.0]]
    ra, dec = on_a_line([0.1 * row if row < 250 else 3600.0 for row in range(300)])
    found = neighbours(shards(vectors, cuts), ra, dec, 0, k, 100.0, include_self)
    expected = [*([0] if include_self else []), *range(250, 300)][:k]
    assert found.rows.tolist() == expected
    assert (np.diff(found.distances) >= 0).all()


def test_everything_excluded_gives_nobody() -> None:
    assert ask(np.zeros((20, 2), np.float32), 3, 5, radius=648_000.0).rows.tolist() == []


def test_the_query_is_listed_first_even_among_identical_vectors() -> None:
    assert ask(np.zeros((40, 2), np.float32), 30, 3, include_self=True).rows.tolist() == [30, 0, 1]


def test_identical_vectors_are_neighbours_by_row() -> None:
    assert ask(np.zeros((40, 2), np.float32), 1, 4).rows.tolist() == [0, 2, 3, 4]


def test_a_vector_comes_back_from_the_shard_that_holds_it() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    index = shards(vectors, [7, 7, 20])
    for row in (0, 6, 7, 19, 20, 29):
        np.testing.assert_array_equal(vector(index, row), vectors[row])
    with pytest.raises(IndexError, match="row"):
        vector(index, 30)
