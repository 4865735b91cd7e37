"""Positions on the sphere: HEALPix pixels, adaptive partitions, separations and matches. Angles in degrees (ICRS)."""

from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.coordinates import Latitude, Longitude, SkyCoord, angular_separation
from cdshealpix.nested import lonlat_to_healpix

HEALPIX_ORDER = 29
DEEPEST_PARTITION_ORDER = 20
"""Pixels of 0.2 arcsec: where more objects than fit share one, the partition is simply larger."""


class Slice(NamedTuple):
    """A run of rows of a table sorted by HEALPix that lies in one pixel."""

    order: int
    pixel: int
    start: int
    stop: int


def is_position(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Whether each (RA, Dec) is finite and inside [0, 360) x [-90, 90] degrees; NaN is not."""
    return (ra_deg >= 0) & (ra_deg < 360) & (dec_deg >= -90) & (dec_deg <= 90)


def healpix_29(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """HEALPix pixels at order 29, nested, of valid positions: (n,) int64."""
    if len(ra_deg) == 0:
        return np.empty(0, np.int64)
    return np.asarray(
        lonlat_to_healpix(Longitude(ra_deg, unit="deg"), Latitude(dec_deg, unit="deg"), HEALPIX_ORDER), dtype=np.int64
    )


def partition(healpix: np.ndarray, max_rows: int) -> list[Slice]:
    """Cut the sky into the largest pixels that hold at most `max_rows` objects each.

    Parameters
    ----------
    healpix : (n,) int64 array, ascending
        Pixels at order 29.
    max_rows : int
        At least 1. A pixel at `DEEPEST_PARTITION_ORDER` is not divided further, however many objects it holds.

    Returns
    -------
    list of Slice
        In order of position, without empty pixels; together they cover every row once.
    """
    pending = [(0, pixel) for pixel in reversed(range(12))]
    slices = []
    while pending:
        order, pixel = pending.pop()
        shift = 2 * (HEALPIX_ORDER - order)
        start, stop = np.searchsorted(healpix, [pixel << shift, (pixel + 1) << shift])
        if stop - start > max_rows and order < DEEPEST_PARTITION_ORDER:
            pending.extend((order + 1, 4 * pixel + child) for child in (3, 2, 1, 0))
        elif stop > start:
            slices.append(Slice(order, pixel, int(start), int(stop)))
    return slices


def separation_arcsec(ra_deg: float, dec_deg: float, other_ra_deg: np.ndarray, other_dec_deg: np.ndarray) -> np.ndarray:
    """Great-circle separations of one position from others, (n,) float64 arcsec; right at the poles too."""
    separation_rad = angular_separation(
        np.radians(ra_deg), np.radians(dec_deg), np.radians(other_ra_deg), np.radians(other_dec_deg)
    )
    return np.degrees(separation_rad) * 3600.0


def match(
    ra_deg: np.ndarray, dec_deg: np.ndarray, other_ra_deg: np.ndarray, other_dec_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each position the nearest of the others on the sphere.

    Returns
    -------
    rows : (n,) int64 array
        Rows of the nearest other.
    separations_arcsec : (n,) float64 array
    """
    catalogue = SkyCoord(other_ra_deg, other_dec_deg, unit="deg")
    rows, separation, _ = SkyCoord(ra_deg, dec_deg, unit="deg").match_to_catalog_sky(catalogue)
    return np.asarray(rows, dtype=np.int64), separation.to_value(u.arcsec)


def look_swapped(ra_deg: np.ndarray, dec_deg: np.ndarray) -> bool:
    """Whether RA and Dec are probably exchanged: of the invalid positions, more than half are valid the other way."""
    bad = ~is_position(ra_deg, dec_deg)
    swapped = is_position(dec_deg[bad], ra_deg[bad])
    return bool(bad.any()) and int(swapped.sum()) * 2 > int(bad.sum())


def look_like_hours(ra_deg: np.ndarray, dec_deg: np.ndarray) -> bool:
    """Whether RA is probably in hours: of 20 objects or more none above 24, although Dec spans over 48 degrees."""
    good = is_position(ra_deg, dec_deg)
    return bool(good.sum() >= 20 and ra_deg[good].max() <= 24 and np.ptp(dec_deg[good]) > 48)
