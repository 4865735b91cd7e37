"""Ellipse features: how much the isophotes of a galaxy differ from nested, aligned ellipses.

The hand-made features of Astronomaly (Lochner & Bassett 2021, Appendix B), which the search for anomalies of Walmsley
et al. 2022 is measured against: boring galaxies are concentric and aligned, mergers and oddities are not. They say
nothing of colour, size or brightness. What is computed here follows the description; it differs in this:

* An ellipse has the area moments of the region inside of its contour. Astronomaly fits the points of the contour by
  least squares, which fails for few points. Of an ellipse both give the same.
* The residual is counted at the centres of pixels, of an ellipse that is not rounded to whole pixels first.
* An offset has two parts, along and across the axis of the innermost ellipse, without signs, so that it changes neither
  when the image is turned nor when it is mirrored. Astronomaly's is the distance, of which these are the legs. They
  are fractions of the image's side instead of pixels.
* A rotation is the acute angle between the axes. Astronomaly's code takes 90 degrees off larger differences, so that
  170 degrees, which are 10, become 80.
* Where no region above the background covers the middle, the galaxy is the largest. Astronomaly's code takes the last
  that it meets.
* A level takes in the pixels that are equal to it, so that a core that is saturated has an ellipse too.
* An image without a galaxy has the features of circles around one centre, and ranks as boring. Astronomaly leaves such
  images out, as it does where a contour has fewer than five points.
* The image is grey, the mean of its channels. Astronomaly takes the first channel.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

PERCENTILES = (90, 80, 70, 60, 50, 0)
"""Levels, among the brightnesses of a galaxy's pixels, from the inside out (Lochner & Bassett 2021, Appendix B)."""
PARTS = ("residual", "along", "across", "aspect", "rotation_deg")
"""What is said of each level, in this order."""
N_FEATURES = len(PERCENTILES) * len(PARTS)

_CLIP_SIGMA, _CLIPS = 3.0, 5
"""Sigma clipping of the background, as of astropy, which Astronomaly calls with its defaults."""
_ABOVE_SIGMA = 1.0
"""A galaxy is brighter than the background's median by this many deviations, as in Astronomaly's code."""
_LEAST_PIXELS = 5
"""Smaller regions are noise, unless there are no others; five points are the fewest that Astronomaly fits."""
_TOUCHING = np.ones((3, 3), bool)


class Ellipse(NamedTuple):
    """The ellipse of one level."""

    x: float
    """Of its centre, in pixels; 0 is the centre of the first column."""
    y: float
    """0 is the centre of the first row."""
    aspect: float
    """Major to minor axis, at least 1."""
    angle_deg: float
    """Of the major axis, in [0, 180), from the columns' axis towards the rows'."""
    residual: float
    """Pixels that are in the ellipse or in its region but not in both, as a fraction of the image's."""


def ellipse_features(image: np.ndarray) -> np.ndarray:
    """Describe the isophotes of a galaxy.

    Parameters
    ----------
    image : (h, w) float32 array
        Finite; its scale does not matter. The galaxy is in the middle.

    Returns
    -------
    (30,) float32 array
        For each of `PERCENTILES` the five of `PARTS`. The residual is a fraction of the image's pixels. The others
        compare with the innermost ellipse: the offset of the centre along its major axis and across it, not negative,
        as fractions of the geometric mean of the image's sides; the ratio of aspects, 1 for the same; and the angle
        between major axes in [0, 90] degrees. Of the innermost ellipse itself they are 0, 0, 1 and 0. An image
        without a galaxy, a constant one among them, has 0, 0, 0, 1, 0 throughout.
    """
    features = np.zeros((len(PERCENTILES), len(PARTS)), np.float32)
    features[:, PARTS.index("aspect")] = 1
    ellipses = fit_ellipses(image)
    if not ellipses:
        return features.ravel()
    x, y, aspect, angle_deg, residual = np.array(ellipses).T
    angle, side = np.radians(angle_deg[0]), np.sqrt(image.size)
    dx, dy = (x - x[0]) / side, (y - y[0]) / side
    turned = np.abs(angle_deg - angle_deg[0])
    features[:] = np.stack(
        [
            residual,
            np.abs(dx * np.cos(angle) + dy * np.sin(angle)),
            np.abs(dy * np.cos(angle) - dx * np.sin(angle)),
            aspect / aspect[0],
            np.minimum(turned, 180 - turned),
        ],
        axis=1,
    )
    return features.ravel()


