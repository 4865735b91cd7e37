"""Positions on the sphere: HEALPix pixels, adaptive partitions, separations and matches. Angles in degrees (ICRS)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # It takes a third of a second to load, and astropy as long: each is loaded where it is used.
    from mocpy import MOC

HEALPIX_ORDER = 29
WHOLE_SKY = tuple((0, pixel) for pixel in range(12))
"""As HEALPix pixels: (order, pixel)."""
DEEPEST_PARTITION_ORDER = 20
"""Pixels of 0.2 arcsec: where more objects than fit share one, the partition is simply larger."""

_DEC_SLACK_DEG = 1e-9
"""More than separations are rounded by."""


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
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    if len(ra_deg) == 0:
        return np.empty(0, np.int64)
    return np.asarray(
        lonlat_to_healpix(Longitude(ra_deg, unit="deg"), Latitude(dec_deg, unit="deg"), HEALPIX_ORDER), dtype=np.int64
    )


def partition(healpix: np.ndarray, max_rows: int, within: Sequence[tuple[int, int]] = WHOLE_SKY) -> list[Slice]:
    """Cut the sky, or some pixels of it, into the largest pixels that hold at most `max_rows` objects each.

    Parameters
    ----------
    healpix : (n,) int64 array, ascending
        Pixels at order 29.
    max_rows : int
        At least 1. A pixel at `DEEPEST_PARTITION_ORDER` is not divided further, however many objects it holds.
    within : sequence of (order, pixel), optional
        Pixels in order of position that hold all objects; the whole sky when not given.

    Returns
    -------
    list of Slice
        In order of position, without empty pixels; together they cover every row once.
    """
    pending = [*reversed(within)]
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


def pixel_centres(orders: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the centres of HEALPix pixels, nested: RA and Dec, (p,) degrees each; orders and pixels are (p,) ints."""
    from cdshealpix.nested import healpix_to_lonlat

    ra_deg, dec_deg = np.empty((2, len(pixels)))
    for order in np.unique(orders):
        at = orders == order
        ra, dec = healpix_to_lonlat(pixels[at].astype(np.uint64), int(order))
        ra_deg[at], dec_deg[at] = ra.deg, dec.deg
    return ra_deg, dec_deg


def separation_arcsec(
    ra_deg: float | np.ndarray,
    dec_deg: float | np.ndarray,
    other_ra_deg: np.ndarray,
    other_dec_deg: np.ndarray,
) -> np.ndarray:
    """Great-circle separations of one or (n,) positions from (n,) others, float64 arcsec; right at the poles too.

    The formula of Vincenty (1975) on a sphere.
    """
    ra, dec, other_ra, other_dec = (np.radians(angle) for angle in (ra_deg, dec_deg, other_ra_deg, other_dec_deg))
    sin_dec, cos_dec, other_sin, other_cos = np.sin(dec), np.cos(dec), np.sin(other_dec), np.cos(other_dec)
    sin_apart, cos_apart = np.sin(other_ra - ra), np.cos(other_ra - ra)
    across = np.hypot(other_cos * sin_apart, cos_dec * other_sin - sin_dec * other_cos * cos_apart)
    return np.degrees(np.arctan2(across, sin_dec * other_sin + cos_dec * other_cos * cos_apart)) * 3600.0


def unit_vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Directions of positions as vectors of length 1: (n, 3) float64. Their chord is 2 sin(separation / 2)."""
    ra_rad, dec_rad = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec_rad) * np.cos(ra_rad), np.cos(dec_rad) * np.sin(ra_rad), np.sin(dec_rad)], axis=-1)


def in_cone(
    ra_deg: np.ndarray, dec_deg: np.ndarray, centre_ra_deg: float, centre_dec_deg: float, radius_arcsec: float
) -> np.ndarray:
    """Whether positions lie within a radius of a centre, or on it: (n,) bool; right at the poles too."""
    # No position is nearer than its declination, and that costs a twentieth of the separation.
    near = np.flatnonzero(np.abs(dec_deg - centre_dec_deg) <= radius_arcsec / 3600 + _DEC_SLACK_DEG)
    inside = np.zeros(len(ra_deg), bool)
    inside[near] = separation_arcsec(centre_ra_deg, centre_dec_deg, ra_deg[near], dec_deg[near]) <= radius_arcsec
    return inside


def in_moc(moc: "MOC", ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Whether positions lie in a multi-order coverage map (IVOA MOC 2.0): (n,) bool."""
    from astropy.coordinates import Latitude, Longitude

    if len(ra_deg) == 0:
        return np.empty(0, bool)
    return np.asarray(moc.contains_lonlat(Longitude(ra_deg, unit="deg"), Latitude(dec_deg, unit="deg")))


def look_swapped(ra_deg: np.ndarray, dec_deg: np.ndarray) -> bool:
    """Whether RA and Dec are probably exchanged: of the invalid positions, more than half are valid the other way."""
    bad = ~is_position(ra_deg, dec_deg)
    swapped = is_position(dec_deg[bad], ra_deg[bad])
    return bool(bad.any()) and int(swapped.sum()) * 2 > int(bad.sum())


def look_like_hours(ra_deg: np.ndarray, dec_deg: np.ndarray) -> bool:
    """Whether RA is probably in hours: of 20 objects or more none above 24, although Dec spans over 48 degrees."""
    good = is_position(ra_deg, dec_deg)
    return bool(good.sum() >= 20 and ra_deg[good].max() <= 24 and np.ptp(dec_deg[good]) > 48)
