"""How worthwhile the rating of an object would be: larger is better, and all grow with the expected rating."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import erfcx, ndtr, ndtri

from schemas.campaign import PAPER_EPSILON, AcquisitionKind

_FAR = -6.0
"""Deviations from which on the plain formula loses its digits to cancellation."""
_VERY_FAR = -1e5


class Acquisition(NamedTuple):
    """How to value objects."""

    kind: AcquisitionKind = "expected-improvement"
    epsilon: float = PAPER_EPSILON
    """By how much a rating is to exceed the best one, of an expected improvement."""
    kappa: float = 2.0
    """Standard deviations above the mean, of an upper confidence bound."""
    seed: int = 0
    """Of Thompson sampling: draws are of each object alone."""


Value = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Means, standard deviations and rows to values."""


class Valued(NamedTuple):
    """An acquisition for one state of the ratings."""

    value: Value
    bound: Value
    """No smaller than the value at any smaller mean and any smaller standard deviation."""


def value_of(acquisition: Acquisition, best: float) -> Valued:
    """Make the functions that value objects when `best` is the largest rating so far."""
    if acquisition.kind == "thompson":
        return Valued(
            lambda mean, sd, rows: mean + sd * _normal(acquisition.seed, rows),
            lambda mean, sd, rows: mean + sd * np.maximum(_normal(acquisition.seed, rows), 0),
        )
    made: dict[str, Value] = {
        "expected-improvement": lambda mean, sd, _: log_expected_improvement(mean, sd, best, acquisition.epsilon),
        "upper-confidence-bound": lambda mean, sd, _: mean + acquisition.kappa * sd,
        "mean": lambda mean, sd, _: np.asarray(mean, float),
    }
    value = made[acquisition.kind]
    return Valued(value, value)


def expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float, epsilon: float = PAPER_EPSILON) -> np.ndarray:
    """Expected improvement on `best` + `epsilon` of ratings with these means and standard deviations, (n,) each."""
    return np.exp(log_expected_improvement(mean, sd, best, epsilon))


def log_expected_improvement(
    mean: np.ndarray, sd: np.ndarray, best: float, epsilon: float = PAPER_EPSILON
) -> np.ndarray:
    """Its logarithm, without underflow or cancellation however small it is (Ament et al. 2023, eq. 9).

    A standard deviation of 0 gives the logarithm of what is surely gained.
    """
    gain = np.asarray(mean, float) - best - epsilon
    sd = np.asarray(sd, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = gain / sd
        values = np.asarray(np.log(_gain_in_deviations(z)))
        is_far = ~(z > _FAR)
        values[is_far] = _log_far_gain(z[is_far])
        values += np.log(sd)
        is_sure = ~(sd > 0)
        return np.where(is_sure, np.log(np.maximum(gain, 0)), values) if is_sure.any() else values


def _gain_in_deviations(z: np.ndarray) -> np.ndarray:
    """Expected gain on a threshold that is z standard deviations below the mean, in standard deviations."""
    return z * ndtr(z) + np.exp(z**2 / -2) / np.sqrt(2 * np.pi)


def _log_far_gain(z: np.ndarray) -> np.ndarray:
    """Logarithm of the same where z is far below 0."""
    ratio = np.sqrt(np.pi / 2) * erfcx(-z / np.sqrt(2))
    inner = np.where(z > _VERY_FAR, np.log1p(z * ratio), -2 * np.log(np.abs(z)))
    return -(z**2) / 2 - np.log(2 * np.pi) / 2 + inner


def _normal(seed: int, rows: np.ndarray) -> np.ndarray:
    """A standard normal number for each row, the same whichever others are asked for."""
    offset = np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (rows.astype(np.uint64) + offset) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform = (mixed >> np.uint64(11)).astype(float) / 2**53
    return ndtri(np.clip(uniform, 1e-16, 1 - 1e-16))
