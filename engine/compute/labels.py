"""What labels say, and how well a head's answers fit them: one class per kind of question."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.special import expit, softmax
from sklearn import metrics
from torch import nn

from engine.compute.training import Loss
from engine.compute.vote_loss import concentrations, expected_fractions, vote_loss

LabelKind = Literal["binary", "classes", "regression", "counts"]


class Labels(NamedTuple):
    """Labels of n objects, as a head is trained on them."""

    kind: LabelKind
    names: tuple[str, ...]
    """Of the scores that a head gives: the positive class; every class; the target; every answer."""
    targets: np.ndarray
    """binary: (n, 1) float32 of 0 and 1; classes: (n,) int64; regression: (n, 1) float32 with mean 0 and variance 1;
    counts: (n, answers) float32."""
    centre: float = 0.0
    """That was subtracted from a regression's targets."""
    width: float = 1.0
    """That they were divided by."""

    @property
    def strata(self) -> np.ndarray | None:
        """Class of each object, to balance; None where there are no classes."""
        if self.kind == "binary":
            return self.targets[:, 0].astype(int)
        return self.targets if self.kind == "classes" else None

    @property
    def n_outputs(self) -> int:
        """Outputs that a head needs."""
        return len(self.names)


def loss_of(kind: LabelKind) -> Loss:
    """Return the loss of a kind of labels, a function of raw outputs and targets to a mean over rows."""
    if kind == "binary":
        return nn.BCEWithLogitsLoss()
    if kind == "classes":
        return nn.CrossEntropyLoss()
    if kind == "regression":
        return nn.MSELoss()

    def counts(outputs: torch.Tensor, votes: torch.Tensor) -> torch.Tensor:
        return vote_loss(concentrations(outputs), votes, [slice(0, votes.shape[1])]).mean()

    return counts


def scores(outputs: np.ndarray, kind: LabelKind, centre: float = 0.0, width: float = 1.0) -> np.ndarray:
    """Turn raw outputs, (n, outputs), into what people read: probabilities, expected fractions, or the target's values.

    Returns
    -------
    (n, outputs) float32 array
        Probabilities of classes and expected fractions add up to 1.
    """
    if kind == "binary":
        made = expit(outputs)
    elif kind == "classes":
        made = softmax(outputs, axis=1)
    elif kind == "regression":
        made = outputs * width + centre
    else:
        made = expected_fractions(concentrations(torch.as_tensor(outputs)), [slice(0, outputs.shape[1])]).numpy()
    return np.asarray(made, np.float32)


def evaluate(labels: Labels, scored: np.ndarray) -> dict[str, float]:
    """Measure scores, (n, outputs), against labels of the same objects.

    Returns
    -------
    dict
        binary: accuracy (at 0.5), auc, average_precision. classes: accuracy, and average_precision of each class.
        regression: rmse, r2. counts: mean absolute error of the fractions. NaN where there is only one class.
    """
    if labels.kind == "regression":
        true = labels.targets * labels.width + labels.centre
        return {
            "rmse": float(np.sqrt(metrics.mean_squared_error(true, scored))),
            "r2": float(metrics.r2_score(true, scored)) if len(true) > 1 else float("nan"),
        }
    if labels.kind == "counts":
        asked = labels.targets.sum(axis=1) > 0
        fractions = labels.targets[asked] / labels.targets[asked].sum(axis=1, keepdims=True)
        return {"mean_absolute_error": float(np.abs(fractions - scored[asked]).mean()) if asked.any() else float("nan")}
    if labels.kind == "classes":
        found = {"accuracy": float((scored.argmax(axis=1) == labels.targets).mean())}
        for number, name in enumerate(labels.names):
            found[f"average_precision {name}"] = _average_precision(labels.targets == number, scored[:, number])
        return found
    positive = labels.targets[:, 0] > 0.5
    both = 0 < positive.sum() < len(positive)
    return {
        "accuracy": float(((scored[:, 0] > 0.5) == positive).mean()),
        "auc": float(metrics.roc_auc_score(positive, scored[:, 0])) if both else float("nan"),
        "average_precision": _average_precision(positive, scored[:, 0]),
    }


def _average_precision(true: np.ndarray, score: np.ndarray) -> float:
    return float(metrics.average_precision_score(true, score)) if 0 < true.sum() < len(true) else float("nan")
