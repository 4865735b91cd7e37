"""Which objects to ask about next: the best at once, or one by one as if each had been rated as expected."""

from typing import Protocol

import numpy as np

from engine.compute.acquisition import Acquisition
from engine.compute.gp import Posterior, condition
from engine.compute.learning import Learned
from engine.compute.one_thread import one_thread
from engine.compute.ranking import Best, joined, nothing
from schemas.campaign import BatchKind

_ALIKE = 1e-3
"""Of a covariance, which is 1 for what is the same."""
SPREAD_SAMPLE = 100_000
"""Objects that are enough to spread a first batch over."""


class Searched(Protocol):
    """Candidates, wherever they are."""

    @property
    def least_alike(self) -> float:
        """As `engine.compute.ranking.Candidates.least_alike`."""

    def best(self, posterior: Posterior, acquisition: Acquisition, best_rating: float, k: int) -> Best:
        """As `engine.compute.ranking.Candidates.best`."""


def choose_batch(learned: Learned, candidates: Searched, n: int, acquisition: Acquisition, kind: BatchKind) -> Best:
    """Choose n objects to rate next, or as many as there are.

    Parameters
    ----------
    learned : Learned
    candidates : Searched
        By the bounds of `learned`.
    n : int
    acquisition : Acquisition
    kind : str
        top: the n of the largest acquisition, as in the paper, which may be alike. believer: the best, then the best
        once that one is rated as is expected of it, and so on (kriging believer, Ginsbourger et al. 2010).

    Returns
    -------
    Best
        In the order of choice; `mean`, `sd` and `value` as they were when each was chosen.
    """
    if kind == "top":
        return candidates.best(learned.posterior, acquisition, learned.best, n)
    with one_thread():
        return _believed(learned, candidates, n, acquisition)


def is_any_like_another(learned: Learned, candidates: Searched) -> bool:
    """Whether nothing was learned that tells one object from another: ratings as they are by chance give such a fit.

    Then every choice is as good to the acquisition, which would go through all of them to find that out.
    """
    return min(learned.least_alike, candidates.least_alike) > 1 - _ALIKE


def spread(vectors: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Choose n rows of vectors, (m, d), far from each other: k-means++ (Arthur & Vassilvitskii 2007); fewer if m < n.

    Vectors that are all alike are chosen in order of their rows.
    """
    random = np.random.default_rng(seed)
    chosen = [int(random.integers(len(vectors)))]
    square = np.full(len(vectors), np.inf)
    for _ in range(min(n, len(vectors)) - 1):
        square = np.minimum(square, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1, dtype=float))
        square[chosen] = 0
        total = square.sum()
        left = np.setdiff1d(np.arange(len(vectors)), chosen) if total == 0 else None
        chosen.append(int(left[0] if left is not None else random.choice(len(vectors), p=square / total)))
    return np.array(chosen)


def _believed(learned: Learned, candidates: Searched, n: int, acquisition: Acquisition) -> Best:
    posterior, best = learned.posterior, learned.best
    points, ratings = posterior.points, learned.ratings
    chosen = nothing(points.shape[1])
    for _ in range(n):
        # Believing an expected rating leaves every mean as it is, and makes no deviation larger.
        found = candidates.best(posterior, acquisition, best, len(chosen.rows) + 1)
        fresh = np.flatnonzero(~np.isin(found.rows, chosen.rows))[:1]
        if not len(fresh):
            break
        one = found.take(fresh)
        chosen = joined([chosen, one])
        points, ratings = np.concatenate([points, one.vectors]), np.append(ratings, one.mean)
        best = max(best, float(one.mean[0]))
        posterior = condition(posterior.kernel, points, ratings, posterior.prior)
    return chosen
