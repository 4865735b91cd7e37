"""How well a model does, as pictures and a table of thresholds; all from the test part, but for the history."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from sklearn import metrics

from engine.compute.labels import Labels
from engine.compute.vote_metrics import Calibration
from jobs.figure import BLUE, RED, plotted

_THRESHOLDS = np.round(np.arange(0.05, 1.0, 0.05), 2)


class History(Protocol):
    """How a training went."""

    @property
    def training_losses(self) -> list[float]:
        """By epoch."""

    @property
    def validation_losses(self) -> list[float]:
        """By epoch."""

    @property
    def best_epoch(self) -> int:
        """From 0."""


def vote_plots(history: History, calibrations: list[Calibration]) -> dict[str, bytes]:
    """Draw losses by epoch, and given against predicted vote fractions: `history.png`, `calibration.png`."""
    return {
        "history.png": _drawn(lambda axes: _history(axes, history)),
        "calibration.png": plotted(lambda axes: _calibration(axes, calibrations), 6.5, 5.5),
    }


def evaluation_plots(labels: Labels, scored: np.ndarray, history: History) -> dict[str, bytes]:
    """Draw what suits the kind of labels.

    Returns
    -------
    dict of file name to content
        `history.png` always; `roc.png`, `precision_recall.png` and `thresholds.csv` of binary labels; `confusion.png`
        of binary labels and classes; `scatter.png` of a regression.
    """
    made = {"history.png": _drawn(lambda axes: _history(axes, history))}
    if labels.kind == "regression":
        values = labels.targets[:, 0] * labels.width + labels.centre
        made["scatter.png"] = _drawn(lambda axes: _scatter(axes, values, scored[:, 0]))
    if labels.kind == "classes":
        made["confusion.png"] = _drawn(
            lambda axes: _confusion(axes, labels.targets, scored.argmax(axis=1), list(labels.names))
        )
    if labels.kind == "binary":
        true, score = labels.targets[:, 0] > 0.5, scored[:, 0]
        names = [f"not {labels.names[0]}", labels.names[0]]
        made["confusion.png"] = _drawn(lambda axes: _confusion(axes, true, score > 0.5, names))
        made["thresholds.csv"] = _thresholds(true, score)
        if 0 < true.sum() < len(true):
            made["roc.png"] = _drawn(lambda axes: _roc(axes, true, score))
            made["precision_recall.png"] = _drawn(lambda axes: _precision_recall(axes, true, score))
    return made


def _drawn(draw: Callable[[Any], None]) -> bytes:
    return plotted(draw, 5.5, 4.5)


def _history(axes: Any, history: History) -> None:
    epochs = np.arange(1, len(history.training_losses) + 1)
    axes.plot(epochs, history.training_losses, color=BLUE, label="training")
    axes.plot(epochs, history.validation_losses, color=RED, label="validation")
    axes.axvline(history.best_epoch + 1, color="grey", linewidth=0.8, linestyle=":", label="kept")
    axes.set(title="Loss by epoch", xlabel="epoch", ylabel="loss")
    axes.legend(frameon=False)


def _calibration(axes: Any, calibrations: list[Calibration]) -> None:
    for calibration in calibrations:
        axes.plot(calibration.predicted, calibration.given, marker="o", markersize=3, label=calibration.question)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set(title="Vote fractions, test part", xlabel="predicted", ylabel="given", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=7)


def _roc(axes: Any, true: np.ndarray, score: np.ndarray) -> None:
    false_positive, true_positive, _ = metrics.roc_curve(true, score)
    area = metrics.roc_auc_score(true, score)
    axes.plot(false_positive, true_positive, color=BLUE, label=f"area {area:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.set(title=f"ROC, {len(true):,} test labels", xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(frameon=False, loc="lower right")


def _precision_recall(axes: Any, true: np.ndarray, score: np.ndarray) -> None:
    precision, recall, _ = metrics.precision_recall_curve(true, score)
    average = metrics.average_precision_score(true, score)
    axes.step(recall, precision, where="post", color=BLUE, label=f"average precision {average:.3f}")
    axes.axhline(true.mean(), color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.set(
        title=f"Precision and recall, {len(true):,} test labels", xlabel="recall", ylabel="precision", ylim=(0, 1.03)
    )
    axes.legend(frameon=False, loc="lower left")


def _confusion(axes: Any, true: np.ndarray, found: np.ndarray, names: list[str]) -> None:
    counts = metrics.confusion_matrix(true, found, labels=range(len(names)))
    axes.imshow(counts, cmap="Blues", vmin=0)
    for row, column in np.ndindex(counts.shape):
        dark = counts[row, column] > 0.6 * counts.max()
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color="white" if dark else "black")
    axes.set(title=f"{len(true):,} test labels", xlabel="found", ylabel="label")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)


def _scatter(axes: Any, true: np.ndarray, score: np.ndarray) -> None:
    axes.scatter(true, score, s=8, color=BLUE, alpha=0.6)
    limits = [min(true.min(), score.min()), max(true.max(), score.max())]
    axes.plot(limits, limits, color="grey", linewidth=0.8, linestyle=":")
    axes.set(title=f"{len(true):,} test labels", xlabel="label", ylabel="found")


def _thresholds(true: np.ndarray, score: np.ndarray) -> bytes:
    found = score[np.newaxis] > _THRESHOLDS[:, np.newaxis]
    right = (found & true).sum(axis=1)
    table = pa.table(
        {
            "threshold": _THRESHOLDS,
            "found": found.sum(axis=1),
            "precision": right / np.maximum(found.sum(axis=1), 1),
            "recall": right / max(int(true.sum()), 1),
        }
    )
    sink = pa.BufferOutputStream()
    pacsv.write_csv(table, sink)
    return bytes(sink.getvalue())
