"""Cells: how many, where, and to which shards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.quantiser import n_cells_for, nearest_cells, share_out, train

quick = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize(
    ("n_rows", "n_cells"), [(1, 1), (38, 1), (77, 1), (78, 2), (24_336, 624), (10**6, 4000), (10**8, 40_000)]
)
def test_cells_are_four_times_the_root_of_the_catalogue_but_hold_thirty_nine_objects(n_rows: int, n_cells: int) -> None:
    assert n_cells_for(n_rows) == n_cells


def blobs(n: int, d: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.integers(4, size=(n, 1)) * 10 + random.normal(size=(n, d))).astype(np.float32)


def test_training_twice_gives_the_same_centroids_to_the_bit_and_writes_into_nothing() -> None:
    sample = blobs(3000, 6)
    kept = sample.copy()
    centroids = train(sample, 40)
    assert centroids.shape == (40, 6)
    assert centroids.dtype == np.float32
    np.testing.assert_array_equal(train(sample, 40), centroids)
    np.testing.assert_array_equal(sample, kept)
    assert (train(sample, 40, seed=1) != centroids).any()


def test_centroids_lie_in_the_middle_of_what_belongs_together() -> None:
    sample = blobs(2000, 1)
    means = [sample[np.abs(sample - centre) < 5].mean() for centre in (0, 10, 20, 30)]
    np.testing.assert_allclose(np.sort(train(sample, 4).ravel()), means, atol=0.5)


@pytest.mark.parametrize(("n", "n_cells"), [(1, 1), (5, 1), (5, 5), (100, 99)])
def test_few_vectors_and_equal_ones_give_finite_cells_too(n: int, n_cells: int) -> None:
    for sample in (blobs(n, 3), np.ones((n, 3), np.float32)):
        centroids = train(sample, n_cells)
        assert centroids.shape == (n_cells, 3)
        assert np.isfinite(centroids).all()


def test_the_nearest_cells_are_those_of_least_squares_nearest_first() -> None:
    random = np.random.default_rng(0)
    vectors, centroids = random.normal(size=(50, 4)), random.normal(size=(9, 4)).astype(np.float32)
    squares = ((vectors[:, np.newaxis].astype(np.float32) - centroids) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest_cells(vectors, centroids, 3), np.argsort(squares, axis=1)[:, :3])


@quick
@given(c=st.integers(1, 60), d=st.integers(1, 5), n_shards=st.integers(1, 80), seed=st.integers(0, 1000))
def test_every_cell_has_a_shard_and_no_shard_is_empty_while_there_are_cells_for_it(
    c: int, d: int, n_shards: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(0, 50, c) * random.integers(0, 2, c)
    shards = share_out(random.normal(size=(c, d)).astype(np.float32), weights, n_shards)
    assert shards.dtype == np.int32
    assert shards.shape == (c,)
    assert ((shards >= 0) & (shards < n_shards)).all()
    assert len(np.unique(shards)) == min(c, n_shards)


@quick
@given(n_shards=st.integers(1, 12), seed=st.integers(0, 1000))
def test_shards_weigh_the_same_but_for_a_cell_or_two(n_shards: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(1, 100, 30 * n_shards)
    shards = share_out(random.normal(size=(len(weights), 4)).astype(np.float32), weights, n_shards)
    sums = np.bincount(shards, weights, n_shards)
    assert np.abs(sums - sums.mean()).max() <= 1.5 * weights.max()


@pytest.mark.parametrize("weights", [[1, 100], [100, 1], [1, 1], [0, 0]])
def test_two_cells_go_to_two_shards_whatever_they_weigh(weights: list[int]) -> None:
    assert sorted(share_out(np.array([[0.0], [1.0]], np.float32), np.array(weights), 2)) == [0, 1]


def test_cells_of_equal_weight_are_halved_exactly() -> None:
    centroids = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)
    assert (np.bincount(share_out(centroids, np.full(256, 77), 64)) == 4).all()


@quick
@given(c=st.integers(1, 60), n_shards=st.integers(1, 9), seed=st.integers(0, 1000))
def test_on_a_line_a_shard_is_a_run_of_neighbouring_cells(c: int, n_shards: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    centroids = random.normal(size=(c, 1)).astype(np.float32)
    shards = share_out(centroids, random.integers(1, 9, c), n_shards)
    assert (np.diff(shards[np.argsort(centroids[:, 0])]) >= 0).all()


def test_shards_of_a_plane_do_not_overlap() -> None:
    centroids = np.random.default_rng(0).uniform(size=(300, 2)).astype(np.float32)
    shards = share_out(centroids, np.ones(300), 7)
    low, high = (
        np.array([side(centroids[shards == number], axis=0) for number in range(7)]) for side in (np.min, np.max)
    )
    for one in range(7):
        for other in range(one):
            assert ((high[one] < low[other]) | (high[other] < low[one])).any()
