"""How good a ranking is: the interesting ones first (Walmsley et al. 2022, Section 5; Lochner & Bassett 2021)."""

import numpy as np


def rank_weighted_score(interesting: np.ndarray, n: int) -> float:
    """Weigh the first n of a ranking by n, n - 1, ..., 1: the share of the weight that the interesting ones have.

    Parameters
    ----------
    interesting : (m,) bool array
        Of the ranked objects, best first. Where m < n the rest is not interesting.
    n : int
        At least 1.
    """
    first = interesting[:n]
    return float((np.arange(n, n - len(first), -1) * first).sum() / (n * (n + 1) / 2))


def accuracy_at(interesting: np.ndarray, n: int) -> float:
    """Share of the first n of a ranking that is interesting; arguments as of `rank_weighted_score`."""
    return float(interesting[:n].sum() / n)


def recall_at(interesting: np.ndarray, n: int) -> float:
    """Share of all interesting ones that is among the first n; NaN where there are none."""
    total = interesting.sum()
    return float(interesting[:n].sum() / total) if total else float("nan")


def average_precision(interesting: np.ndarray) -> float:
    """Mean over the interesting ones of the share of interesting ones down to each; NaN where there are none."""
    places = np.flatnonzero(interesting)
    if not len(places):
        return float("nan")
    return float((np.arange(1, len(places) + 1) / (places + 1)).mean())


def ratings_of_fractions(fractions: np.ndarray) -> np.ndarray:
    """Rate as the paper's simulated person does: 5 times the vote fraction, halves to the even number; (n,) int64."""
    return np.round(5 * np.asarray(fractions, float)).astype(np.int64)
