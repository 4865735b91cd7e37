"""Tiles of the sky against the whole release: is one of them calibrated differently? Arithmetic on sums of tiles alone.

In whitened component space (variance 1 over all objects) a tile of n objects has a mean m, whose noise is the variance
of its objects over n. Tiles differ by more than that, by clusters, depth and seeing: by a variance t^2, which is
estimated from all tiles by medians, so that a few bad ones do not hide themselves. A tile's score is

    D = sum over components of (m - centre)^2 / (variance / n + t^2),   as a z-score by Wilson & Hilferty (1931),

divided by what the scores of all tiles scatter, where that is more than it should be.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.compute.pca import Moments

STANDS_OUT = 5.0
"""z-score from which a tile stands out: of a million good ones none should."""
FEWEST_OBJECTS = 20
"""Of a tile that is judged; variances of fewer say little."""
FEWEST_TILES = 8
"""That are compared; medians of fewer say little."""
UNCHANGED = 1e-3
"""Standard deviations: processors and batch sizes differ by less than this, recalibrations by more."""

_NO_VARIANCE = 1e-10
"""Share of the largest variance below which a direction counts as having none."""
_CHI2_MEDIAN = 0.454936
"""Median of chi-squared with one degree of freedom."""
_MAD_TO_SD = 1.482602
_SMALLEST_VARIANCE = 1e-4
"""Of one object: differences of a hundredth of a standard deviation do not matter, however sure they are."""
_BISECTIONS = 60


class Whitening(NamedTuple):
    """A linear map after which all objects together have mean 0 and variance 1 in every direction."""

    mean: np.ndarray
    """(d,) float64."""
    matrix: np.ndarray
    """(d, k) float64; k is less than d where objects do not vary in some directions."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors, (n, d), to (n, k) float64."""
        return (vectors - self.mean) @ self.matrix


class TileSums(NamedTuple):
    """What is known of tiles' objects, in whitened space."""

    n: np.ndarray
    """(t,) int64."""
    mean: np.ndarray
    """(t, k) float64."""
    variance: np.ndarray
    """(t, k) float64, about the mean, divided by n."""
    spread: np.ndarray
    """(t,) float64: the mean over objects of their squared distance from the tile's mean, divided by k."""
    spread_variance: np.ndarray
    """(t,) float64: its variance over objects."""


class Groups(NamedTuple):
    """Vectors that belong together, as tiles or otherwise."""

    n: np.ndarray
    """(t,) int64."""
    mean: np.ndarray
    """(t, k) float64; 0 where there is none, and so on."""
    variance: np.ndarray
    """(t, k) float64, about the mean, divided by n."""


class Scores(NamedTuple):
    """How far each tile is from all, (t,) float64 each; NaN for those that were not judged."""

    size: np.ndarray
    """In standard deviations of one object; of spreads, relative to that of all."""
    z: np.ndarray
    intrinsic: float
    """How far tiles lie apart beyond their noise, as `size`; NaN where none was judged."""


def whiten(state: Moments) -> Whitening:
    """Find the map that whitens objects of these moments; of no directions where they do not vary."""
    covariance = state.scatter / max(state.n - 1, 1)
    variances, vectors = np.linalg.eigh(covariance)
    kept = variances > _NO_VARIANCE * max(variances.max(initial=0.0), np.finfo(float).tiny)
    return Whitening(state.mean, vectors[:, kept] / np.sqrt(variances[kept]))


def sum_tiles(whitened: np.ndarray, starts: np.ndarray) -> TileSums:
    """Sum up tiles that are runs of rows.

    Parameters
    ----------
    whitened : (n, k) float64 array
    starts : (t,) int array, ascending, from 0
        First row of each tile; none is empty.
    """
    k = max(1, whitened.shape[1])
    n = np.diff(np.append(starts, len(whitened)))
    mean = np.add.reduceat(whitened, starts, axis=0) / n[:, None]
    squares = (whitened - np.repeat(mean, n, axis=0)) ** 2
    each = squares.sum(axis=1) / k
    spread = np.add.reduceat(each, starts) / n
    spread_variance = np.add.reduceat((each - np.repeat(spread, n)) ** 2, starts) / n
    return TileSums(n, mean, np.add.reduceat(squares, starts, axis=0) / n[:, None], spread, spread_variance)


def sum_groups(vectors: np.ndarray, group: np.ndarray, n_groups: int) -> Groups:
    """Sum up groups, some of which may be empty, in any order.

    Parameters
    ----------
    vectors : (m, k) float64 array
    group : (m,) int array
        Of each, below `n_groups`.
    n_groups : int
    """
    n = np.bincount(group, minlength=n_groups)

    def mean_of(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(group, column, minlength=n_groups) for column in values.T]
        return np.reshape(sums, (values.shape[1], n_groups)).T / np.maximum(n, 1)[:, None]

    mean = mean_of(vectors)
    return Groups(n.astype(np.int64), mean, mean_of((vectors - mean[group]) ** 2))


