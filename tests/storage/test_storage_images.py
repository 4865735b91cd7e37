"""Cutouts in: every image that is one becomes pixels, and every other file a reject with its reason."""

import gzip
import io
import os
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.storage.images import CutoutError, Pixels, decode_cutout
from schemas.config import CutoutConfig
from schemas.reject import RejectReason

LIMITS = CutoutConfig()


def ramp(bands: int = 3, height: int = 24, width: int = 30) -> np.ndarray:
    """(bands, height, width) uint8, different in every band and corner."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4 + y + 40 * band for band in range(bands)]).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def png(values: np.ndarray, **options: object) -> bytes:
    """PNG of (height, width) or (height, width, bands) values."""
    return saved(Image.fromarray(values), "PNG", **options)


def fits_bytes(values: np.ndarray) -> bytes:
    sink = io.BytesIO()
    fits.PrimaryHDU(values).writeto(sink)
    return sink.getvalue()


def fits_cards(*cards: str) -> bytes:
    """A FITS header by hand, and one block of zeros."""
    text = "".join(card.ljust(80) for card in ("SIMPLE  =                    T", *cards, "END"))
    return text.ljust(-(-len(text) // 2880) * 2880).encode() + bytes(2880)


def rejected(data: bytes | np.ndarray, limits: CutoutConfig = LIMITS) -> RejectReason:
    with pytest.raises(CutoutError) as caught:
        decode_cutout(data, limits)
    assert caught.value.detail
    return caught.value.reason


def test_a_jpeg_has_three_bands_of_bytes() -> None:
    values = ramp()
    pixels = decode_cutout(
        saved(Image.fromarray(values.transpose(1, 2, 0)), "JPEG", quality=100, subsampling=0), LIMITS
    )
    assert (pixels.values.shape, pixels.values.dtype, pixels.full_scale) == ((3, 24, 30), np.uint8, 255.0)
    assert np.abs(pixels.values.astype(int) - values).max() <= 4


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_a_png_of_any_mode_has_the_bytes_that_pillow_shows(mode: str) -> None:
    image = Image.fromarray(ramp().transpose(1, 2, 0)).convert(mode)
    pixels = decode_cutout(saved(image, "PNG"), LIMITS)
    if mode == "L":
        np.testing.assert_array_equal(pixels.values, np.asarray(image)[None])
    else:
        np.testing.assert_array_equal(pixels.values, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    assert pixels.full_scale == 255.0


def test_a_png_of_sixteen_bits_keeps_them() -> None:
    values = (np.arange(24 * 30).reshape(24, 30) * 91).astype(np.uint16)
    pixels = decode_cutout(png(values), LIMITS)
    np.testing.assert_array_equal(pixels.values[0], values)
    assert (pixels.values.dtype, pixels.full_scale) == (np.uint16, 65535.0)


@pytest.mark.parametrize("dtype", [">u1", ">i2", "<i2", ">u2", ">i4", "<i4", ">u4", ">i8", ">f4", "<f4", ">f8", "<f8"])
def test_a_fits_image_of_any_dtype_and_byte_order_is_float_in_native_order(dtype: str) -> None:
    values = ramp(1)[0].astype(dtype)
    pixels = decode_cutout(fits_bytes(values), LIMITS)
    np.testing.assert_array_equal(pixels.values[0], values.astype(np.float32))
    assert pixels.values.dtype == np.float32
    assert pixels.values.dtype.isnative
    assert pixels.full_scale is None


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_a_fits_cube_has_its_bands_first(bands: int) -> None:
    values = ramp(bands).astype(np.float32)
    np.testing.assert_array_equal(decode_cutout(fits_bytes(values), LIMITS).values, values)


def test_a_gzipped_fits_image_is_the_same_image() -> None:
    data = fits_bytes(ramp().astype(np.float32))
    np.testing.assert_array_equal(decode_cutout(gzip.compress(data), LIMITS).values, decode_cutout(data, LIMITS).values)


def test_the_first_image_of_a_fits_file_is_used_wherever_it_is() -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("x", "J", array=[1, 2])])
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(ramp(1)[0]), fits.ImageHDU(ramp(1)[0] * 0)]).writeto(sink)
    np.testing.assert_array_equal(decode_cutout(sink.getvalue(), LIMITS).values, ramp(1))


def test_a_compressed_fits_image_is_read() -> None:
    sink = io.BytesIO()
    compressed = fits.CompImageHDU(ramp(1)[0].astype(np.int16), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(sink)
    np.testing.assert_array_equal(decode_cutout(sink.getvalue(), LIMITS).values, ramp(1))


@pytest.mark.fault(18, "blank pixels of FITS")
def test_scaled_and_blank_pixels_of_fits_are_values_and_nan() -> None:
    unit = fits.PrimaryHDU(np.arange(400, dtype=np.int16).reshape(20, 20))
    unit.header["BLANK"] = 7
    unit.header["BSCALE"], unit.header["BZERO"] = 2.0, 100.0
    sink = io.BytesIO()
    unit.writeto(sink)
    values = decode_cutout(sink.getvalue(), LIMITS).values[0]
    assert np.isnan(values[0, 7])
    assert values[0, 6] == 112.0


@pytest.mark.fault(15, "empty files and texts")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"<html>404 Not Found</html>",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"SIMPLE  =",
        b"\x1f\x8b",
        b"GIF89a" + bytes(100),
        gzip.compress(b"not an image", mtime=0),
        saved(Image.fromarray(ramp(1)[0]), "GIF"),
        saved(Image.fromarray(ramp(1)[0]), "TIFF"),
        saved(Image.fromarray(ramp(1)[0]), "PPM"),
        fits_cards("BITPIX  =                   17", "NAXIS   = 2", "NAXIS1  = 10", "NAXIS2  = 10"),
        fits_cards("BITPIX  =                   16", "NAXIS   = 2", "NAXIS1  = -5", "NAXIS2  = 10"),
        fits_cards("BITPIX  =                   16", "NAXIS   = 2", "NAXIS1  = 4294967296", "NAXIS2  = 4294967296"),
        fits_cards("BITPIX  =                   16", "NAXIS   = 2", "NAXIS1  = 'abc'", "NAXIS2  = 10"),
    ],
)
def test_what_is_no_image_is_a_decode_error(data: bytes) -> None:
    assert rejected(data) in (RejectReason.DECODE_ERROR, RejectReason.TOO_LARGE)


class Payload:
    """What a malicious array holds: unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.mark.fault(25, "a NumPy file of objects, which would run elsewhere")
