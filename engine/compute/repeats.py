"""Vectors that are there more than once, bit by bit."""

from typing import NamedTuple

import numpy as np


class RepeatedRows(NamedTuple):
    """Groups of rows that hold the same vector."""

    n_groups: int
    n_rows: int
    """In all groups together."""
    largest: int
    """Rows of the largest group; 0 without any."""
    examples: list[tuple[int, np.ndarray]]
    """Sizes and some rows, in order, of some groups, the largest first."""


def repeated_rows(vectors: np.ndarray, most_examples: int, most_rows: int) -> RepeatedRows:
    """Find rows whose vectors are equal to that of another row; 0 and -0 are equal, and so are NaNs of equal bits.

    Parameters
    ----------
    vectors : (n, d) float32 array
    most_examples : int
        Groups to name.
    most_rows : int
        Rows to name of each.
    """
    whole = np.ascontiguousarray(vectors + np.float32(0)).view(np.dtype((np.void, vectors.itemsize * vectors.shape[1])))
    order = np.argsort(whole[:, 0], kind="stable")
    ordered = whole[order, 0]
    new = np.ones(len(order), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(order)))
    several = np.flatnonzero(sizes > 1)
    worst = several[np.argsort(-sizes[several], kind="stable")][:most_examples]
    examples = [
        (int(sizes[group]), order[starts[group] : starts[group] + min(sizes[group], most_rows)]) for group in worst
    ]
    return RepeatedRows(len(several), int(sizes[several].sum()), int(sizes[several].max(initial=0)), examples)
