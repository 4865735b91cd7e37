"""Principal components from mergeable moments: exact, in one pass, whatever the order and the size of the pieces."""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from sklearn.decomposition import IncrementalPCA

_BLOCK_ROWS = 2_500
"""Rows whose float32 products are summed before float64 takes over; larger blocks lose digits."""


class Moments(NamedTuple):
    """Count, mean and scatter of rows: everything that PCA needs to know of them."""

    n: int
    mean: np.ndarray
    """(d,) float64."""
    scatter: np.ndarray
    """(d, d) float64, the sum over rows of (x - mean)(x - mean)^T."""


class PCA(NamedTuple):
    """A fitted principal component analysis."""

    components: np.ndarray
    """(k, d) float64, orthonormal rows by falling variance; the largest entry of each row is positive."""
    mean: np.ndarray
    """(d,) float64."""
    explained_variance: np.ndarray
    """(k,) float64, with n - 1 degrees of freedom."""
    column_variance: np.ndarray
    """(d,) float64, variance of each column, with n - 1 degrees of freedom; its sum is the total variance."""
    n: int

    @property
    def explained_variance_ratio(self) -> np.ndarray:
        """(k,) share of the total variance; zeros where the rows do not vary."""
        return self.explained_variance / max(self.column_variance.sum(), np.finfo(float).tiny)


def moments(rows: np.ndarray) -> Moments:
    """Take the moments of rows, (n, d) float32 with n >= 0.

    Products are float32, of blocks shifted by their own mean; sums are float64.
    """
    d = rows.shape[1]
    blocks = (rows[start : start + _BLOCK_ROWS] for start in range(0, len(rows), _BLOCK_ROWS))
    return reduce(merge, map(_block_moments, blocks), Moments(0, np.zeros(d), np.zeros((d, d))))


def merge(a: Moments, b: Moments) -> Moments:
    """Merge the moments of two disjoint sets of rows (Chan, Golub & LeVeque 1979, eq. 2.1)."""
    n = a.n + b.n
    if a.n == 0 or b.n == 0:
        return b if a.n == 0 else a
    delta = b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n)
    return Moments(n, a.mean + delta * (b.n / n), scatter)


def merge_all(parts: Sequence[Moments]) -> Moments:
    """Merge the moments of at least one set of rows."""
    return reduce(merge, parts)


def solve(state: Moments, k: int) -> PCA:
    """Solve for the first k principal components.

    Raises
    ------
    ValueError
        There are fewer than k + 1 rows or fewer than k columns: k directions of variance do not exist.
    """
    d = len(state.mean)
    if state.n <= k or d < k:
        raise ValueError(f"{k} components need more than {k} rows of at least {k} columns, found {state.n} of {d}")
    variances, vectors = scipy.linalg.eigh(state.scatter / (state.n - 1), subset_by_index=(d - k, d - 1))
    components = vectors.T[::-1]
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(k), largest])
    column_variance = np.diag(state.scatter) / (state.n - 1)
    return PCA(components * signs[:, None], state.mean, np.maximum(variances[::-1], 0.0), column_variance, state.n)


def project(rows: np.ndarray, pca: PCA) -> np.ndarray:
    """Project rows, (n, d) float32, on the components: (n, k) float32, computed in float64."""
    return ((rows - pca.mean) @ pca.components.T).astype(np.float32)


def as_incremental_pca(pca: PCA) -> "IncrementalPCA":
    """Hand a fit to scikit-learn: an `IncrementalPCA` that transforms, and that `partial_fit` can go on from."""
    from sklearn.decomposition import IncrementalPCA

    k, d = pca.components.shape
    model = IncrementalPCA(n_components=k)
    model.components_ = pca.components
    model.mean_ = pca.mean
    model.var_ = pca.column_variance * (pca.n - 1) / pca.n
    model.explained_variance_ = pca.explained_variance
    model.explained_variance_ratio_ = pca.explained_variance_ratio
    model.singular_values_ = np.sqrt(pca.explained_variance * (pca.n - 1))
    unexplained = pca.column_variance.sum() - pca.explained_variance.sum()
    model.noise_variance_ = unexplained / (d - k) if d > k else 0.0
    model.n_components_, model.n_features_in_, model.n_samples_seen_ = k, d, np.int64(pca.n)
    model.batch_size_ = 5 * d
    return model


def _block_moments(block: np.ndarray) -> Moments:
    mean = block.mean(axis=0, dtype=np.float64)
    shifted = (block - mean).astype(np.float32)
    rest = shifted.sum(axis=0, dtype=np.float64)
    scatter = (shifted.T @ shifted).astype(np.float64) - np.outer(rest, rest) / len(block)
    return Moments(len(block), mean + rest / len(block), scatter)
