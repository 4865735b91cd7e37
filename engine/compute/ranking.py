"""Scoring any number of objects against a few ratings, exactly, and only as far as it can matter.

A pass over all objects takes, in float32, the mean and a bound of the standard deviation: from all ratings while they
are few, later from the rated object that is most like it, which is enough then. Objects whose acquisition could still
win by that bound are then scored in float64, the most promising first, until no other can be among the best: the answer
is that of scoring everything.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_triangular

from engine.compute.acquisition import Acquisition, Valued, value_of
from engine.compute.gp import MATERN_NU, Posterior, covariances, mean_and_sd
from engine.compute.one_thread import one_thread

BLOCK_ROWS = 4_096
CHECKED_AT_ONCE = 512
_LOOKED_AT_ONCE = 4_096
_FEW_RATED = 64
"""Up to so many ratings all of them are used for the bound: it costs as many products for each covariance."""
_ROUNDING = 1e-5
"""Error of a covariance in float32, at most."""
_PRODUCT_ROUNDING = 6e-8
"""Of each product in a sum, relative to it."""
_EPSILON = 1e-9
"""Error of what was worked out in float64, at most, where the covariance of the ratings is badly conditioned."""


class Means(NamedTuple):
    """What a pass over all objects found, (n,) float32 each."""

    mean: np.ndarray
    largest: np.ndarray
    """Covariance with the rated object that is most like it."""
    explained: np.ndarray
    """Of the variance, by the ratings; no more than that."""


class Scored(NamedTuple):
    """Everything about some objects, (n,) each."""

    mean: np.ndarray
    sd: np.ndarray
    nearest: np.ndarray
    """The rated object that is most like it, by its place among the rated."""
    distance: np.ndarray
    """To that one, Euclidean, in units of the space."""


class Best(NamedTuple):
    """The best objects, best first; ties by row."""

    rows: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    value: np.ndarray
    """Of the acquisition."""
    vectors: np.ndarray
    """(k, d) float64."""
    n_checked: int
    """Objects whose standard deviation was needed."""

    def take(self, at: np.ndarray) -> "Best":
        """Return some of these, in this order."""
        return Best(self.rows[at], self.mean[at], self.sd[at], self.value[at], self.vectors[at], self.n_checked)


def means_of(posterior: Posterior, vectors: np.ndarray, threads: int = 1, device: str = "cpu") -> Means:
    """Score the means of all objects, (n, d) float32, in blocks."""
    kernel = posterior.kernel
    points = torch.from_numpy(posterior.points / kernel.length).float().to(device)
    weights = torch.from_numpy(posterior.weights).float().to(device)
    squares = points.square().sum(1)
    mean, largest, explained = np.empty((3, len(vectors)), np.float32)
    explain = _explainer(posterior, device)

    def score(start: int) -> None:
        rows = slice(start, start + BLOCK_ROWS)
        block = torch.from_numpy(vectors[rows]).to(device) / kernel.length
        square = torch.addmm(squares + block.square().sum(1, keepdim=True), block, points.T, alpha=-2).clamp_(min=0)
        if kernel.kind == "rational-quadratic":
            covariance = square.div_(2 * kernel.alpha).log1p_().mul_(-kernel.alpha).exp_()
        else:
            distance = square.mul_(2 * MATERN_NU).sqrt_()
            covariance = (1 + distance + distance.square() / 3) * torch.exp(-distance)
        mean[rows] = (covariance @ weights).cpu().numpy()
        most = covariance.amax(1)
        largest[rows] = most.cpu().numpy()
        explained[rows] = explain(covariance, most).cpu().numpy()

    _by_block(score, len(vectors), threads)
    if posterior.prior is not None:
        mean += _prior_means(posterior, vectors, threads, device)
    return Means(mean, largest, explained)


def _explainer(posterior: Posterior, device: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Make the function of covariances, (b, n), and the largest of each, (b,), that says what is surely explained."""
    noise, n = posterior.kernel.noise, len(posterior.points)

    def by_one(_: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        return (most - _ROUNDING).clamp_(min=0).square_().div_(1 + noise)

    if n > _FEW_RATED:
        return by_one
    inverse = solve_triangular(posterior.factor, np.eye(n), lower=True)
    slack = np.sqrt(n) * (_ROUNDING * np.linalg.norm(inverse, 2) + n * _PRODUCT_ROUNDING * np.linalg.norm(inverse))
    factor = torch.from_numpy(inverse.T).float().to(device)

    def by_all(covariance: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        surely = (covariance @ factor).norm(dim=1).sub_(slack).clamp_(min=0).square_()
        return torch.maximum(surely, by_one(covariance, most))

    return by_all


def score_all(posterior: Posterior, vectors: np.ndarray, threads: int = 1) -> Scored:
    """Score objects, (n, d) float32, in full and in float64."""
    n = len(vectors)
    scored = Scored(np.empty(n), np.empty(n), np.empty(n, np.int64), np.empty(n))

    def score(start: int) -> None:
        rows = slice(start, start + BLOCK_ROWS)
        block = vectors[rows].astype(float)
        scored.mean[rows], scored.sd[rows] = mean_and_sd(posterior, block)
        nearest = covariances(posterior.kernel, block, posterior.points).argmax(axis=1)
        scored.nearest[rows] = nearest
        scored.distance[rows] = np.linalg.norm(block - posterior.points[nearest], axis=1)

    _by_block(score, n, threads)
    return scored


def _prior_means(posterior: Posterior, vectors: np.ndarray, threads: int, device: str) -> np.ndarray:
    assert posterior.prior is not None
    return means_of(posterior.prior, vectors, threads, device).mean


def _by_block(score: Callable[[int], None], n: int, threads: int) -> None:
    """Call a function with the start of every block, which has a thread of its own."""
    if n <= BLOCK_ROWS:  # Threads take longer to begin than this takes.
        with one_thread():
            score(0)
        return
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(score, range(0, n, BLOCK_ROWS)):
            pass


class Candidates:
    """Objects in order of how valuable they could be, worked out no further than it is looked at.

    Parameters
    ----------
    posterior : Posterior
    vectors : (n, d) float32 array
    acquisition : Acquisition
    best_rating : float
        The largest so far.
    excluded : (m,) int array
        Rows that are no candidates.
    threads, device
        Where means are taken.
    first_row : int
        Of the first vector, where these are a part of all: rows are counted over all of them.
    """

    def __init__(
        self,
        posterior: Posterior,
        vectors: np.ndarray,
        acquisition: Acquisition,
        best_rating: float,
        excluded: np.ndarray | None = None,
        threads: int = 1,
        device: str = "cpu",
        first_row: int = 0,
    ) -> None:
        found = means_of(posterior, vectors, threads, device)
        self._vectors, self._first = vectors, first_row
        self.least_alike = float(found.largest.min())
        """Of all objects, the smallest covariance with the rated object that is most like it."""
        allowed = np.ones(len(vectors), bool)
        if excluded is not None:
            allowed[excluded - first_row] = False
        self._rows = np.flatnonzero(allowed)
        self._slack = _scale(posterior)
        self._mean = found.mean[self._rows] + _ROUNDING * self._slack
        variance = 1 + posterior.kernel.noise - found.explained[self._rows].astype(float) * (1 - _ROUNDING)
        self._sd = np.sqrt(np.maximum(variance, 0))
        self._threads = threads
        self._looked_at: np.ndarray
        self._rest: float
        """What is not looked at yet is worth no more."""
        self._sort(acquisition, best_rating)

    def best(self, posterior: Posterior, acquisition: Acquisition, best_rating: float, k: int) -> Best:
        """Find the k candidates of the largest value, as scoring all of them in float64 would.

        The posterior may have seen more than that of the bounds, where its means are the same or smaller, and the
        best rating may be larger: a bound stays one. What was worked out before is a closer bound.
        """
        if best_rating != self._sorted_for:
            self._sort(acquisition, best_rating)
        valued = value_of(acquisition, best_rating)
        best = self._best_at(self._looked_at, posterior, valued, nothing(self._vectors.shape[1]), k)
        while not (len(best.rows) == k and self._rest < best.value[-1]):
            at = next(self._waiting, None)
            if at is None:
                break
            self._looked_at, self._rest = np.concatenate([self._looked_at, at]), self._bound[at[-1]]
            best = self._best_at(at, posterior, valued, best, k)
        return best

    def _sort(self, acquisition: Acquisition, best_rating: float) -> None:
        """Bound all values, and begin anew with the largest bounds."""
        bound = value_of(acquisition, best_rating).bound
        self._bound = np.empty(len(self._rows))

        def set_bound(start: int) -> None:
            at = slice(start, start + BLOCK_ROWS)
            self._bound[at] = bound(self._mean[at], self._sd[at], self._rows[at] + self._first)

        _by_block(set_bound, len(self._rows), self._threads)
        self._sorted_for = best_rating
        self._waiting = _descending(self._bound)
        self._looked_at, self._rest = np.empty(0, int), np.inf

    def _best_at(self, at: np.ndarray, posterior: Posterior, valued: Valued, best: Best, k: int) -> Best:
        """Merge what is best at some places into the best so far."""
        bound = valued.bound(self._mean[at], self._sd[at], self._rows[at] + self._first)
        order = np.argsort(-bound, kind="stable")
        start, size = 0, CHECKED_AT_ONCE
        while start < len(at) and not (len(best.rows) == k and bound[order[start]] < best.value[-1]):
            best = merge([best, self._checked(posterior, at[order[start : start + size]], valued)], k)
            start, size = start + size, 2 * size  # The more was needed already, the more will be.
        return best

    def _checked(self, posterior: Posterior, at: np.ndarray, valued: Valued) -> Best:
        vectors = self._vectors[self._rows[at]].astype(float)
        mean, sd = np.empty((2, len(at)))

        def check(start: int) -> None:
            block = slice(start, start + BLOCK_ROWS)
            mean[block], sd[block] = mean_and_sd(posterior, vectors[block])

        _by_block(check, len(at), self._threads)
        self._mean[at], self._sd[at] = mean + _EPSILON * self._slack, sd + _EPSILON
        rows = self._rows[at] + self._first
        return Best(rows, mean, sd, valued.value(mean, sd, rows), vectors, len(rows))


def nothing(dimension: int) -> Best:
    """The best of no objects."""
    return Best(np.empty(0, int), np.empty(0), np.empty(0), np.empty(0), np.empty((0, dimension)), 0)


def joined(lists: Sequence[Best]) -> Best:
    """Put lists one after the other; at least one."""
    return Best(
        rows=np.concatenate([one.rows for one in lists]),
        mean=np.concatenate([one.mean for one in lists]),
        sd=np.concatenate([one.sd for one in lists]),
        value=np.concatenate([one.value for one in lists]),
        vectors=np.concatenate([one.vectors for one in lists]),
        n_checked=sum(one.n_checked for one in lists),
    )


def merge(lists: Sequence[Best], k: int) -> Best:
    """Merge lists of the best."""
    every = joined(lists)
    return every.take(np.lexsort((every.rows, -every.value))[:k])


def _scale(posterior: Posterior) -> float:
    """How large the terms of a mean are together, at most."""
    below = 0.0 if posterior.prior is None else _scale(posterior.prior)
    return float(1 + np.abs(posterior.weights).sum()) + below


def _descending(bound: np.ndarray) -> Iterator[np.ndarray]:
    """Places of falling bounds, some at a time; few are usually enough, so that sorting all would be waste."""
    left = np.arange(len(bound))
    size = _LOOKED_AT_ONCE
    while len(left) > size:
        order = np.argpartition(-bound[left], size)
        chosen = left[order[:size]]
        yield chosen[np.argsort(-bound[chosen], kind="stable")]
        left = left[order[size:]]
        size *= 2
    if len(left):
        yield left[np.argsort(-bound[left], kind="stable")]
