"""The baseline of the anomaly search: isolation forest, rated objects, regression forest (Lochner & Bassett 2021).

As Walmsley et al. 2022 (Section 5) compare with it: the most isolated objects are rated, a forest learns the ratings,
and both are combined, the nearer to a rated object the more by what the forest says.
"""

import numpy as np
from scipy.spatial import cKDTree
from sklearn.ensemble import IsolationForest, RandomForestRegressor

from schemas.campaign import HIGHEST

N_TREES = 100
"""Of either forest, as in Lochner & Bassett (2021)."""
_LEAST = 0.1
"""Expected ratings below this count as this."""
_FLOOR, _SLOPE = 0.1, 0.85
"""Epsilon 1 and 2 (Lochner & Bassett 2021, equation 2): they keep the arctanh away from 0 and infinity."""
_FAR = 50.0
"""In mean distances. Here the tanh has long been 1; the exponential stays finite."""


def baseline_ranking(
    features: np.ndarray, rated_rows: np.ndarray, ratings: np.ndarray, isolation: np.ndarray, seed: int
) -> np.ndarray:
    """Score all objects once some are rated: the larger the more interesting.

    Parameters
    ----------
    features : (n, d) float array
        Finite; they are standardised here.
    rated_rows, ratings : (m,) int and (m,) float arrays
        Ratings in [0, 5]. Where there are none, the scores are those of isolation.
    isolation : (n,) float array
        As of `isolation_scores`.
    seed : int

    Returns
    -------
    (n,) float64 array
        In [0, 5].

    Raises
    ------
    ValueError
        A feature is not finite.
    """
    if not len(rated_rows):
        return np.array(isolation, float)
    points = standardised(features)
    forest = RandomForestRegressor(N_TREES, random_state=seed).fit(points[rated_rows], ratings)
    return trained_score(isolation, forest.predict(points), nearest_rated(points, rated_rows))


def isolation_scores(features: np.ndarray, seed: int) -> np.ndarray:
    """Score how easily an isolation forest tells each object from the others (Liu et al. 2008).

    Parameters
    ----------
    features : (n, d) float array
        Finite and standardised.
    seed : int

    Returns
    -------
    (n,) float64 array
        The larger the more anomalous; stretched to [0, 5] over these objects. All 0 where all are alike.
    """
    if not len(features):
        return np.empty(0)
    forest = IsolationForest(n_estimators=N_TREES, random_state=seed).fit(features)
    score = -forest.score_samples(features)
    width = np.ptp(score)
    return HIGHEST * (score - score.min()) / width if width else np.zeros(len(score))


def trained_score(isolation: np.ndarray, expected: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Combine isolation with what is expected of a rating (Lochner & Bassett 2021, equations 1 to 3, alpha = 1).

        s tanh(delta - 1 + arctanh(f)),   delta = exp(d / mean(d)),   f = 0.1 + 0.85 u / 5

    Parameters
    ----------
    isolation : (n,) float array
        s, in [0, 5].
    expected : (n,) float array
        u, clipped to [0.1, 5] here.
    distance : (n,) float array
        d, to the nearest rated object. Where all are 0, so that there is no mean to compare with, delta is 1.

    Returns
    -------
    (n,) float64 array
        Between s f, at a rated object, and s, far from any.
    """
    mean = distance.mean() if len(distance) else 0.0
    ratio = distance / mean if mean > 0 else np.zeros(len(distance))
    interest = _FLOOR + _SLOPE * np.clip(expected, _LEAST, HIGHEST) / HIGHEST
    return isolation * np.tanh(np.expm1(np.minimum(ratio, _FAR)) + np.arctanh(interest))


def nearest_rated(points: np.ndarray, rated_rows: np.ndarray) -> np.ndarray:
    """Take the Euclidean distance of each point, (n, d), to the nearest of some rows, at least one: (n,) float64."""
    distance, _ = cKDTree(points[rated_rows]).query(points)
    return np.asarray(distance)


def standardised(features: np.ndarray) -> np.ndarray:
    """Bring features, (n, d), to mean 0 and standard deviation 1 each, in float64; a constant one becomes 0.

    Raises
    ------
    ValueError
        A feature is not finite.
    """
    if not np.isfinite(features).all():
        raise ValueError(f"expected finite features, found {int((~np.isfinite(features)).sum())} that are not")
    if not len(features):
        return np.array(features, float)
    centred = features - features.mean(axis=0, dtype=float)
    deviation = centred.std(axis=0)
    # What a constant feature deviates by is rounding.
    constant = deviation <= 1e-12 * np.abs(features).max(axis=0, initial=0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))
