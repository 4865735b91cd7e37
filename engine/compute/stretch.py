"""Pixel values to [0, 1]."""

import numpy as np

from schemas.config import StretchConfig


def unit_range(values: np.ndarray, full_scale: float | None, stretch: StretchConfig) -> np.ndarray:
    """Bring pixel values into [0, 1].

    Parameters
    ----------
    values : (bands, height, width) array
        Finite pixel values, any real dtype.
    full_scale : float or None
        White of a display-ready image, which is only divided by it; None for measured fluxes, which are stretched.
    stretch : StretchConfig
        How to stretch fluxes. One interval is used for all bands, so that colours survive.

    Returns
    -------
    (bands, height, width) float32 array in [0, 1]
        Three bands after `lupton` (Lupton et al. 2004, PASP 116, 133). With the other stretches a constant image
        becomes all zeros, unless `low` and `high` are given.

    Raises
    ------
    ValueError
        `lupton` with fewer bands than `rgb_bands` names.
    """
    if full_scale is not None:
        return values.astype(np.float32) / np.float32(full_scale)
    # Imported here: display-ready images, which most surveys serve, need none of it, and it takes half a second.
    from astropy.visualization import AsinhStretch, LinearStretch, ManualInterval, PercentileInterval, make_lupton_rgb

    if stretch.kind == "lupton":
        red, green, blue = (values[band] for band in _checked_bands(values, stretch))
        minimum = 0.0 if stretch.low is None else stretch.low
        with np.errstate(invalid="ignore"):  # Of pixels without light, whose colour does not matter.
            rgb = make_lupton_rgb(
                red,
                green,
                blue,
                minimum=minimum,
                stretch=stretch.lupton_stretch,
                Q=stretch.lupton_q,
                output_dtype=float,
            )
        return np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32)
    low, high = PercentileInterval(stretch.percentile).get_limits(values)
    low = low if stretch.low is None else stretch.low
    high = high if stretch.high is None else stretch.high
    if not low < high:
        return np.zeros(values.shape, np.float32)
    scaled = ManualInterval(low, high)(values.astype(np.float64))
    curve = AsinhStretch(stretch.asinh_a) if stretch.kind == "asinh" else LinearStretch()
    return np.asarray(curve(scaled), dtype=np.float32)


def display_image(
    values: np.ndarray,
    full_scale: float | None,
    bands: str,
    stretch: StretchConfig,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> np.ndarray:
    """Stretch an image and reduce it to the bands of a preset: `grey` is the mean over bands, `rgb` has three.

    Arguments as in `unit_range`; only `rows` and `columns` come out, stretched by all pixels. Display-ready colours
    stay as they are; of fluxes, `rgb` takes the planes that `rgb_bands` names. A single band is repeated.

    Returns
    -------
    (1 or 3, height, width) float32 array in [0, 1]

    Raises
    ------
    ValueError
        `rgb` from planes that the image lacks.
    """
    if full_scale is not None:  # Every pixel on its own.
        values = values[:, rows, columns]
    if bands == "grey" and full_scale is not None and values.dtype == np.uint8 and len(values) <= 257:
        # Of bytes, whole numbers are summed first: faster than the mean of floats, and equal to 1e-7.
        from engine.compute.resample import sum_of_bytes  # Here: what compiles it takes half a second.

        return sum_of_bytes(values, np.float32(1 / (len(values) * full_scale)))[np.newaxis]
    image = unit_range(values, full_scale, stretch)
    if full_scale is None:
        image = image[:, rows, columns]
    if bands == "grey":
        return image.mean(axis=0, keepdims=True, dtype=np.float32)
    if len(image) == 1:
        return np.repeat(image, 3, axis=0)
    if full_scale is not None or stretch.kind == "lupton":
        return image
    return image[list(_checked_bands(image, stretch))]


def _checked_bands(image: np.ndarray, stretch: StretchConfig) -> tuple[int, int, int]:
    if max(stretch.rgb_bands) >= len(image):
        raise ValueError(f"the image has {len(image)} bands, red, green and blue need planes {stretch.rgb_bands}")
    return stretch.rgb_bands
