"""Exact L1 neighbours over shards, merged, with exclusions."""

from collections.abc import Sequence
from typing import NamedTuple

import faiss
import numpy as np

from engine.compute.sky import separation_arcsec


class Neighbours(NamedTuple):
    """The neighbours of one query, nearest first; ties in distance by row."""

    rows: np.ndarray
    """(m,) int64 rows of the whole catalogue; m is smaller than asked where no more objects qualify."""
    distances: np.ndarray
    """(m,) float32, L1."""
    separations_arcsec: np.ndarray
    """(m,) float64, on the sky."""


def nearest(shards: Sequence[faiss.Index], queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest vectors of all shards to each query under L1.

    Parameters
    ----------
    shards : sequence of faiss.Index
        With METRIC_L1; the rows of a shard follow those of the shard before it.
    queries : (q, d) float32 array
    k : int
        At most the number of vectors.

    Returns
    -------
    distances : (q, k) float32 array, ascending; rows : (q, k) int64 array
        Equal distances are in order of row.
    """
    shards = [shard for shard in shards if shard.ntotal]
    offsets = np.cumsum([0, *(shard.ntotal for shard in shards)])
    found = [shard.search(np.ascontiguousarray(queries), min(k, shard.ntotal)) for shard in shards]
    distances = np.concatenate([distance for distance, _ in found], axis=1)
    rows = np.concatenate([row + offset for (_, row), offset in zip(found, offsets, strict=False)], axis=1)
    order = np.lexsort((rows, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)


def neighbours(
    shards: Sequence[faiss.Index],
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    query_row: int,
    k: int,
    exclusion_radius_arcsec: float,
    include_self: bool,
) -> Neighbours:
    """Find the k nearest objects to one object under L1, leaving out itself and those too close on the sky.

    Parameters
    ----------
    shards : sequence of faiss.Index
        As in `nearest`.
    ra_deg, dec_deg : (n,) float64 arrays
        Positions of every row.
    query_row : int
        The object that is asked about.
    exclusion_radius_arcsec : float
        Objects within this separation of the query are left out; 0 leaves out none but the query itself.
    include_self : bool
        List the query object first, at distance 0, as one of the k.
    """
    n = len(ra_deg)
    query = vector(shards, query_row)[np.newaxis]
    wanted = k - include_self
    asked = min(n, k + 1)
    while True:
        distances, rows = (found[0] for found in nearest(shards, query, asked))
        separations = separation_arcsec(ra_deg[query_row], dec_deg[query_row], ra_deg[rows], dec_deg[rows])
        far = (separations > exclusion_radius_arcsec) | (exclusion_radius_arcsec == 0)
        kept = np.flatnonzero(far & (rows != query_row))[:wanted]
        if len(kept) == wanted or asked == n:
            found = Neighbours(rows[kept], distances[kept], separations[kept])
            return _with_self(found, query_row) if include_self else found
        asked = min(n, 4 * asked)


def _with_self(found: Neighbours, query_row: int) -> Neighbours:
    rows = np.concatenate([[query_row], found.rows])
    distances = np.concatenate([np.zeros(1, np.float32), found.distances])
    return Neighbours(rows, distances, np.concatenate([[0.0], found.separations_arcsec]))


def vector(shards: Sequence[faiss.Index], row: int) -> np.ndarray:
    """Read one vector, (d,) float32, back from the shard that holds it."""
    for shard in shards:
        if row < shard.ntotal:
            return np.asarray(shard.reconstruct(row), dtype=np.float32)
        row -= shard.ntotal
    raise IndexError(f"row {row} past the last shard")
