"""Samples that are spread, and an order whose every beginning is a fair sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.map_points import fair_order, spread_rows


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_rows_are_different_ascending_and_one_of_each_stretch(n_objects: int, n_rows: int, seed: int) -> None:
    rows = spread_rows(n_objects, n_rows, seed)
    n = min(n_objects, n_rows)
    assert len(rows) == n
    assert (np.diff(rows) > 0).all()
    edges = np.arange(n + 1) * n_objects // n
    assert ((rows >= edges[:-1]) & (rows < edges[1:])).all()


def test_every_row_is_as_likely_as_any_other() -> None:
    counts = np.bincount(np.concatenate([spread_rows(100, 20, seed) for seed in range(2000)]), minlength=100)
    assert abs(counts / 2000 - 0.2).max() < 0.04


def test_rows_depend_on_the_seed_alone() -> None:
    assert np.array_equal(spread_rows(10_000, 300, 5), spread_rows(10_000, 300, 5))
    assert not np.array_equal(spread_rows(10_000, 300, 5), spread_rows(10_000, 300, 6))
    assert np.array_equal(spread_rows(10**11, 3, 0) // (10**11 // 3), [0, 1, 2])
    assert len(spread_rows(0, 10, 0)) == 0


@pytest.mark.parametrize("n", [0, 1, 2, 3, 100, 1024, 1025])
def test_the_order_is_a_permutation(n: int) -> None:
    order = fair_order(np.random.default_rng(n).normal(0, 1, (n, 2)))
    assert sorted(order.tolist()) == list(range(n))


def test_points_at_one_place_are_ordered_as_well() -> None:
    assert sorted(fair_order(np.ones((50, 2))).tolist()) == list(range(50))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.37])
def test_a_beginning_is_spread_as_everything_is_and_more_evenly_than_by_chance(share: float) -> None:
    random = np.random.default_rng(2)
    positions = random.normal(0, 1, (20_000, 2)) * [3, 1] + random.integers(0, 3, 20_000)[:, None] * 4
    n = int(share * len(positions))

    def off(rows: np.ndarray) -> float:
        edges = [np.linspace(-10, 20, 13), np.linspace(-4, 12, 9)]
        everything, some = (np.histogram2d(*positions[part].T, bins=edges)[0] for part in (slice(None), rows))
        return float(np.abs(some - share * everything).sum())

    assert off(fair_order(positions)[:n]) < 0.7 * off(random.permutation(len(positions))[:n])
