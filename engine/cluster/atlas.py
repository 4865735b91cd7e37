"""Which galaxies an atlas shows: of each cell of the map the one nearest to its centre, among all that qualify."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from engine.cluster.space import read_part
from engine.compute.atlas import Best, Grid, grid_over, merge, nearest_to_centres
from engine.compute.predicate import Predicate
from engine.storage.store import Store
from schemas.errors import DataError
from schemas.partition import PartitionFile
from schemas.tables import MAP_X, MAP_Y, OBJECT_ID

_READS_AT_ONCE = 8


class Chosen(NamedTuple):
    """Galaxies of an atlas."""

    grid: Grid
    cells: np.ndarray
    """(c,) int64: cells of the grid that have a galaxy, ascending."""
    ids: list[str]
    """Of the galaxy of each, as text."""
    n_objects: int
    """That qualified."""


class Mapped(NamedTuple):
    """A map and the components that it was made from, partition by partition alike."""

    folder: Store
    partitions: Sequence[PartitionFile]
    components: Store
    components_partitions: Sequence[PartitionFile]


def choose(
    mapped: Mapped, columns: int, most_rows: int, where: str | None, advance: Callable[[int], None] | None = None
) -> Chosen:
    """Choose the galaxies of an atlas; the grid covers those that qualify, and no more.

    Raises
    ------
    ConfigError
        The condition is none, or compares what cannot be compared so.
    DataError
        No object meets it.
    """
    predicate = None if where is None else Predicate(where)
    starts = np.cumsum([0, *(part.n_rows for part in mapped.partitions)])

    def positions_of(number: int) -> np.ndarray:
        """Positions of a partition's objects; NaN for those that do not qualify."""
        table = read_part(mapped.folder, mapped.partitions[number], [MAP_X, MAP_Y])
        positions = np.column_stack([table[name].to_numpy() for name in (MAP_X, MAP_Y)])
        if predicate:
            rows = read_part(mapped.components, mapped.components_partitions[number], list(predicate.columns))
            good = pc.fill_null(predicate.mask(rows), False).to_numpy(zero_copy_only=False)
            positions = np.where(good[:, None], positions, np.nan)
        return positions

    def corners(number: int) -> tuple[np.ndarray, np.ndarray, int]:
        found = positions_of(number)
        found = found[np.isfinite(found[:, 0])]
        nowhere = np.full(2, np.inf)
        return (found.min(axis=0), found.max(axis=0), len(found)) if len(found) else (nowhere, -nowhere, 0)

    def best(number: int) -> tuple[Best, list[str]]:
        found = positions_of(number)
        nearest = nearest_to_centres(found[np.isfinite(found[:, 0])], grid)
        rows = np.flatnonzero(np.isfinite(found[:, 0]))[nearest.objects]
        names = read_part(mapped.folder, mapped.partitions[number], [OBJECT_ID])[OBJECT_ID].take(rows).to_pylist()
        if advance:
            advance(len(found))
        return nearest._replace(objects=rows + starts[number]), [str(name) for name in names]

    numbers = range(len(mapped.partitions))
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        lows, highs, counts = zip(*pool.map(corners, numbers), strict=True)
        if not sum(counts):
            raise DataError(f"where: expected at least one object for which {where!r} holds, found none")
        grid = grid_over(np.min(lows, axis=0), np.max(highs, axis=0), columns, most_rows)
        found = list(pool.map(best, numbers))
    together = merge([one for one, _ in found])
    names = {int(row): name for one, ids in found for row, name in zip(one.objects, ids, strict=True)}
    return Chosen(grid, together.cells, [names[int(row)] for row in together.objects], sum(counts))
