"""Margins: what lies so near to a partition that a cross-match of the partition needs it. Pure; angles in arcsec."""

import numpy as np

from engine.compute.sky import HEALPIX_ORDER
from schemas.partition import Partition

_ORDER_0_ARCSEC = np.degrees(np.sqrt(np.pi / 3)) * 3600
"""Side of a square as large as a pixel of order 0; each order halves it."""
_NARROWEST = 0.5
"""No pixel is narrower than this share of that side; near the poles, where they are, hats reckons with 0.62."""


def margin_order(radius_arcsec: float) -> int:
    """Return the deepest order whose pixels are nowhere narrower than a radius, so that one ring of them covers it."""
    order = np.floor(np.log2(_NARROWEST * _ORDER_0_ARCSEC / radius_arcsec))
    return int(np.clip(order, 0, HEALPIX_ORDER))


def margin_pixels(partition: Partition, order: int) -> np.ndarray:
    """List the pixels of an order that surround a partition: (n,) int64, ascending.

    Of a partition that is smaller than these pixels, the one that it lies in is among them.
    """
    from cdshealpix import external_neighbours
    from cdshealpix.nested import neighbours

    deeper = order - partition.order
    if deeper > 0:
        found = np.concatenate(
            [np.ravel(part) for part in external_neighbours(np.array([partition.pixel]), partition.order, deeper)]
        )
    else:
        found = np.ravel(neighbours(np.array([partition.pixel >> -2 * deeper]), order))
    found = np.unique(found.astype(np.int64))
    return found[found >= 0]


def overlapping(pixels: np.ndarray, order: int, partitions: list[Partition]) -> list[int]:
    """List the partitions, given in order of position, that share sky with any of these pixels: their places."""
    shift = 2 * (HEALPIX_ORDER - order)
    starts = np.array([part.first_healpix for part in partitions], np.int64)
    ends = np.array([_end(part) for part in partitions], np.int64)
    first = np.searchsorted(ends, pixels << shift, side="right")
    last = np.searchsorted(starts, (pixels + 1) << shift, side="left")
    touched = np.zeros(len(partitions) + 1, np.int64)
    np.add.at(touched, first, 1)
    np.add.at(touched, last, -1)
    return np.flatnonzero(np.cumsum(touched[:-1])).tolist()


def in_margin(healpix: np.ndarray, partition: Partition, pixels: np.ndarray, order: int) -> np.ndarray:
    """Whether objects lie in these pixels and outside of the partition: (n,) bool, of pixels at order 29."""
    inside = (healpix >= partition.first_healpix) & (healpix < _end(partition))
    return np.isin(healpix >> 2 * (HEALPIX_ORDER - order), pixels) & ~inside


def _end(partition: Partition) -> int:
    return (partition.pixel + 1) << 2 * (HEALPIX_ORDER - partition.order)
