"""The grid of an atlas: a map cut into square cells, and of each cell the object nearest to its centre."""

from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Square cells over a map, counted row by row from the top left, where y is largest."""

    left: float
    top: float
    side: float
    """Of a cell, in units of the map."""
    columns: int
    rows: int


class Best(NamedTuple):
    """The object nearest to the centre of each cell that has any."""

    cells: np.ndarray
    """(c,) int64, ascending."""
    objects: np.ndarray
    """(c,) int64: rows."""
    distances: np.ndarray
    """(c,) float64 from the centre, in cells."""


def grid_over(low: np.ndarray, high: np.ndarray, columns: int, most_rows: int) -> Grid:
    """Cover a rectangle with square cells, its centre in the grid's.

    Parameters
    ----------
    low, high : (2,) arrays
        Corners of the rectangle, x and y.
    columns : int
        Across; fewer than asked are filled where `most_rows` would not hold the height.
    most_rows : int

    Returns
    -------
    Grid
        With as many rows as the rectangle needs, at least one.
    """
    width, height = (np.asarray(high, float) - low).tolist()
    # A little larger than the rectangle, so that what lies on its edge is inside, and a point has a cell as well.
    side = max(width / columns, height / most_rows, np.finfo(np.float32).tiny) * (1 + 1e-6)
    rows = max(1, min(most_rows, int(np.ceil(height / side))))
    centre = (np.asarray(high, float) + low) / 2
    return Grid(float(centre[0] - side * columns / 2), float(centre[1] + side * rows / 2), side, columns, rows)


def nearest_to_centres(positions: np.ndarray, grid: Grid, first_row: int = 0) -> Best:
    """Find the object nearest to the centre of each cell; of several as near the first.

    Parameters
    ----------
    positions : (n, 2) array
        Finite; those outside the grid are not looked at.
    grid : Grid
    first_row : int
        Of the first position, where these are some of many.
    """
    x = (positions[:, 0].astype(float) - grid.left) / grid.side
    y = (grid.top - positions[:, 1].astype(float)) / grid.side
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    inside = np.flatnonzero((column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows))
    distances = np.hypot(x - column - 0.5, y - row - 0.5)[inside]
    return _first_of_each((row * grid.columns + column)[inside], inside + first_row, distances)


def merge(found: list[Best]) -> Best:
    """Find the best of several parts of a map."""
    return _first_of_each(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _first_of_each(cells: np.ndarray, objects: np.ndarray, distances: np.ndarray) -> Best:
    order = np.lexsort((objects, distances, cells))
    firsts = order[np.unique(cells[order], return_index=True)[1]]
    return Best(cells[firsts], objects[firsts], distances[firsts])
