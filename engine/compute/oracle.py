"""Campaigns in which a known answer stands for the person (Walmsley et al. 2022, Section 5): what each method finds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.compute.acquisition import Acquisition
from engine.compute.baseline import baseline_ranking, isolation_scores, standardised
from engine.compute.batches import choose_batch
from engine.compute.gp import Kernel
from engine.compute.learning import learn
from engine.compute.rank_metrics import accuracy_at, average_precision, rank_weighted_score, recall_at
from engine.compute.ranking import Candidates, score_all
from schemas.campaign import BatchKind

CURVE_AT = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
"""Lengths of a ranking at which it is judged."""
_RATED_FIRST = 100.0
"""By which the ratings of rated objects are multiplied where they rank among expected ones: the paper's code."""


class Trial(NamedTuple):
    """One campaign."""

    rated: np.ndarray
    """(m,) rows in the order in which they were asked about."""
    score: np.ndarray
    """(n,) float64, by which all objects are ranked at the end."""


def gaussian_process_trial(
    vectors: np.ndarray, answers: np.ndarray, n_ratings: int, batch: int, kind: BatchKind, epsilon: float, seed: int
) -> Trial:
    """Ask a batch at random, then batches that a Gaussian process chooses by expected improvement.

    Parameters
    ----------
    vectors : (n, d) float32 array
        Standardised.
    answers : (n,) float64 array
        What the person would rate each object.
    n_ratings, batch : int
    kind : str
        As of `choose_batch`.
    epsilon : float
        Of the expected improvement.
    seed : int
    """
    rated = _first(len(vectors), min(batch, n_ratings), seed)
    acquisition, kernel = Acquisition(epsilon=epsilon), Kernel()
    while True:
        learned = learn(vectors[rated].astype(float), answers[rated], kernel)
        kernel = learned.posterior.kernel
        n_left = min(n_ratings, len(vectors)) - len(rated)
        if not n_left:
            return Trial(rated, score_all(learned.posterior, vectors).mean)
        candidates = Candidates(learned.posterior, vectors, acquisition, learned.best, rated)
        chosen = choose_batch(learned, candidates, min(batch, n_left), acquisition, kind)
        rated = np.concatenate([rated, chosen.rows])


def random_trial(vectors: np.ndarray, answers: np.ndarray, n_ratings: int, seed: int) -> Trial:
    """Ask at random only, then rank by a Gaussian process: what choosing the questions is worth."""
    rated = _first(len(vectors), n_ratings, seed)
    learned = learn(vectors[rated].astype(float), answers[rated], Kernel())
    return Trial(rated, score_all(learned.posterior, vectors).mean)


def baseline_trial(features: np.ndarray, answers: np.ndarray, n_ratings: int, seed: int) -> Trial:
    """Ask about the most isolated objects at once, then rank by the trained score."""
    points = standardised(features)
    isolation = isolation_scores(points, seed)
    rated = np.argsort(-isolation, kind="stable")[:n_ratings]
    return Trial(rated, baseline_ranking(points, rated, answers[rated], isolation, seed))


def metrics_of(trial: Trial, answers: np.ndarray, interesting: np.ndarray) -> dict[str, float]:
    """Judge a trial.

    Parameters
    ----------
    answers, interesting : (n,) float64 and bool arrays

    Returns
    -------
    dict
        `published_...`: all objects are ranked, rated ones by a hundred times their rating, as the paper's code does;
        `unrated_...`: what was never shown to the person is ranked, which is the honest figure. `found` counts the
        interesting ones that were asked about.
    """
    unrated = np.ones(len(answers), bool)
    unrated[trial.rated] = False
    shown = np.where(unrated, trial.score, _RATED_FIRST * answers)
    rankings = {
        "published": interesting[np.argsort(-shown, kind="stable")],
        "unrated": interesting[unrated][np.argsort(-trial.score[unrated], kind="stable")],
    }
    metrics = {"found": float(interesting[trial.rated].sum())}
    for name, ranking in rankings.items():
        metrics[f"{name}_average_precision"] = average_precision(ranking)
        for n in CURVE_AT:
            metrics[f"{name}_accuracy_{n}"] = accuracy_at(ranking, n)
            metrics[f"{name}_recall_{n}"] = recall_at(ranking, n)
            metrics[f"{name}_rank_weighted_score_{n}"] = rank_weighted_score(ranking, n)
    return metrics


def found_by_ratings(trial: Trial, interesting: np.ndarray, at: Sequence[int]) -> list[int]:
    """Count the interesting ones among the first so many that were asked about."""
    counts = np.concatenate([[0], np.cumsum(interesting[trial.rated])])
    return [int(counts[min(n, len(trial.rated))]) for n in at]


def _first(n: int, wanted: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(n, min(wanted, n), replace=False)
