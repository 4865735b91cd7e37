"""Principal components from mergeable moments: exact, in one pass, whatever the order and the size of the pieces."""

from collections.abc import Iterable, Sequence
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


class Counted(NamedTuple):
    """The moments of some partitions, each counted once."""

    names: frozenset[str]
    """Of the partitions."""
    moments: Moments


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
    scale: np.ndarray
    """(k,) float64 that projections are multiplied by: ones, or one over the standard deviation of each component."""

    @property
    def explained_variance_ratio(self) -> np.ndarray:
        """(k,) share of the total variance; zeros where the rows do not vary."""
        return self.explained_variance / max(self.column_variance.sum(), np.finfo(float).tiny)


def moments(rows: np.ndarray) -> Moments:
    """Take the moments of rows, (n, d) float32 with n >= 0.

    Rows are shifted by their float64 mean and rounded; products are float32, a block at a time; sums are float64.
    """
    n, d = rows.shape
    rest, scatter = np.zeros(d), np.zeros((d, d))
    mean = rows.mean(axis=0, dtype=np.float64) if n else rest
    for start in range(0, n, _BLOCK_ROWS):
        shifted = (rows[start : start + _BLOCK_ROWS] - mean).astype(np.float32)
        rest += shifted.sum(axis=0, dtype=np.float64)
        scatter += shifted.T @ shifted
    scatter -= np.outer(rest, rest) / max(n, 1)
    return Moments(n, mean + rest / max(n, 1), scatter)


def merge(a: Moments, b: Moments) -> Moments:
    """Merge the moments of two disjoint sets of rows (Chan, Golub & LeVeque 1979, eq. 2.1)."""
    n = a.n + b.n
    if a.n == 0 or b.n == 0:
        return b if a.n == 0 else a
    delta = b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n)
    return Moments(n, a.mean + delta * (b.n / n), scatter)


def merge_counted(parts: Sequence[Counted]) -> Counted:
    """Merge the moments of at least one set of partitions.

    Raises
    ------
    ValueError
        A partition is in two of them: its rows would count twice.
    """

    def both(a: Counted, b: Counted) -> Counted:
        twice = a.names & b.names
        if twice:
            raise ValueError(f"{len(twice)} partitions would be counted twice, among them {min(twice)}")
        return Counted(a.names | b.names, merge(a.moments, b.moments))

    return reduce(both, parts)


def solve(state: Moments, k: int, unit_variance: bool = False) -> PCA:
    """Solve for the first k principal components.

    Parameters
    ----------
    state : Moments
    k : int
    unit_variance : bool
        Whether projections are to vary by 1 in every component; a component that does not vary stays as it is.

    Raises
    ------
    ValueError
        There are fewer than k + 1 rows or fewer than k columns: k directions of variance do not exist.
    """
    d = len(state.mean)
    if state.n <= k or d < k:
        raise ValueError(f"{k} components need more than {k} rows of at least {k} columns, found {state.n} of {d}")
    variances, vectors = scipy.linalg.eigh(state.scatter / (state.n - 1), subset_by_index=(d - k, d - 1))
    column_variance = np.diag(state.scatter) / (state.n - 1)
    explained = np.maximum(variances[::-1], 0.0)
    return _oriented(vectors.T[::-1], state.mean, explained, column_variance, state.n, unit_variance)


def solve_sequentially(batches: Iterable[np.ndarray], k: int, unit_variance: bool = False) -> PCA:
    """Fit by scikit-learn's own incremental algorithm (Ross et al. 2008), which the paper used.

    Its result depends on the order and the size of the batches.

    Parameters
    ----------
    batches : iterable of (n, d) float32 arrays
        Each with at least k rows.
    k, unit_variance
        As in `solve`.

    Raises
    ------
    ValueError
        A batch has fewer than k rows, or rows have fewer than k columns.
    """
    from sklearn.decomposition import IncrementalPCA

    model = IncrementalPCA(n_components=k)
    for batch in batches:
        model.partial_fit(batch)
    n = int(model.n_samples_seen_)
    column_variance = model.var_ * n / max(n - 1, 1)
    return _oriented(model.components_, model.mean_, model.explained_variance_, column_variance, n, unit_variance)


def project(rows: np.ndarray, pca: PCA) -> np.ndarray:
    """Project rows, (n, d) float32, on the components and scale: (n, k) float32, computed in float64."""
    return (((rows - pca.mean) @ pca.components.T) * pca.scale).astype(np.float32)


def as_incremental_pca(pca: PCA) -> "IncrementalPCA":
    """Hand a fit to scikit-learn: an `IncrementalPCA` that transforms, and that `partial_fit` can go on from.

    One of unit variance is a whitening one; there scikit-learn divides a component that does not vary by nearly 0.
    """
    from sklearn.decomposition import IncrementalPCA

    k, d = pca.components.shape
    model = IncrementalPCA(n_components=k, whiten=bool((pca.scale != 1).any()))
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


def _oriented(
    components: np.ndarray, mean: np.ndarray, explained: np.ndarray, column_variance: np.ndarray, n: int, scaled: bool
) -> PCA:
    """Turn components so that the largest entry of each is positive: solvers choose signs as they like."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    varies = (explained > 0) & scaled
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, explained, 1.0)), 1.0)
    return PCA(components * signs[:, None], mean, explained, column_variance, n, scale)
