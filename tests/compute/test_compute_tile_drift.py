"""Tiles against the whole release: good ones do not stand out, bad ones do, whatever the units of component space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.pca import moments
from engine.compute.tile_drift import (
    FEWEST_OBJECTS,
    FEWEST_TILES,
    STANDS_OUT,
    TileSums,
    join,
    score_changes,
    score_means,
    score_rejects,
    score_spreads,
    sum_groups,
    sum_tiles,
    whiten,
)
from tests.generated import clustered


def measured(vectors: np.ndarray, starts: np.ndarray) -> TileSums:
    return sum_tiles(whiten(moments(vectors))(vectors), starts)


def tiles_of(n_tiles: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Objects of a few clouds, in tiles of one size: vectors, and the first row of each tile."""
    return clustered(n_tiles * n, 6, seed), np.arange(0, n_tiles * n, n)


def test_whitened_objects_have_mean_zero_and_variance_one_in_all_directions() -> None:
    vectors = clustered(4000, 6, 1)
    whitened = whiten(moments(vectors))(vectors)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(6), atol=1e-4)


def test_directions_without_variance_are_left_out() -> None:
    vectors = clustered(500, 4, 1)
    vectors[:, 2] = 7
    assert whiten(moments(vectors)).matrix.shape == (4, 3)
    assert whiten(moments(np.ones((30, 4), np.float32))).matrix.shape == (4, 0)


def test_sums_of_tiles_are_those_of_a_plain_loop() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    starts = np.array([0, 1, 25, 59])
    found = join([sum_tiles(rows[:25], starts[:2]), sum_tiles(rows[25:], starts[2:] - 25)])
    groups = sum_groups(rows, np.repeat([0, 1, 2, 4], np.diff([*starts, 60])), 5)
    for tile, (start, stop) in enumerate(zip(starts, [1, 25, 59, 60], strict=True)):
        own = rows[start:stop]
        each = ((own - own.mean(axis=0)) ** 2).mean(axis=1)
        assert found.n[tile] == stop - start
        np.testing.assert_allclose(found.mean[tile], own.mean(axis=0))
        np.testing.assert_allclose(found.variance[tile], own.var(axis=0), atol=1e-12)
        np.testing.assert_allclose([found.spread[tile], found.spread_variance[tile]], [each.mean(), each.var()])
    np.testing.assert_array_equal(groups.n, [1, 24, 34, 0, 1])
    np.testing.assert_allclose(groups.mean[[0, 1, 2, 4]], found.mean)
    np.testing.assert_allclose(groups.variance[[0, 1, 2, 4]], found.variance, atol=1e-12)
    np.testing.assert_array_equal(groups.mean[3], 0)


@pytest.mark.parametrize(("n_tiles", "n"), [(FEWEST_TILES, 25), (40, 60), (400, 100), (1000, 30)])
def test_no_tile_of_a_clean_release_stands_out(n_tiles: int, n: int) -> None:
    for seed in range(4):
        sums = measured(*tiles_of(n_tiles, n, seed))
        assert np.isfinite(score_means(sums).z).all()
        assert score_means(sums).z.max() < STANDS_OUT
        assert np.abs(score_spreads(sums).z).max() < STANDS_OUT


@pytest.mark.parametrize("n", [60, 300])
def test_a_tile_whose_vectors_are_shifted_stands_out_and_no_other(n: int) -> None:
    vectors, starts = tiles_of(60, n)
    vectors[starts[17] : starts[18]] += 0.6 * vectors.std(axis=0)
    z = score_means(measured(vectors, starts)).z
    assert np.flatnonzero(z >= STANDS_OUT).tolist() == [17]


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_tile_whose_objects_are_too_alike_or_too_unlike_stands_out(factor: float) -> None:
    vectors, starts = tiles_of(60, 100)
    own = slice(starts[5], starts[6])
    vectors[own] = vectors.mean(axis=0) + factor * (vectors[own] - vectors.mean(axis=0))
    found = score_spreads(measured(vectors, starts))
    assert np.flatnonzero(np.abs(found.z) >= STANDS_OUT).tolist() == [5]
    assert (found.z[5] > 0) == (factor > 1)
    assert found.size[5] == pytest.approx(factor**2, rel=0.35)


