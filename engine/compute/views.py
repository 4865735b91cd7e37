"""Views: what the encoder sees of a cutout. Deterministic, free of torch, one image at a time."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.sparse import csr_matrix

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


def centre_view(image: np.ndarray, preset: Preset) -> np.ndarray:
    """Make the production view: central field, antialiased resize, centre crop, normalisation.

    Parameters
    ----------
    image : (bands, height, width) float32 array in [0, 1]
        With the preset's number of bands; of a non-square image the central square is used.

    Returns
    -------
    (bands, crop, crop) float32 array
    """
    return _normalised(_resized(image, preset, (preset.resize - preset.crop) // 2, preset.crop), preset)


def random_view(image: np.ndarray, preset: Preset, generator: np.random.Generator) -> np.ndarray:
    """Make a view with random rotation, flips and crop centroid (Walmsley et al. 2022, Section 3).

    Arguments and result as in `centre_view`. Corners that a rotation uncovers are filled by reflection.
    """
    resized = _resized(image, preset, 0, preset.resize)
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


def make_views(image: np.ndarray, preset: Preset, n_views: int, object_id: int | str, encoder: str) -> np.ndarray:
    """Make all views of one object: the centre view for one, else `n_views` random ones.

    Random views depend on the object's id, the encoder's hash and the view's number, and on nothing else.

    Returns
    -------
    (n_views, bands, crop, crop) float32 array
    """
    if n_views == 1:
        return centre_view(image, preset)[np.newaxis]
    return np.stack(
        [random_view(image, preset, view_generator(object_id, encoder, number)) for number in range(n_views)]
    )


def view_generator(object_id: int | str, encoder: str, number: int) -> np.random.Generator:
    """Seed a generator by object, encoder and view number, equally on every machine."""
    digest = hashlib.blake2b(f"{object_id}\0{encoder}\0{number}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


@lru_cache(maxsize=64)
def resize_weights(n_in: int, n_out: int, first: int, count: int, kernel: str) -> csr_matrix:
    """Weights of an antialiased resize of `n_in` pixels to `n_out`, for `count` of these from `first` on.

    The kernel is widened by the ratio when shrinking and cut at the edges, its weights sum to one; this is what Pillow
    does, and agrees with it to 1e-6. Only the rows that a crop keeps are made.

    Returns
    -------
    (count, n_in) sparse float32 matrix
    """
    weight, support = KERNELS[kernel]
    ratio = n_in / n_out
    widening = max(ratio, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * ratio
    distances = np.abs(np.arange(n_in) + 0.5 - centres[:, np.newaxis]) / widening
    weights = np.where(distances < support, weight(distances), 0.0)
    return csr_matrix((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def _resized(image: np.ndarray, preset: Preset, first: int, count: int) -> np.ndarray:
    """Central square of `field`, resized in float32, and of that the square from `first` on: (bands, count, count)."""
    height, width = image.shape[1:]
    side = max(1, round(min(height, width) * preset.field))
    top, left = (height - side) // 2, (width - side) // 2
    weights = resize_weights(side, preset.resize, first, count, preset.filter)
    square = image[:, top : top + side, left : left + side]
    return np.stack([(weights @ (weights @ np.ascontiguousarray(band, np.float32)).T).T for band in square])


def _normalised(view: np.ndarray, preset: Preset) -> np.ndarray:
    mean = np.asarray(preset.mean, np.float32)[:, None, None]
    std = np.asarray(preset.std, np.float32)[:, None, None]
    return np.ascontiguousarray((view - mean) / std, dtype=np.float32)
