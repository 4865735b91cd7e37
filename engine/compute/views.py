"""Views: what the encoder sees of a cutout. Deterministic, free of torch, one image at a time."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from schemas.preset import Preset


class Kernel(NamedTuple):
    """A resize kernel: its weight at a distance in pixels, and the distance beyond which it is zero."""

    weight: Callable[[np.ndarray], np.ndarray]
    support: float


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981, a = -0.5."""
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


KERNELS = {
    "bilinear": Kernel(lambda x: 1 - x, 1.0),
    "bicubic": Kernel(_bicubic, 2.0),
    "lanczos": Kernel(lambda x: np.sinc(x) * np.sinc(x / 3), 3.0),
}


class Window(NamedTuple):
    """The square of an image's pixels that views look at."""

    rows: slice
    columns: slice


class Resize(NamedTuple):
    """A resize of one axis, for some of the pixels that come out: each is a weighted sum of neighbours."""

    start: int
    """First pixel that is looked at."""
    n_seen: int
    """Pixels that are looked at, from there on."""
    firsts: np.ndarray
    """(pixels out,) uint64: the first of each sum, counted from `start`."""
    weights: np.ndarray
    """(pixels out, pixels of a sum) float32."""


def seen(height: int, width: int, preset: Preset, n_views: int) -> Window:
    """Find the part of an image that its views need: with it alone, `make_views` makes the same views faster."""
    axis, corner = _axis(height, width, preset, *_kept(preset, n_views)), _corner(height, width, preset)
    rows, columns = (slice(start + axis.start, start + axis.start + axis.n_seen) for start in corner)
    return Window(rows, columns)


def centre_view(image: np.ndarray, preset: Preset, whole: tuple[int, int] | None = None) -> np.ndarray:
    """Make the production view: central field, antialiased resize, centre crop, normalisation.

    Parameters
    ----------
    image : (bands, height, width) float32 array in [0, 1]
        With the preset's number of bands; of a non-square image the central square is used.
    preset : Preset
    whole : (int, int) or None
        Height and width of the image, where `image` is only what `seen` names of it.

    Returns
    -------
    (bands, crop, crop) float32 array
    """
    return _normalised(_resized(image, preset, 1, whole), preset)


def random_view(
    image: np.ndarray, preset: Preset, generator: np.random.Generator, whole: tuple[int, int] | None = None
) -> np.ndarray:
    """Make a view with random rotation, flips and crop centroid (Walmsley et al. 2022, Section 3).

    Arguments and result as in `centre_view`. Corners that a rotation uncovers are filled by reflection.
    """
    resized = _resized(image, preset, 2, whole)
    angle_deg = generator.uniform(0.0, 360.0)
    flip_x, flip_y = generator.random(2) < 0.5
    row, column = generator.integers(0, preset.resize - preset.crop + 1, size=2)
    margin = int(np.ceil(preset.resize * (np.sqrt(2) - 1) / 2)) + 1
    padded = np.pad(resized, ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    turned = [
        np.asarray(Image.fromarray(band).rotate(angle_deg, Image.Resampling.BILINEAR))[margin:-margin, margin:-margin]
        for band in padded
    ]
    flipped = np.stack(turned)[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return _normalised(flipped[:, row : row + preset.crop, column : column + preset.crop], preset)


def make_views(
    image: np.ndarray,
    preset: Preset,
    n_views: int,
    object_id: int | str,
    encoder: str,
    whole: tuple[int, int] | None = None,
) -> np.ndarray:
    """Make all views of one object: the centre view for one, else `n_views` random ones.

    Random views depend on the object's id, the encoder's hash and the view's number, and on nothing else. `image` and
    `whole` as in `centre_view`.

    Returns
    -------
    (n_views, bands, crop, crop) float32 array
    """
    if n_views == 1:
        return centre_view(image, preset, whole)[np.newaxis]
    return np.stack(
        [random_view(image, preset, view_generator(object_id, encoder, number), whole) for number in range(n_views)]
    )


def view_generator(object_id: int | str, encoder: str, number: int) -> np.random.Generator:
    """Seed a generator by object, encoder and view number, equally on every machine."""
    digest = hashlib.blake2b(f"{object_id}\0{encoder}\0{number}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


@lru_cache(maxsize=64)
def resize_weights(n_in: int, n_out: int, first: int, count: int, kernel: str) -> Resize:
    """Weights of an antialiased resize of `n_in` pixels to `n_out`, for `count` of these from `first` on.

    The kernel is widened by the ratio when shrinking and cut at the edges, its weights sum to one; this is what Pillow
    does, and agrees with it to 1e-6. Only what a crop keeps is made, from the pixels that this needs.
    """
    weight, support = KERNELS[kernel]
    ratio = n_in / n_out
    widening = max(ratio, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * ratio
    distances = np.abs(np.arange(n_in) + 0.5 - centres[:, np.newaxis]) / widening
    weights = np.where(distances < support, weight(distances), 0.0)
    looked_at = np.flatnonzero(weights.any(axis=0))
    start, stop = looked_at[0], looked_at[-1] + 1
    normalised = (weights / weights.sum(axis=1, keepdims=True))[:, start:stop].astype(np.float32)
    used = normalised != 0
    most = int((used.shape[1] - used[:, ::-1].argmax(axis=1) - used.argmax(axis=1)).max())
    firsts = np.minimum(used.argmax(axis=1), used.shape[1] - most)
    summed = np.take_along_axis(normalised, firsts[:, np.newaxis] + np.arange(most), axis=1)
    return Resize(int(start), used.shape[1], firsts.astype(np.uint64), summed)


def _kept(preset: Preset, n_views: int) -> tuple[int, int]:
    """First pixel and number of pixels of the resized square that a crop keeps; all of them for random views."""
    return ((preset.resize - preset.crop) // 2, preset.crop) if n_views == 1 else (0, preset.resize)


def _side(height: int, width: int, preset: Preset) -> int:
    """Side of the central field in pixels."""
    return max(1, round(min(height, width) * preset.field))


def _corner(height: int, width: int, preset: Preset) -> tuple[int, int]:
    side = _side(height, width, preset)
    return (height - side) // 2, (width - side) // 2


def _axis(height: int, width: int, preset: Preset, first: int, count: int) -> Resize:
    return resize_weights(_side(height, width, preset), preset.resize, first, count, preset.filter)


def _resized(image: np.ndarray, preset: Preset, n_views: int, whole: tuple[int, int] | None) -> np.ndarray:
    """Central field of an image, resized in float32, and of that what a crop keeps: (bands, count, count)."""
    from engine.compute.resample import resize  # Here: what compiles it takes half a second.

    height, width = whole or image.shape[1:]
    if not whole:
        rows, columns = seen(height, width, preset, n_views)
        image = image[:, rows, columns]
    axis = _axis(height, width, preset, *_kept(preset, n_views))
    return np.stack([resize(band, axis.firsts, axis.weights) for band in image])


def _normalised(view: np.ndarray, preset: Preset) -> np.ndarray:
    if any(preset.mean) or any(std != 1 for std in preset.std):
        mean = np.asarray(preset.mean, np.float32)[:, None, None]
        std = np.asarray(preset.std, np.float32)[:, None, None]
        view = (view - mean) / std
    return np.ascontiguousarray(view, dtype=np.float32)