@pytest.mark.parametrize("save", [np.save, np.savez])
def test_a_numpy_file_with_a_payload_is_no_image_and_never_runs(tmp_path: Path, save: Callable[..., None]) -> None:
    mark, sink = tmp_path / "ran", io.BytesIO()
    save(sink, np.array([Payload(mark)], object))
    assert rejected(sink.getvalue()) is RejectReason.DECODE_ERROR
    assert not mark.exists()


@pytest.mark.fault(15, "random bytes behind every magic number")
@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([b"", b"SIMPLE  =", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1f\x8b\x08"]),
    st.binary(max_size=3000),
)
def test_random_bytes_are_rejects_and_nothing_else(magic: bytes, noise: bytes) -> None:
    assert rejected(magic + noise) in (RejectReason.DECODE_ERROR, RejectReason.SHAPE, RejectReason.TOO_LARGE)


FILES = {
    "jpeg": saved(Image.fromarray(ramp(3, 64, 64).transpose(1, 2, 0)), "JPEG"),
    "png": png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)),
    "fits": fits_bytes(np.random.default_rng(0).normal(size=(3, 30, 40)).astype(np.float32)),
    "fits.gz": gzip.compress(fits_bytes(np.random.default_rng(0).normal(size=(3, 30, 40)).astype(np.float32))),
}


@pytest.mark.fault(15, "images cut short")
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_a_decode_error(kind: str, fraction: float) -> None:
    data = FILES[kind]
    assert rejected(data[: int(len(data) * fraction)]) is RejectReason.DECODE_ERROR


@pytest.mark.parametrize("missing", [1, 4, 8])
def test_gzip_without_its_whole_checksum_is_a_decode_error(missing: int) -> None:
    assert rejected(FILES["fits.gz"][:-missing]) is RejectReason.DECODE_ERROR


