"""How far kept principal components are from those that a catalogue has by now. Pure."""

from typing import NamedTuple

import numpy as np
import scipy.linalg

from engine.compute.pca import PCA, Moments, project

K = 10
"""Neighbours that are compared."""


class Drift(NamedTuple):
    """What a refit would change."""

    angle_deg: float
    """Largest principal angle between the two subspaces, in [0, 90] (Golub & Van Loan, Section 6.4.3)."""
    variance_kept: float
    """Share of the variance that the kept components hold."""
    variance_refit: float
    """Share that components fitted anew would hold; no smaller."""
    neighbours_kept: float
    """Mean share of an object's 10 nearest that stay its 10 nearest in the refitted space, in [0, 1]."""
    n_sample: int
    """Objects among which neighbours were looked for."""


def drift(state: Moments, kept: PCA, refit: PCA, sample: np.ndarray, n_queries: int) -> Drift:
    """Compare kept components with refitted ones.

    Parameters
    ----------
    state : Moments
        Of all embeddings there are now.
    kept, refit : PCA
        Of equally many components.
    sample : (n, d) float32 array
        Some embeddings; neighbours are looked for among them.
    n_queries : int
        How many of them, at most, are asked about.
    """
    angles = scipy.linalg.subspace_angles(kept.components.T, refit.components.T)
    total = max(float(np.trace(state.scatter)), np.finfo(float).tiny)
    held = [float(np.trace(pca.components @ state.scatter @ pca.components.T)) / total for pca in (kept, refit)]
    return Drift(
        angle_deg=float(np.degrees(angles.max(initial=0.0))),
        variance_kept=held[0],
        variance_refit=held[1],
        neighbours_kept=_overlap(project(sample, kept), project(sample, refit), n_queries),
        n_sample=len(sample),
    )


def _overlap(kept: np.ndarray, refit: np.ndarray, n_queries: int) -> float:
    """Mean share of the nearest rows, each row itself left out, that two spaces agree on; 1 where there is one row."""
    k = min(K, len(kept) - 1)
    if k < 1:
        return 1.0
    rows = np.unique(np.linspace(0, len(kept) - 1, n_queries).astype(int))
    near = [_nearest(vectors, rows, k) for vectors in (kept, refit)]
    shared = [len(set(a) & set(b)) for a, b in zip(*near, strict=True)]
    return float(np.mean(shared)) / k


def _nearest(vectors: np.ndarray, rows: np.ndarray, k: int) -> list[list[int]]:
    """Rows nearest by L1 to each of some rows, these left out."""
    found = []
    for row in rows:
        distance = np.abs(vectors - vectors[row]).sum(axis=1)
        distance[row] = np.inf
        found.append(np.argpartition(distance, k - 1)[:k].tolist())
    return found
