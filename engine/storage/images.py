"""Images in: JPEG, PNG and FITS bytes become arrays of pixel values, or a reject with its reason."""

import io
import math
import warnings
import zlib
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from schemas.config import CutoutConfig
from schemas.reject import RejectReason

_FITS_MAGIC = b"SIMPLE  ="
_GZIP_MAGIC = b"\x1f\x8b"
_PIL_FORMATS = ("JPEG", "PNG")
Image.MAX_IMAGE_PIXELS = None  # The job's own limit is checked before any pixel is decoded.


class Pixels(NamedTuple):
    """One decoded cutout."""

    values: np.ndarray
    """(bands, height, width), native byte order; uint8 or uint16 as stored, or float32 for FITS."""
    full_scale: float | None
    """Value of white for display-ready images (255 or 65535); None for FITS, which needs a stretch."""


class CutoutError(Exception):
    """A cutout that cannot be used. Caught per row: it becomes a reject, never an abort."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode_cutout(data: bytes | np.ndarray, limits: CutoutConfig) -> Pixels:
    """Decode a JPEG, PNG or FITS image, the last gzipped or not; or take pixels that are decoded already.

    Parameters
    ----------
    data : bytes, or (height, width), (height, width, bands) or (bands, height, width) array
        Arrays of uint8 and uint16 are display-ready, all others are fluxes. The shorter of the outer axes is the bands.
    limits : CutoutConfig

    Raises
    ------
    CutoutError
        `decode_error`, `too_large` or `shape`.
    """
    pixels = _from_array(data, limits) if isinstance(data, np.ndarray) else _decode_bytes(data, limits)
    short_side = min(pixels.values.shape[1:])
    if short_side < limits.min_side_pixels:
        raise CutoutError(
            RejectReason.SHAPE,
            f"shorter side of {short_side} pixels, fewer than min_side_pixels {limits.min_side_pixels}",
        )
    return pixels


def _from_array(values: np.ndarray, limits: CutoutConfig) -> Pixels:
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise CutoutError(RejectReason.SHAPE, f"expected two or three axes with pixels, found shape {values.shape}")
    _check_size(values.size, limits)
    if values.ndim == 2:
        values = values[np.newaxis]
    elif values.shape[2] < values.shape[0]:
        values = values.transpose(2, 0, 1)
    full_scale = {"u1": 255.0, "u2": 65535.0}.get(values.dtype.str[1:])
    native = values.dtype.newbyteorder("=") if full_scale else np.float32
    with np.errstate(over="ignore"):  # What a float32 cannot hold becomes infinity.
        return Pixels(values.astype(native), full_scale)


def _decode_bytes(data: bytes, limits: CutoutConfig) -> Pixels:
    if not data:
        raise CutoutError(RejectReason.DECODE_ERROR, "no bytes")
    if len(data) > limits.max_bytes:
        raise CutoutError(RejectReason.TOO_LARGE, f"{len(data)} bytes, more than max_bytes {limits.max_bytes}")
    if data.startswith(_GZIP_MAGIC):
        data = _gunzip(data, limits)
    return _decode_fits(data, limits) if data.startswith(_FITS_MAGIC) else _decode_display(data, limits)


def _gunzip(data: bytes, limits: CutoutConfig) -> bytes:
    try:
        stream = zlib.decompressobj(wbits=31)
        plain = stream.decompress(data, limits.max_bytes + 1)
    except zlib.error as error:
        raise CutoutError(RejectReason.DECODE_ERROR, f"damaged gzip: {error}") from error
    if len(plain) > limits.max_bytes:
        raise CutoutError(RejectReason.TOO_LARGE, f"unpacks to more than max_bytes {limits.max_bytes}")
    if not stream.eof:
        raise CutoutError(RejectReason.DECODE_ERROR, "truncated gzip")
    return plain


def _decode_display(data: bytes, limits: CutoutConfig) -> Pixels:
    try:
        if (size := _size_of_colour_jpeg(data)) is not None:
            _check_size(size, limits)
            # The same pixels as Pillow's in half the time; strict refuses what Pillow refuses.
            values = simplejpeg.decode_jpeg(data, "RGB", strict=True)
            return Pixels(values.transpose(2, 0, 1), 255.0)
        image: Image.Image = Image.open(io.BytesIO(data), formats=_PIL_FORMATS)
        _check_size(image.width * image.height, limits)
        image.load()
        if image.mode.startswith("I"):
            return Pixels(np.asarray(image).astype(np.uint16)[np.newaxis], 65535.0)
        if image.mode != "L":
            image = image.convert("RGB")
        values = np.asarray(image)
    except CutoutError:
        raise
    except UnidentifiedImageError as error:
        raise CutoutError(RejectReason.DECODE_ERROR, "neither JPEG, PNG nor FITS") from error
    except Exception as error:  # Pillow's decoders raise many types on damaged files; each means the same here.
        raise CutoutError(RejectReason.DECODE_ERROR, f"{type(error).__name__}: {error}"[:200]) from error
    return Pixels(values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1), 255.0)


def _size_of_colour_jpeg(data: bytes) -> int | None:
    """Pixels of a JPEG of three bands, from its header; None for anything else."""
    with suppress(ValueError):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "RGB"):
            return height * width
    return None


def _decode_fits(data: bytes, limits: CutoutConfig) -> Pixels:
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(data), memmap=False, lazy_load_hdus=True) as units:
                image = next((unit for unit in units if unit.is_image and unit.header.get("NAXIS", 0) >= 2), None)
                if image is None:
                    raise CutoutError(RejectReason.SHAPE, "the FITS file holds no image")
                if image.header["NAXIS"] > 3:
                    raise CutoutError(RejectReason.SHAPE, f"{image.header['NAXIS']} axes, more than three")
                axes = (image.header[f"NAXIS{axis + 1}"] for axis in range(image.header["NAXIS"]))
                _check_size(math.prod(axes), limits)
                values = np.asarray(image.data, dtype=np.float32)
    except CutoutError:
        raise
    except Exception as error:  # astropy raises many types on damaged files; each means the same here.
        raise CutoutError(RejectReason.DECODE_ERROR, f"{type(error).__name__}: {error}"[:200]) from error
    if 0 in values.shape:
        raise CutoutError(RejectReason.SHAPE, f"empty image of shape {values.shape}")
    return Pixels(values[np.newaxis] if values.ndim == 2 else values, None)


def _check_size(n_pixels: int, limits: CutoutConfig) -> None:
    if n_pixels > limits.max_pixels:
        raise CutoutError(RejectReason.TOO_LARGE, f"{n_pixels} pixels, more than max_pixels {limits.max_pixels}")
