"""What the service needs of the map of a release, whoever gives it.

Methods block, may be called from several threads at once, and raise errors of `schemas.errors`.
"""

from typing import Protocol

import numpy as np
import pyarrow as pa

from schemas.service_map import MapAnswer


class ReleaseMap(Protocol):
    """A map that can be looked at."""

    def about(self) -> MapAnswer:
        """Say what the map is of."""

    def positions(self, start: int, n: int) -> np.ndarray:
        """Read positions of points, (at most n, 2) float32; of those beyond the last none."""

    def values(self, column: str, start: int, n: int) -> np.ndarray:
        """Read values of points, (at most n,) float32; NaN where there is none, and where it is not finite.

        Raises
        ------
        DataError
            There is no such column of numbers.
        """

    def objects(self, rows: np.ndarray) -> pa.Table:
        """Read `object_id`, `ra_deg` and `dec_deg` of points, in the order of rows, all of which are there."""