def fit_ellipses(image: np.ndarray) -> list[Ellipse]:
    """Fit an ellipse to each of a galaxy's levels, of `PERCENTILES`; none where there is no galaxy.

    Of the regions of a level, holes filled, the one is taken whose centre of area is the nearest to that of the
    innermost; the innermost is the nearest to the middle of the image.

    Parameters
    ----------
    image : (h, w) float32 array
        Finite.
    """
    mask = galaxy_mask(image)
    if not mask.any():
        return []
    (rows, columns), *_ = ndimage.find_objects(mask.view(np.uint8))
    values = np.where(mask[rows, columns], image[rows, columns], -np.inf)
    levels = np.percentile(image[mask], PERCENTILES).astype(image.dtype)
    ellipses: list[Ellipse] = []
    x, y = image.shape[1] // 2, image.shape[0] // 2
    for level in levels:
        ys, xs = _nearest_region(values >= level, x - columns.start, y - rows.start)
        ellipses.append(_ellipse(xs + columns.start, ys + rows.start, image.shape))
        x, y = ellipses[0].x, ellipses[0].y
    return ellipses


def galaxy_mask(image: np.ndarray) -> np.ndarray:
    """Find the pixels of the galaxy: the region above the background that covers the middle, holes filled.

    Parameters
    ----------
    image : (h, w) float32 array
        Finite.

    Returns
    -------
    (h, w) bool array
        The largest region where none covers the middle; nothing where nothing is above the background.
    """
    regions = _regions(image > background(image))
    found = regions[image.shape[0] // 2, image.shape[1] // 2]
    if not found:
        sizes = np.bincount(regions.ravel())
        found = sizes[1:].argmax() + 1 if len(sizes) > 1 else -1
    return regions == found


def background(image: np.ndarray) -> float:
    """Brightness that the background of an image stays below: median and one deviation of its clipped pixels."""
    kept = np.sort(image, axis=None)
    for _ in range(_CLIPS):
        median, deviation = np.median(kept), kept.std(dtype=float)
        first = np.searchsorted(kept, median - _CLIP_SIGMA * deviation)
        last = np.searchsorted(kept, median + _CLIP_SIGMA * deviation, side="right")
        if last - first == len(kept):
            break
        kept = kept[first:last]
    return float(np.median(kept) + _ABOVE_SIGMA * kept.std(dtype=float))


def _regions(mask: np.ndarray) -> np.ndarray:
    """Number the regions of a mask, holes filled, from 1; 0 is outside. Pixels that touch at a corner are together."""
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    padded[1:-1, 1:-1] = mask
    dark, _ = ndimage.label(~padded)
    regions, _ = ndimage.label((dark != dark[0, 0])[1:-1, 1:-1], _TOUCHING)
    return regions


def _nearest_region(mask: np.ndarray, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of the region whose centre of area is the nearest to a place."""
    regions = _regions(mask)
    rows, columns = regions.nonzero()
    numbers = regions[rows, columns]
    sizes = np.bincount(numbers)
    if len(sizes) == 2:
        return rows, columns
    n_pixels = np.maximum(sizes, 1)
    square = (np.bincount(numbers, columns) / n_pixels - x) ** 2 + (np.bincount(numbers, rows) / n_pixels - y) ** 2
    square[sizes < min(_LEAST_PIXELS, sizes.max())] = np.inf
    own = numbers == square.argmin()
    return rows[own], columns[own]


def _ellipse(xs: np.ndarray, ys: np.ndarray, shape: tuple[int, ...]) -> Ellipse:
    """Make the ellipse that has the area, up to shape, and the second moments of a region's pixels."""
    x, y = xs.mean(), ys.mean()
    dx, dy = xs - x, ys - y
    # A pixel is a square of its own, so that one alone, or a row of them, has an extent as well. No dot products: BLAS
    # starts threads for these, which only wait for each other.
    xx, yy, xy = (dx * dx).mean() + 1 / 12, (dy * dy).mean() + 1 / 12, (dx * dy).mean()
    half_sum, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    determinant = xx * yy - xy**2
    # Twice the deviations are the half axes: in units of the deviations the ellipse is where the square is 4.
    square = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / determinant
    n_both = int((square <= 4).sum())
    n_ellipse = _pixels_inside(x, y, xx, yy, xy, shape)
    return Ellipse(
        x=float(x),
        y=float(y),
        aspect=float((half_sum + spread) / np.sqrt(determinant)),
        angle_deg=float(np.degrees(np.arctan2(2 * xy, xx - yy)) / 2 % 180),
        residual=(n_ellipse + len(xs) - 2 * n_both) / (shape[0] * shape[1]),
    )


def _pixels_inside(x: float, y: float, xx: float, yy: float, xy: float, shape: tuple[int, ...]) -> int:
    """Count the pixels of an image that are inside of an ellipse, row by row."""
    dy = np.arange(shape[0]) - y
    squared = (xx - xy**2 / yy) * (4 - dy**2 / yy)
    half = np.sqrt(np.maximum(squared, 0))
    middle = x + xy / yy * dy
    first, last = np.maximum(np.ceil(middle - half), 0), np.minimum(np.floor(middle + half), shape[1] - 1)
    return int(np.maximum(last - first + 1, 0)[squared >= 0].sum())
