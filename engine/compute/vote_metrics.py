"""How well predicted concentrations explain votes: loss and error by question, and whether fractions are calibrated."""

from typing import NamedTuple

import numpy as np
import torch

from engine.compute.vote_loss import concentrations, expected_fractions, vote_loss
from schemas.tree import Tree

FEWEST_VOTES = 10
"""Votes on a question from which a galaxy's fractions say something."""
_BINS = 10


class Calibration(NamedTuple):
    """Predicted against given vote fractions of one question, over all of its answers."""

    question: str
    predicted: np.ndarray
    """(bins,) mean of the predicted fractions in each bin of them."""
    given: np.ndarray
    """(bins,) share of the votes that answers in that bin got."""
    n: np.ndarray
    """(bins,) predictions in each bin."""


def judge_votes(outputs: np.ndarray, votes: np.ndarray, tree: Tree) -> tuple[dict[str, float], list[Calibration]]:
    """Measure raw outputs, (n, answers) float32, against votes, (n, answers) int.

    Returns
    -------
    dict
        `loss`: summed over questions, mean over galaxies; for each question with votes `loss QUESTION`, over galaxies
        that were asked it, and `error QUESTION`, the mean absolute error of fractions over those with 10 votes.
    list of Calibration
        One per question with votes.
    """
    alpha = concentrations(torch.from_numpy(outputs))
    losses = vote_loss(alpha, torch.from_numpy(votes), tree.slices).numpy()
    fractions = expected_fractions(alpha, tree.slices).numpy()
    metrics = {"loss": float(losses.sum(axis=1).mean())}
    calibrations = []
    for number, (question, columns) in enumerate(zip(tree.questions, tree.slices, strict=True)):
        total = votes[:, columns].sum(axis=1)
        asked, many = total > 0, total >= FEWEST_VOTES
        if not asked.any():
            continue
        metrics[f"loss {question.name}"] = float(losses[asked, number].mean())
        given = votes[many][:, columns] / np.maximum(total[many, np.newaxis], 1)
        error = np.abs(given - fractions[many][:, columns])
        metrics[f"error {question.name}"] = float(error.mean()) if many.any() else float("nan")
        calibrations.append(_calibration(question.name, fractions[asked][:, columns], votes[asked][:, columns]))
    return metrics, calibrations


def _calibration(question: str, fractions: np.ndarray, votes: np.ndarray) -> Calibration:
    weights = np.broadcast_to(votes.sum(axis=1, keepdims=True), votes.shape).ravel().astype(float)
    bins = np.minimum((fractions.ravel() * _BINS).astype(int), _BINS - 1)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(bins, values, _BINS)

    filled = summed(weights) > 0
    weight = np.where(filled, summed(weights), 1)
    predicted = np.where(filled, summed(weights * fractions.ravel()) / weight, np.nan)
    given = np.where(filled, summed(votes.ravel().astype(float)) / weight, np.nan)
    return Calibration(question, predicted, given, np.bincount(bins, minlength=_BINS))
