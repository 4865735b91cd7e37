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

BLOCK_ROWS = 16_384
"""Scored at once by a thread: with fewer, threads wait for each other."""
_BLOCK_COVARIANCES = 2**20
"""With so many ratings that a block has more, it has fewer rows: covariances stay in a core's cache."""
CHECKED_AT_ONCE = 512
_LOOKED_AT_ONCE = 4_096
_MANY = 65_536
"""Objects that were looked at: from here on closer bounds of all are worth their making."""
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


@one_thread()
def means_of(posterior: Posterior, vectors: np.ndarray, threads: int = 1, device: str = "cpu") -> Means:
    """Score the means of all objects, (n, d) float32, in blocks."""
    kernel = posterior.kernel
    points = torch.from_numpy(posterior.points / kernel.length).float().to(device)
    weights = torch.from_numpy(posterior.weights).float().to(device)
    squares = points.square().sum(1)
    mean, largest, explained = np.empty((3, len(vectors)), np.float32)
    explain = _explainer(posterior, device)

    def score(rows: slice) -> None:
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

    _by_block(score, len(vectors), threads, min(BLOCK_ROWS, _BLOCK_COVARIANCES // len(posterior.points) + 1))
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

    def score(rows: slice) -> None:
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


def _by_block(score: Callable[[slice], None], n: int, threads: int, n_rows: int = BLOCK_ROWS) -> None:
    """Call a function with every block of n rows, each in one of some threads."""
    blocks = [slice(start, min(start + n_rows, n)) for start in range(0, n, n_rows)]
    if len(blocks) == 1:  # Threads take longer to begin than this takes.
        with one_thread():
            score(blocks[0])
        return
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(score, blocks):
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
        self._vectors, self._first, self._threads = vectors, first_row, threads
        self._allowed = np.ones(len(vectors), bool)
        if excluded is not None:
            self._allowed[excluded - first_row] = False
        self._slack = _scale(posterior)
        found = means_of(posterior, vectors, threads, device)
        self.least_alike = float(found.largest.min())
        """Of all objects, the smallest covariance with the rated object that is most like it."""
        self._mean, self._sd, self._bound = np.empty((3, len(vectors)))

        def widen(at: slice) -> None:
            self._mean[at] = found.mean[at] + _ROUNDING * self._slack
            explained = found.explained[at].astype(float) * (1 - _ROUNDING)
            self._sd[at] = np.sqrt(np.maximum(1 + posterior.kernel.noise - explained, 0))

        _by_block(widen, len(vectors), threads)
        self._looked_at: np.ndarray
        self._rest: float
        """What is not looked at yet is worth no more."""
        self._begin(acquisition, best_rating)

    def best(self, posterior: Posterior, acquisition: Acquisition, best_rating: float, k: int) -> Best:
        """Find the k candidates of the largest value, as scoring all of them in float64 would.

        The posterior may have seen more than that of the bounds, where its means are the same or smaller, and the
        best rating may be larger: a bound stays one. What was worked out before is a closer bound.
        """
        if best_rating != self._begun_for and len(self._looked_at) > _MANY:
            self._begin(acquisition, best_rating)
        valued = value_of(acquisition, best_rating)
        best = self._best_at(self._looked_at, posterior, valued, nothing(self._vectors.shape[1]), k)
        while not (len(best.rows) == k and self._rest < best.value[-1]):
            chosen = next(self._waiting, None)
            if chosen is None:
                break
            at, self._rest = chosen[self._allowed[chosen]], self._bound[chosen].min()
            self._looked_at = np.concatenate([self._looked_at, at])
            best = self._best_at(at, posterior, valued, best, k)
        return best

    def _begin(self, acquisition: Acquisition, best_rating: float) -> None:
        """Bound all values, and begin with the largest bounds.

        They are bounds for any larger best rating too, only less close: then more has to be looked at.
        """
        bound = value_of(acquisition, best_rating).bound

        def set_bound(at: slice) -> None:
            rows = np.arange(at.start, at.stop) + self._first
            self._bound[at] = bound(self._mean[at], self._sd[at], rows)

        _by_block(set_bound, len(self._vectors), self._threads)
        self._begun_for = best_rating
        self._waiting = _falling(self._bound, _LOOKED_AT_ONCE)
        self._looked_at, self._rest = np.empty(0, int), np.inf

    def _best_at(self, at: np.ndarray, posterior: Posterior, valued: Valued, best: Best, k: int) -> Best:
        """Merge what is best at some places into the best so far."""
        bound = valued.bound(self._mean[at], self._sd[at], at + self._first)
        for some in _falling(bound, CHECKED_AT_ONCE):
            if len(best.rows) == k:
                some = some[bound[some] >= best.value[-1]]
                if not len(some):
                    break
            best = merge([best, self._checked(posterior, at[some], valued)], k)
        return best

    def _checked(self, posterior: Posterior, at: np.ndarray, valued: Valued) -> Best:
        vectors = self._vectors[at].astype(float)
        mean, sd = np.empty((2, len(at)))

        def check(block: slice) -> None:
            mean[block], sd[block] = mean_and_sd(posterior, vectors[block])

        _by_block(check, len(at), self._threads)
        self._mean[at], self._sd[at] = mean + _EPSILON * self._slack, sd + _EPSILON
        rows = at + self._first
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


def _falling(bound: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Places of falling bounds, some at a time and then twice as many; among those of one time they are in no order.

    The first are usually enough, so that sorting all would be waste.
    """
    places = np.arange(len(bound))
    while len(places) > size:
        order = np.argpartition(bound, len(bound) - size)
        yield places[order[-size:]]
        places, bound = places[order[:-size]], bound[order[:-size]]
        size *= 2
    if len(places):
        yield places