def join(parts: Sequence[TileSums]) -> TileSums:
    """Put the tiles of several partitions after each other."""
    return TileSums(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def is_judged(n: np.ndarray) -> np.ndarray:
    """Which tiles of n objects are judged, (t,) bool: none where there would be too few."""
    enough = n >= FEWEST_OBJECTS
    return np.asarray(enough & (enough.sum() >= FEWEST_TILES))


def score_means(sums: TileSums) -> Scores:
    """Score where the objects of each tile lie."""
    judged = is_judged(sums.n)
    pooled = np.median(sums.variance[judged], axis=0) if judged.any() else 0.0
    noise = np.maximum(pooled, _SMALLEST_VARIANCE) / sums.n[:, None]
    return _score_vectors(sums.mean, noise, judged, is_centred=False)


def score_spreads(sums: TileSums) -> Scores:
    """Score how unlike each other the objects of each tile are; a small spread counts as much as a large one."""
    judged = is_judged(sums.n) & (sums.spread > 0)
    size, z = np.full((2, len(sums.n)), np.nan)
    if not judged.any():
        return Scores(size, z, np.nan)
    spread, n = sums.spread[judged], sums.n[judged]
    relative = max(float(np.median(sums.spread_variance[judged] / spread**2)), _SMALLEST_VARIANCE)
    logs = np.log(spread)
    apart = logs - np.median(logs)
    excess = float(_excess(apart[:, None] ** 2, (relative / n)[:, None])[0])
    size[judged] = np.exp(apart)
    z[judged] = _calibrated(apart / np.sqrt(relative / n + excess))
    return Scores(size, z, float(np.sqrt(excess)))


def score_changes(n: np.ndarray, moved: np.ndarray, variance: np.ndarray) -> Scores:
    """Score how far tiles moved.

    Parameters
    ----------
    n : (t,) int array
        Objects that moved together.
    moved, variance : (t, k) float64 arrays
        The mean movement of each tile, and its variance over objects.
    """
    judged = is_judged(n)
    pooled = np.median(variance[judged], axis=0) if judged.any() else 0.0
    each = np.maximum(np.maximum(variance, pooled), _SMALLEST_VARIANCE)
    return _score_vectors(moved, each / np.maximum(n, 1)[:, None], judged, is_centred=True)


def score_rejects(n_objects: np.ndarray, n_rejected: np.ndarray) -> np.ndarray:
    """Score how many cutouts of each tile were rejected, (t,) float64, by square roots of counts (Anscombe 1948).

    A tile with more rejects than it should have has a positive score; tiles of few objects are judged too.
    """
    total = n_objects + n_rejected
    if len(total) < FEWEST_TILES:
        return np.full(len(total), np.nan)
    expected = total * (n_rejected.sum() / max(1, total.sum()))
    return _calibrated(2 * (np.sqrt(n_rejected + 0.375) - np.sqrt(expected + 0.375)))


def _score_vectors(means: np.ndarray, noise: np.ndarray, judged: np.ndarray, is_centred: bool) -> Scores:
    t, k = means.shape
    size, z = np.full((2, t), np.nan)
    if k == 0 or not judged.any():
        return Scores(size, z, np.nan)
    found = means[judged]
    squares = (found - (0.0 if is_centred else np.median(found, axis=0))) ** 2
    excess = _excess(squares, noise[judged])
    score = (squares / (noise[judged] + excess)).sum(axis=1)
    third = 2 / (9 * k)
    size[judged] = np.sqrt(squares.sum(axis=1))
    z[judged] = _calibrated((np.cbrt(score / k) - (1 - third)) / np.sqrt(third))
    return Scores(size, z, float(np.sqrt(excess.sum())))


def _excess(squares: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Find the variance that tiles have beyond their noise: with it the median of squares is what it should be.

    Parameters
    ----------
    squares, noise : (t, k) float64 arrays

    Returns
    -------
    (k,) float64 array
        0 where noise alone explains the squares.
    """
    low, high = np.zeros(squares.shape[1]), squares.max(axis=0) / _CHI2_MEDIAN
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_too_small = np.median(squares / (noise + middle), axis=0) > _CHI2_MEDIAN
        low, high = np.where(is_too_small, middle, low), np.where(is_too_small, high, middle)
    return np.asarray(low)


def _calibrated(z: np.ndarray) -> np.ndarray:
    """Centre scores, and divide them by their scatter where it is above 1, by medians."""
    apart = z - np.median(z)
    return np.asarray(apart / max(1.0, _MAD_TO_SD * float(np.median(np.abs(apart)))))
