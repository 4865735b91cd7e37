"""Which objects of a map are shown first: a sample, in an order whose every beginning is a fair sample itself."""

import numpy as np

_BITS = 16
"""Of each coordinate in the order along the curve."""


def spread_rows(n_objects: int, n_rows: int, seed: int) -> np.ndarray:
    """Choose rows of a table: one at random from each of as many equal stretches as rows are wanted.

    Parameters
    ----------
    n_objects : int
    n_rows : int
        All of them where there are no more.
    seed : int

    Returns
    -------
    (min(n_objects, n_rows),) int64 array
        Ascending, all different.
    """
    edges = np.arange(min(n_objects, n_rows) + 1, dtype=np.int64) * n_objects // max(1, min(n_objects, n_rows))
    widths = np.diff(edges)
    chosen = np.floor(np.random.default_rng(seed).random(len(widths)) * widths).astype(np.int64)
    return edges[:-1] + np.minimum(chosen, widths - 1)


def fair_order(positions: np.ndarray) -> np.ndarray:
    """Order points of a plane so that the first n are spread as all of them are, whatever n is.

    Along the Z-order curve, which goes through one quarter of the plane after the other, every second point comes
    before those in between, and so on in each half (the order of van der Corput 1935).

    Parameters
    ----------
    positions : (n, 2) array
        Finite.

    Returns
    -------
    (n,) int64 array
        A permutation. Of points at one place the one with the smaller row is earlier on the curve.
    """
    n = len(positions)
    if n == 0:
        return np.empty(0, np.int64)
    low = positions.min(axis=0).astype(float)
    extent = max(float((positions.max(axis=0) - low).max()), np.finfo(float).tiny)
    steps = ((positions - low) / extent * (2**_BITS - 1)).astype(np.uint64)
    along = np.argsort(_interleaved(steps[:, 0]) | _interleaved(steps[:, 1]) << np.uint64(1), kind="stable")
    return along[np.argsort(_reversed_bits(np.arange(n), max(1, (n - 1).bit_length())), kind="stable")]


def _interleaved(values: np.ndarray) -> np.ndarray:
    """Put a zero between any two bits of 16-bit numbers."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        values = (values | values << np.uint64(shift)) & np.uint64(mask)
    return values


def _reversed_bits(values: np.ndarray, n_bits: int) -> np.ndarray:
    turned = np.zeros_like(values)
    for bit in range(n_bits):
        turned |= (values >> bit & 1) << (n_bits - 1 - bit)
    return turned
