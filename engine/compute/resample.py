"""Loops over pixels, compiled: the sum of an image's bands, and a resize along both axes. In one thread."""

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided


def sum_of_bytes(values: np.ndarray, scale: np.float32) -> np.ndarray:
    """Sum the bands of an image, at most 257, and multiply the sums: (bands, h, w) uint8 to (h, w) float32.

    Three bands that lie side by side, as JPEG decoders give them, are read once.
    """
    (bands, height, width), line_bytes = values.shape, values.strides[1]
    if bands == 3 and values.strides[::2] == (1, 3) and line_bytes >= 3 * width:
        out = np.empty((height, width), np.float32)
        n_bytes = (height - 1) * line_bytes + 3 * width
        _sum_of_three(as_strided(values, (n_bytes,), (1,), writeable=False), line_bytes, scale, out)
        return out
    total = values[0].astype(np.uint16)
    for band in values[1:]:
        total = np.add(total, band, out=total)
    return total * scale


def resize(image: np.ndarray, firsts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Resize an image to a square: each pixel that comes out is a weighted sum of some that follow each other.

    Parameters
    ----------
    image : (height, width) float32 array
    firsts : (n,) uint64 array
        First pixel of each sum, along both axes alike. Unsigned, as one that may be negative takes longer to look up.
    weights : (n, m) float32 array
        Of m pixels from the first one on, all of which have to be there.

    Returns
    -------
    (n, n) float32 array
    """
    out = np.empty((len(firsts), len(firsts)), np.float32)
    _resize(np.ascontiguousarray(image, np.float32), firsts, weights, out)
    return out


@numba.njit(cache=True, nogil=True)
def _sum_of_three(pixels, line_bytes, scale, out):  # type: ignore[no-untyped-def]
    height, width = out.shape
    for i in range(height):
        line = pixels[i * line_bytes : i * line_bytes + 3 * width]
        for j in range(width):
            total = np.int32(line[3 * j]) + np.int32(line[3 * j + 1]) + np.int32(line[3 * j + 2])
            out[i, j] = np.float32(total) * scale


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _resize(image, firsts, weights, out):  # type: ignore[no-untyped-def]
    """Sum along columns, four lines at a time, and these along rows: one at a time would wait for each sum."""
    n, m = weights.shape
    lines = np.empty((4, image.shape[1]), np.float32)
    a, b, c, d = lines[0], lines[1], lines[2], lines[3]
    sums = np.empty((4, n), np.float32)
    for start in range(0, n, 4):
        n_lines = min(4, n - start)
        for i in range(n_lines):
            line, first = lines[i], firsts[start + i]
            for x in range(len(line)):
                line[x] = weights[start + i, 0] * image[first, x]
            for k in range(1, m):
                weight, pixels = weights[start + i, k], image[first + np.uint64(k)]
                for x in range(len(line)):
                    line[x] += weight * pixels[x]
        for j in range(n):
            x, weight = firsts[j], weights[j, 0]
            of_a, of_b, of_c, of_d = weight * a[x], weight * b[x], weight * c[x], weight * d[x]
            for k in range(1, m):
                x += np.uint64(1)
                weight = weights[j, k]
                of_a += weight * a[x]
                of_b += weight * b[x]
                of_c += weight * c[x]
                of_d += weight * d[x]
            sums[0, j], sums[1, j], sums[2, j], sums[3, j] = of_a, of_b, of_c, of_d
        out[start : start + n_lines] = sums[:n_lines]