def test_gzip_with_a_wrong_checksum_is_a_decode_error() -> None:
    data = bytearray(FILES["fits.gz"])
    data[-6] ^= 1
    assert rejected(bytes(data)) is RejectReason.DECODE_ERROR


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_a_damaged_byte_gives_pixels_or_a_reject_and_nothing_else(kind: str, where: float, value: int) -> None:
    data = bytearray(FILES[kind])
    data[int(where * len(data))] = value
    try:
        pixels = decode_cutout(bytes(data), LIMITS)
    except CutoutError:
        return
    assert isinstance(pixels, Pixels)
    assert pixels.values.ndim == 3


@pytest.mark.fault(16, "a PNG of 65,535 by 65,535 pixels")
def test_a_header_that_promises_four_billion_pixels_is_rejected_before_decoding() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    huge = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    assert rejected(huge) is RejectReason.TOO_LARGE


@pytest.mark.fault(16, "a FITS file of zeros, gzipped")
def test_a_gzip_bomb_is_unpacked_no_further_than_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        assert rejected(bomb, CutoutConfig(max_bytes=1_000_000)) is RejectReason.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_fits_header_that_promises_more_pixels_than_allowed_is_rejected() -> None:
    cards = ("BITPIX  =                   16", "NAXIS   = 2", "NAXIS1  = 100000", "NAXIS2  = 100000")
    assert rejected(fits_cards(*cards)) is RejectReason.TOO_LARGE


@pytest.mark.fault(16, "a compressed FITS cube")
def test_a_compressed_cube_that_unpacks_to_more_pixels_than_allowed_is_rejected() -> None:
    # 200 bands of 30 x 30 in a few kilobytes; with larger numbers this is a bomb that max_bytes does not see.
    sink = io.BytesIO()
    cube = fits.CompImageHDU(np.zeros((200, 30, 30), np.int16), compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), cube]).writeto(sink)
    assert rejected(sink.getvalue(), CutoutConfig(max_pixels=10_000)) is RejectReason.TOO_LARGE


def test_bytes_and_pixels_have_limits_that_include_themselves() -> None:
    data = png(ramp(1)[0])
    assert decode_cutout(data, CutoutConfig(max_bytes=len(data), max_pixels=24 * 30, min_side_pixels=24))
    assert rejected(data, CutoutConfig(max_bytes=len(data) - 1)) is RejectReason.TOO_LARGE
    assert rejected(data, CutoutConfig(max_pixels=24 * 30 - 1)) is RejectReason.TOO_LARGE
    assert rejected(data, CutoutConfig(min_side_pixels=25)) is RejectReason.SHAPE


@pytest.mark.parametrize("shape", [(1, 1, 20, 20), (2, 3, 20, 20), (7, 20), (20, 7), (3, 20, 7), (20, 20, 3)])
def test_fits_images_of_other_shapes_are_rejected_by_shape(shape: tuple[int, ...]) -> None:
    assert rejected(fits_bytes(np.zeros(shape, np.float32))) is RejectReason.SHAPE


def test_a_fits_file_without_an_image_is_rejected_by_shape() -> None:
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("x", "J", array=[1, 2])])]).writeto(
        sink
    )
    assert rejected(sink.getvalue()) is RejectReason.SHAPE
    assert rejected(fits_bytes(np.zeros(50, np.float32))) is RejectReason.SHAPE


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_has_the_pixels_that_pillow_shows(mode: str, options: dict[str, object]) -> None:
    image = Image.fromarray(ramp().transpose(1, 2, 0)).convert(mode)
    data = saved(image, "JPEG", **options)
    shown = Image.open(io.BytesIO(data))
    expected = np.atleast_3d(np.asarray(shown if mode == "L" else shown.convert("RGB"))).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_cutout(data, LIMITS).values, expected)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
def test_arrays_of_bytes_and_words_are_display_ready_with_their_bands_wherever_they_are(bands: int, dtype: str) -> None:
    values = (ramp(bands).astype(np.uint32) * 200 % 65_536).astype(dtype)
    for array in (values, values.transpose(1, 2, 0)):
        before = array.copy()
        pixels = decode_cutout(array, LIMITS)
        np.testing.assert_array_equal(pixels.values, values)
        assert pixels.values.dtype == np.dtype(dtype).newbyteorder("=")
        assert pixels.values.dtype.isnative
        assert pixels.full_scale == (255.0 if dtype == "u1" else 65_535.0)
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "f2", "i1", "<i2", ">i2", ">i4", "<u4", ">i8", "<u8"])
def test_arrays_of_all_other_numbers_are_fluxes(dtype: str) -> None:
    values = (ramp().astype(np.float64) / 3).astype(dtype)
    for array in (values, values.transpose(1, 2, 0)):
        pixels = decode_cutout(array, LIMITS)
        np.testing.assert_array_equal(pixels.values, values.astype(np.float32))
        assert (pixels.values.dtype, pixels.full_scale) == (np.float32, None)
        assert pixels.values.dtype.isnative


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<f4", ">f8"])
def test_an_array_of_two_axes_is_one_band(dtype: str) -> None:
    values = ramp(1)[0].astype(dtype)
    pixels = decode_cutout(values, LIMITS)
    assert pixels.values.shape == (1, 24, 30)
    np.testing.assert_array_equal(pixels.values[0], values)


