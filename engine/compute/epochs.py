"""In which order rows are trained on: decided by seed and epoch alone, however many workers share the work.

A batch is cut into lanes. A worker takes some of the lanes, so that any number of workers that divides the lanes trains
on the same batches. Neighbouring rows, which are stored together, stay in one lane and in one window of its steps, so
that reading a window ahead reads few places.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LANES = 8
RUN_ROWS = 64
"""Rows that follow each other in storage and stay together: a row group of a packed catalogue."""
WINDOW_ROWS = 512
"""Rows of a lane that are mixed with each other, at least."""


class Order(NamedTuple):
    """One epoch."""

    rows: Sequence[np.ndarray]
    """Per step (lanes, rows of a lane) int64: which rows it trains on. Every row at most once; fewer than a batch are
    left out, others in every epoch."""
    window_steps: int
    """Steps whose rows of one lane are mixed with each other."""


def epoch_order(n: int, batch: int, seed: int, epoch: int, lanes: int = LANES) -> Order:
    """Order n rows for an epoch.

    Parameters
    ----------
    n : int
        At least `lanes`.
    batch : int
        Rows of a step, at least `lanes`; rounded down to a multiple of them, and to n.
    seed, epoch : int
    lanes : int
    """
    random = np.random.default_rng([seed, epoch])
    steps, each = _steps(n, batch, lanes)
    run = max(1, min(RUN_ROWS, n // (4 * lanes)))
    starts = random.permutation(np.arange(0, n, run))
    rows = np.concatenate([np.arange(start, min(start + run, n)) for start in starts])
    by_lane = rows[: steps * each * lanes].reshape(lanes, steps * each)
    window = -(-WINDOW_ROWS // each) * each
    mixed = [
        random.permutation(lane[start : start + window]) for lane in by_lane for start in range(0, len(lane), window)
    ]
    order = np.concatenate(mixed).reshape(lanes, steps, each).swapaxes(0, 1)
    return Order(list(order), window // each)


def _steps(n: int, batch: int, lanes: int) -> tuple[int, int]:
    """Steps, and rows of a lane in each: at most a batch, and few rows left out."""
    whole = max(1, batch // lanes)
    fewest = max(1, n // (whole * lanes))
    choices = [(steps, min(whole, n // (steps * lanes))) for steps in (fewest, fewest + 1)]
    return max(choices, key=lambda choice: (choice[0] * choice[1], -choice[0]))
