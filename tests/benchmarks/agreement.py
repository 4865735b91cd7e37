"""How often the nearest neighbours of a galaxy are of its own class, and how often they would be by chance."""

from collections.abc import Sequence

import numpy as np

N_SHUFFLES = 1000


def agreement(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Fraction of the neighbours `rows`, (n, k), that share the class of each object: (n,)."""
    return (classes[rows] == classes[:, np.newaxis]).mean(axis=1)


def chance(classes: np.ndarray) -> np.ndarray:
    """Probability for each object that another, drawn at random, is of its class: (n_c - 1) / (n - 1)."""
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    return (counts[codes] - 1) / (len(classes) - 1)


def shuffled(rows: np.ndarray, classes: np.ndarray, quantile: float) -> float:
    """Quantile of the mean agreement over `N_SHUFFLES` shuffles of the classes: what chance reaches at best."""
    generator = np.random.default_rng(0)
    means = [agreement(rows, generator.permutation(classes)).mean() for _ in range(N_SHUFFLES)]
    return float(np.quantile(means, quantile))


def by_class(classes: np.ndarray) -> Sequence[tuple[str, np.ndarray]]:
    """Name and members, (n,) bool, of all objects together and of each class, the largest first."""
    names, counts = np.unique(classes, return_counts=True)
    return [("all", np.ones(len(classes), bool))] + [
        (str(name), classes == name) for name in names[np.argsort(-counts)]
    ]