def test_of_two_outer_axes_the_shorter_is_the_bands_and_of_equal_ones_the_first() -> None:
    shapes = {
        (9, 20, 30): (9, 20, 30),
        (20, 30, 9): (9, 20, 30),
        (20, 9, 30): (20, 9, 30),
        (30, 9, 20): (20, 30, 9),
        (20, 30, 20): (20, 30, 20),
    }
    for shape, expected in shapes.items():
        assert decode_cutout(np.zeros(shape, np.uint8), LIMITS).values.shape == expected


@pytest.mark.parametrize("shape", [(20,), (), (2, 3, 20, 20), (0, 20, 20), (20, 20, 0), (3, 0, 20), (0, 20), (20, 0)])
def test_arrays_of_other_axes_or_without_pixels_are_rejected_by_shape(shape: tuple[int, ...]) -> None:
    assert rejected(np.zeros(shape, np.uint8)) is RejectReason.SHAPE


def test_arrays_have_limits_that_include_themselves() -> None:
    values = ramp(3, 24, 30)
    assert decode_cutout(values, CutoutConfig(max_pixels=3 * 24 * 30, min_side_pixels=24))
    assert rejected(values, CutoutConfig(max_pixels=3 * 24 * 30 - 1)) is RejectReason.TOO_LARGE
    assert rejected(values, CutoutConfig(min_side_pixels=25)) is RejectReason.SHAPE
    assert rejected(values.transpose(1, 2, 0), CutoutConfig(min_side_pixels=25)) is RejectReason.SHAPE


def test_nan_and_infinity_in_an_array_stay_and_what_is_too_large_for_a_float_becomes_infinity() -> None:
    values = np.full((1, 10, 10), 2.5, ">f8")
    values[0, 0, :4] = np.nan, np.inf, -np.inf, 1e300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode_cutout(values, LIMITS).values
    np.testing.assert_array_equal(pixels[0, 0, :5], [np.nan, np.inf, -np.inf, np.inf, 2.5])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 12), max_size=4),
    st.sampled_from(["u1", ">u2", "<i4", ">f4", "f2", ">f8", "<u8"]),
    st.booleans(),
)
def test_an_array_of_any_shape_becomes_pixels_or_a_reject(shape: list[int], dtype: str, is_strided: bool) -> None:
    values = np.ones([2 * side for side in shape] if is_strided else shape, dtype)
    values = np.asarray(values[tuple(slice(None, None, -2) for _ in shape)]) if is_strided else values
    limits = CutoutConfig(min_side_pixels=1)
    if values.ndim not in (2, 3) or not values.size:
        assert rejected(values, limits) is RejectReason.SHAPE
        return
    pixels = decode_cutout(values, limits)
    assert pixels.values.ndim == 3
    assert pixels.values.size == values.size
    assert (pixels.values == 1).all()


def test_the_same_image_as_a_file_and_as_an_array_gives_the_same_pixels() -> None:
    colour, grey = ramp(3).transpose(1, 2, 0), (ramp(1)[0].astype(np.uint16) * 201)
    for data, array in (
        (png(colour), colour),
        (png(colour), ramp(3)),
        (png(grey), grey),
        (fits_bytes(ramp(3).astype(">f4")), ramp(3).astype("<f8")),
        (fits_bytes(ramp(5).astype(">i2")), ramp(5).astype("<i2").transpose(1, 2, 0)),
    ):
        file, pixels = decode_cutout(data, LIMITS), decode_cutout(array, LIMITS)
        np.testing.assert_array_equal(pixels.values, file.values)
        assert (pixels.values.dtype, pixels.full_scale) == (file.values.dtype, file.full_scale)