def test_a_tenth_of_bad_tiles_does_not_hide_itself() -> None:
    vectors, starts = tiles_of(100, 80)
    for tile in range(10):
        vectors[starts[tile] : starts[tile + 1]] += 0.8 * vectors.std(axis=0)
    z = score_means(measured(vectors, starts)).z
    assert np.flatnonzero(z >= STANDS_OUT).tolist() == list(range(10))


def test_what_tiles_differ_by_anyway_is_found_and_does_not_stand_out() -> None:
    vectors, starts = tiles_of(300, 200)
    apart = 0.15 * np.random.default_rng(2).normal(size=(300, 6)) * vectors.std(axis=0)
    vectors += np.repeat(apart, 200, axis=0).astype(np.float32)
    found = score_means(measured(vectors, starts))
    assert found.z.max() < STANDS_OUT
    assert found.intrinsic == pytest.approx(0.15 * np.sqrt(6), rel=0.2)


def test_small_tiles_may_be_farther_off_than_large_ones() -> None:
    random = np.random.default_rng(0)
    n = np.array([25] * 30 + [2500] * 30)
    starts = np.concatenate([[0], np.cumsum(n)[:-1]])
    vectors = random.normal(size=(n.sum(), 4)).astype(np.float32)
    for tile in (3, 40):
        vectors[starts[tile] : starts[tile] + n[tile]] += 0.25
    z = score_means(measured(vectors, starts)).z
    assert np.flatnonzero(z >= STANDS_OUT).tolist() == [40]


def test_tiles_of_few_objects_and_few_tiles_are_not_judged() -> None:
    vectors, starts = tiles_of(FEWEST_TILES + 1, FEWEST_OBJECTS)
    sums = measured(vectors[:-1], starts)
    assert np.flatnonzero(np.isnan(score_means(sums).z)).tolist() == [FEWEST_TILES]
    few = measured(*tiles_of(FEWEST_TILES - 1, 100))
    assert np.isnan(score_means(few).z).all()
    assert np.isnan(score_spreads(few).z).all()


def test_objects_that_are_all_alike_do_not_stand_out() -> None:
    sums = measured(np.ones((500, 3), np.float32), np.arange(0, 500, 50))
    assert np.isnan(score_means(sums).z).all()
    assert np.isnan(score_spreads(sums).z).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_scores_do_not_depend_on_the_units_and_directions_of_component_space(seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors, starts = tiles_of(20, 40)
    vectors[:40] += vectors.std(axis=0)
    turn = np.linalg.qr(random.normal(size=(6, 6)))[0] * random.uniform(0.1, 10, 6)
    own, other = (measured(one.astype(np.float64), starts) for one in (vectors, vectors @ turn + random.normal(size=6)))
    # The spread has no direction; the mean is judged by component, and a bad tile is bad in any.
    np.testing.assert_allclose(score_spreads(other).z, score_spreads(own).z, atol=0.05)
    assert [int(np.argmax(score_means(one).z)) for one in (own, other)] == [0, 0]


def test_tiles_that_did_not_change_do_not_stand_out_beside_one_that_did() -> None:
    n, zeros = np.full(30, 50), np.zeros((30, 4))
    assert np.abs(score_changes(n, zeros, zeros).z).max() < 1e-9
    moved = zeros.copy()
    moved[11] = 0.05
    found = score_changes(n, moved, zeros)
    assert np.flatnonzero(found.z >= STANDS_OUT).tolist() == [11]
    assert found.size[11] == pytest.approx(0.1)


def test_changes_too_small_to_matter_do_not_stand_out_however_sure_they_are() -> None:
    moved = np.zeros((30, 4))
    moved[11] = 5e-4
    assert score_changes(np.full(30, 50), moved, np.zeros((30, 4))).z[11] < STANDS_OUT


def test_a_tile_of_many_rejects_stands_out_and_one_of_a_large_share_of_few_does_not() -> None:
    n_objects = np.array([400] * 40 + [2])
    n_rejected = np.random.default_rng(0).poisson(4, 41)
    n_rejected[7], n_rejected[40] = 60, 1
    z = score_rejects(n_objects, n_rejected)
    assert np.flatnonzero(z >= STANDS_OUT).tolist() == [7]
    assert np.isnan(score_rejects(n_objects[:3], n_rejected[:3])).all()
