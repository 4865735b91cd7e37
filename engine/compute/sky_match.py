"""The nearest object on the sky, over pieces of a catalogue: which pieces can hold it, and which object it is."""

from typing import NamedTuple

import numpy as np
from astropy.coordinates import angular_separation
from cdshealpix.nested import healpix_to_lonlat, vertices
from scipy.spatial import cKDTree

from engine.compute.sky import separation_arcsec, unit_vectors

_EDGE_STEPS = 4
_MARGIN = 1.05
"""The edges of a pixel are curves, of which only some points are looked at."""
_TIES = 8
_QUERIES_AT_ONCE = 4_096
_ROUNDING_RAD = 1e-9


class Caps(NamedTuple):
    """A cap of the sphere around each of p pixels."""

    centres: np.ndarray
    """(p, 3) float64 unit vectors."""
    radii_rad: np.ndarray
    """(p,) float64: no part of the pixel is farther from the centre."""


class Candidates(NamedTuple):
    """Pairs of a query and a pixel that may hold an object near enough."""

    queries: np.ndarray
    pixels: np.ndarray


def caps_around(orders: np.ndarray, pixels: np.ndarray) -> Caps:
    """Bound HEALPix pixels (nested) by caps; orders and pixels are (p,) ints."""
    centres, radii = np.empty((len(pixels), 3)), np.empty(len(pixels))
    for order in np.unique(orders):
        at = orders == order
        ra, dec = healpix_to_lonlat(pixels[at].astype(np.uint64), int(order))
        edge_ra, edge_dec = vertices(pixels[at].astype(np.uint64), int(order), step=_EDGE_STEPS)
        centres[at] = unit_vectors(ra.deg, dec.deg)
        apart = angular_separation(ra.rad[:, None], dec.rad[:, None], edge_ra.rad, edge_dec.rad)
        radii[at] = np.minimum(_MARGIN * apart.max(axis=1), np.pi)
    return Caps(centres, radii)


def nearest_caps(queries: np.ndarray, caps: Caps) -> np.ndarray:
    """For each query, (q, 3) unit vectors, the cap whose edge is nearest, or that it lies deepest in: (q,) ints."""
    return np.concatenate(
        [
            np.argmin(np.arccos(np.clip(part @ caps.centres.T, -1, 1)) - caps.radii_rad, axis=1)
            for part in _parts(queries)
        ]
        or [np.empty(0, int)]
    )


def within_reach(queries: np.ndarray, reach_rad: np.ndarray, caps: Caps) -> Candidates:
    """Find the caps that come as near to a query as it asks.

    Parameters
    ----------
    queries : (q, 3) float64 array
        Unit vectors.
    reach_rad : (q,) float64 array
        How far an object may be; inf for any distance.
    caps : Caps
    """
    found = []
    for start, part in zip(range(0, len(queries), _QUERIES_AT_ONCE), _parts(queries), strict=True):
        reach = np.minimum(reach_rad[start : start + len(part), None] + caps.radii_rad + _ROUNDING_RAD, np.pi)
        query, pixel = np.nonzero(part @ caps.centres.T >= np.cos(reach) - 1e-15)
        found.append((query + start, pixel))
    if not found:
        return Candidates(np.empty(0, int), np.empty(0, int))
    return Candidates(*(np.concatenate(column) for column in zip(*found, strict=True)))


def nearest_object(
    ra_deg: np.ndarray, dec_deg: np.ndarray, other_ra_deg: np.ndarray, other_dec_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each position the nearest of the others; of several as near, the first.

    Returns
    -------
    rows : (q,) int array
    separations_arcsec : (q,) float64 array
    """
    tree = cKDTree(unit_vectors(other_ra_deg, other_dec_deg))
    k = min(_TIES, len(other_ra_deg))
    _, rows = tree.query(unit_vectors(ra_deg, dec_deg), k=k)
    rows = np.sort(np.asarray(rows).reshape(len(ra_deg), k), axis=1)
    apart = separation_arcsec(ra_deg[:, None], dec_deg[:, None], other_ra_deg[rows], other_dec_deg[rows])
    first = apart.argmin(axis=1)[:, None]
    return np.take_along_axis(rows, first, axis=1)[:, 0], np.take_along_axis(apart, first, axis=1)[:, 0]


def _parts(queries: np.ndarray) -> list[np.ndarray]:
    return [queries[start : start + _QUERIES_AT_ONCE] for start in range(0, len(queries), _QUERIES_AT_ONCE)]
