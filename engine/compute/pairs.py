"""Pairs of objects: close on the sky, and how far apart in component space."""

import numpy as np
from scipy.spatial import cKDTree

from engine.compute.boxes import chord_squared
from engine.compute.sky import separation_arcsec, unit_vectors

_SLACK = 1 + 1e-9
"""Candidates by chord are judged by their separation afterwards, so none may be lost to rounding before."""
_SMALLEST_CHORD = 1e-12


def pairs_on_sky(
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    other_ra_deg: np.ndarray,
    other_dec_deg: np.ndarray,
    radius_arcsec: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Find every pair of an object here and one there whose great-circle separation is at most a radius.

    Right at the poles and across RA = 0.

    Parameters
    ----------
    ra_deg, dec_deg : (n,) float64 arrays
    other_ra_deg, other_dec_deg : (m,) float64 arrays
    radius_arcsec : float
        In [0, 648000].

    Returns
    -------
    rows, other_rows : (p,) int64 arrays
        In order of rows, then of other rows. Empty input gives none.
    """
    nothing = np.empty(0, np.int64)
    if not len(ra_deg) or not len(other_ra_deg):
        return nothing, nothing
    chord = np.sqrt(chord_squared(np.radians(radius_arcsec / 3600))) * _SLACK + _SMALLEST_CHORD
    tree = cKDTree(unit_vectors(ra_deg, dec_deg))
    others = cKDTree(unit_vectors(other_ra_deg, other_dec_deg))
    found = tree.sparse_distance_matrix(others, chord, output_type="ndarray")
    rows, other_rows = found["i"].astype(np.int64), found["j"].astype(np.int64)
    apart = separation_arcsec(ra_deg[rows], dec_deg[rows], other_ra_deg[other_rows], other_dec_deg[other_rows])
    kept = apart <= radius_arcsec
    rows, other_rows = rows[kept], other_rows[kept]
    order = np.lexsort((other_rows, rows))
    return rows[order], other_rows[order]


def l1_distances(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """L1 distance of each vector to its counterpart, two (n, d) float32 arrays: (n,) float32, bits as of searches."""
    total = np.zeros(len(vectors), np.float32)
    for j in range(vectors.shape[1]):
        total += np.abs(vectors[:, j] - others[:, j])
    return total
