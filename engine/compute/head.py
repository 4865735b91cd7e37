"""The last layers of a network, trained on embeddings: Walmsley et al. 2022, Section 6, with the encoder frozen."""

from collections.abc import Callable
from copy import deepcopy
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from engine.compute.training import Loss, Settings, fit, in_memory

HeadKind = Literal["paper", "linear"]
_WIDTH, _DROPOUT = 64, 0.75


class Fitted(NamedTuple):
    """A head at its best, and how it came there."""

    head: nn.Module
    """Of the epoch with the smallest validation loss, in evaluation mode."""
    training_losses: list[float]
    """By epoch."""
    validation_losses: list[float]

    @property
    def best_epoch(self) -> int:
        """From 0."""
        return int(np.argmin(self.validation_losses))


class Schedule(NamedTuple):
    """How long to train."""

    most_epochs: int
    patience: int
    """Epochs without a better validation loss that end the training."""


def paper_schedule(n_training: int) -> Schedule:
    """Epochs and patience of the paper: 5e6 / n epochs, and a sixth of them, but 10 to 30, without getting better."""
    most = max(1, int(5e6 / n_training))
    return Schedule(most, min(max(10, most // 6), 30))


def make_head(kind: HeadKind, dimension: int, n_outputs: int, seed: int) -> nn.Sequential:
    """Make a head with seeded weights.

    paper: two layers of 64 with ReLU, each with dropout 0.75 after it, then the output; linear: the output alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "linear":
            return nn.Sequential(nn.Linear(dimension, n_outputs))
        return nn.Sequential(
            nn.Linear(dimension, _WIDTH),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_WIDTH, _WIDTH),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_WIDTH, n_outputs),
        )


def fit_head(
    head: nn.Module,
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    loss: Loss,
    schedule: Schedule,
    seed: int,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda n: None,
) -> Fitted:
    """Train a head on embeddings with Adam until validation gets no better.

    Parameters
    ----------
    head : nn.Module
        Not written into.
    training, validation : (features, targets)
        (n, d) float32 embeddings and what `loss` takes beside the outputs, at least one row each.
    loss : callable
    schedule : Schedule
    seed : int
        Of the order of rows and of dropout: the same seed gives the same head on one kind of device.
    learning_rate : float
    batch_size : int
    advance : callable
        Told of every epoch.

    Raises
    ------
    DataError
        Training diverged: a loss is not finite.
    """
    head = deepcopy(head)
    settings = Settings(schedule.most_epochs, schedule.patience, batch_size, learning_rate, seed, lanes=1)
    state = fit(head, in_memory(*training), in_memory(*validation), loss, settings, ended=lambda _: advance(1))
    return Fitted(head, state.training_losses, state.validation_losses)


def outputs_of(head: nn.Module, features: np.ndarray) -> np.ndarray:
    """Raw outputs of a head, (n, outputs) float32, for embeddings (n, d) float32."""
    with torch.no_grad():
        return np.asarray(head(torch.tensor(features)).numpy())
