"""The grid of an atlas: square cells that cover the map, each with the galaxy nearest to its centre."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.atlas import Grid, grid_over, merge, nearest_to_centres


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 60), st.integers(1, 60))
def test_a_grid_covers_its_rectangle_and_keeps_to_the_page(
    width: float, height: float, columns: int, most_rows: int
) -> None:
    low, high = np.array([-3.0, 5.0]), np.array([-3.0 + width, 5.0 + height])
    grid = grid_over(low, high, columns, most_rows)
    assert grid.columns == columns
    assert 1 <= grid.rows <= most_rows
    corners = np.array([low, high, [low[0], high[1]], [high[0], low[1]], (low + high) / 2])
    inside = sum(len(nearest_to_centres(corners[[row]], grid).cells) for row in range(5))
    assert inside == 5


def test_the_nearest_to_the_centre_of_each_cell_are_found_from_the_top_left() -> None:
    grid = Grid(left=0, top=2, side=1, columns=3, rows=2)
    positions = np.array([[0.9, 1.9], [0.5, 1.45], [0.6, 1.5], [2.5, 0.5], [2.5, 0.5], [5, 5], [-0.1, 1]])
    found = nearest_to_centres(positions, grid, first_row=100)
    assert found.cells.tolist() == [0, 5]
    assert found.objects.tolist() == [101, 103]  # Of two as near the first.
    assert found.distances.tolist() == pytest.approx([0.05, 0])


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 10))
def test_parts_give_what_all_of_it_gives(first: int, second: int, seed: int) -> None:
    positions = np.random.default_rng(seed).uniform(0, 4, (400, 2))
    grid = grid_over(np.zeros(2), np.full(2, 4.0), 7, 7)
    cuts = [0, *sorted((first, first + second)), 400]
    parts = [nearest_to_centres(positions[start:stop], grid, start) for start, stop in pairwise(cuts)]
    for one, other in zip(merge(parts), nearest_to_centres(positions, grid), strict=True):
        assert np.array_equal(one, other)
