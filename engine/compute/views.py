"""Views: what the encoder sees of a cutout. Deterministic, free of torch, one image at a time."""

import hashlib

import numpy as np
from PIL import Image

from schemas.preset import Preset

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
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
    resized = _resized(image, preset)
    offset = (preset.resize - preset.crop) // 2
    return _normalised(resized[:, offset : offset + preset.crop, offset : offset + preset.crop], preset)


def random_view(image: np.ndarray, preset: Preset, generator: np.random.Generator) -> np.ndarray:
    """Make a view with random rotation, flips and crop centroid (Walmsley et al. 2022, Section 3).

    Arguments and result as in `centre_view`. Corners that a rotation uncovers are filled by reflection.
    """
    resized = _resized(image, preset)
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


def _resized(image: np.ndarray, preset: Preset) -> np.ndarray:
    """Central square of `field`, resized in float32: (bands, resize, resize)."""
    height, width = image.shape[1:]
    side = max(1, round(min(height, width) * preset.field))
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[:, top : top + side, left : left + side], dtype=np.float32)
    size, kernel = (preset.resize, preset.resize), _FILTERS[preset.filter]
    return np.stack([np.asarray(Image.fromarray(band).resize(size, kernel)) for band in square])


def _normalised(view: np.ndarray, preset: Preset) -> np.ndarray:
    mean = np.asarray(preset.mean, np.float32)[:, None, None]
    std = np.asarray(preset.std, np.float32)[:, None, None]
    return np.ascontiguousarray((view - mean) / std, dtype=np.float32)
