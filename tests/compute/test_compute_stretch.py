"""Pixel values to [0, 1]: the stretches of astropy, the same for every dtype and byte order."""

import numpy as np
import pytest
from astropy.visualization import AsinhStretch, ImageNormalize, LinearStretch, PercentileInterval, make_lupton_rgb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.compute.stretch import display_image, unit_range
from schemas.config import StretchConfig

quick = settings(deadline=None, max_examples=50)
KINDS = ("linear", "asinh", "lupton")
fluxes = arrays(np.float32, (3, 9, 8), elements=st.floats(-1e4, 1e4, width=32))


def galaxy(seed: int = 0) -> np.ndarray:
    """Integers up to 250 with a bright middle, (3, 24, 20): exact in every dtype that FITS has."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-12:12, -10:10]
    light = 200 * np.exp(-np.hypot(x, y) / 4)
    return np.round(light + generator.uniform(0, 50, (3, 24, 20))).astype(np.float32)


def test_asinh_is_the_curve_of_its_formula() -> None:
    # asinh(x / a) / asinh(1 / a), as in astropy's AsinhStretch; asinh(5) / asinh(10) = 0.77127.
    values = np.array([[[0.0, 50.0, 100.0]]])
    found = unit_range(values, None, StretchConfig(kind="asinh", low=0, high=100, asinh_a=0.1))
    np.testing.assert_allclose(found[0, 0], [0, 0.77127, 1], atol=1e-5)


def test_lupton_is_the_curve_of_its_paper() -> None:
    # Lupton et al. 2004 as in astropy: 0.1 asinh(Q I / stretch) / asinh(0.1 Q) for grey, here I = stretch.
    found = unit_range(np.full((3, 2, 2), 5.0), None, StretchConfig(kind="lupton", lupton_q=8, lupton_stretch=5))
    np.testing.assert_allclose(found, 0.1 * np.arcsinh(8) / np.arcsinh(0.8), rtol=1e-6)


@quick
@given(fluxes, st.sampled_from([90.0, 99.5, 100.0]))
def test_linear_and_asinh_are_those_of_astropy(values: np.ndarray, percentile: float) -> None:
    for kind, curve in (("linear", LinearStretch()), ("asinh", AsinhStretch(0.1))):
        low, high = PercentileInterval(percentile).get_limits(values)
        found = unit_range(values, None, StretchConfig(kind=kind, percentile=percentile))
        if low < high:
            expected = ImageNormalize(vmin=low, vmax=high, stretch=curve, clip=True)(values.astype(np.float64))
            np.testing.assert_allclose(found, expected, atol=1e-6)
        else:
            assert not found.any()


@quick
@given(fluxes)
def test_lupton_is_that_of_astropy(values: np.ndarray) -> None:
    config = StretchConfig(kind="lupton", lupton_q=6, lupton_stretch=30, low=-2.0, rgb_bands=(2, 0, 1))
    rgb = make_lupton_rgb(values[2], values[0], values[1], minimum=-2.0, stretch=30, Q=6, output_dtype=float)
    np.testing.assert_allclose(unit_range(values, None, config), rgb.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.fault(18, "images with NaN and infinities")
@quick
@given(fluxes, st.sampled_from(KINDS))
def test_every_stretch_ends_in_the_unit_range_and_leaves_its_input(values: np.ndarray, kind: str) -> None:
    before = values.copy()
    found = unit_range(values, None, StretchConfig(kind=kind))
    assert found.dtype == np.float32
    assert found.shape == values.shape
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(values, before)


@pytest.mark.fault(19, "every dtype and byte order")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u2", "<i4", ">i4", "<i8", "<f4", ">f4", "<f8", ">f8"])
def test_one_object_in_any_dtype_and_byte_order_is_one_image(kind: str, dtype: str) -> None:
    values, config = galaxy(), StretchConfig(kind=kind)
    found = unit_range(values.astype(dtype), None, config)
    np.testing.assert_allclose(found, unit_range(values, None, config), atol=1e-6)


@pytest.mark.fault(18, "a constant image")
@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e30])
@pytest.mark.parametrize("kind", ["linear", "asinh"])
def test_a_constant_image_becomes_zeros(kind: str, value: float) -> None:
    assert not unit_range(np.full((2, 9, 9), value, np.float32), None, StretchConfig(kind=kind)).any()


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e30])
def test_a_constant_image_is_finite_after_lupton(value: float) -> None:
    found = unit_range(np.full((3, 9, 9), value, np.float32), None, StretchConfig(kind="lupton"))
    assert np.isfinite(found).all()


def test_given_limits_win_over_percentiles() -> None:
    found = unit_range(np.array([[[-5.0, 0.0, 1.0, 2.0, 9.0]]]), None, StretchConfig(kind="linear", low=0, high=2))
    np.testing.assert_allclose(found[0, 0], [0, 0, 0.5, 1, 1])


def test_one_interval_serves_all_bands_so_that_colours_survive() -> None:
    values = np.stack([np.linspace(0, 1, 64).reshape(8, 8), np.linspace(0, 0.5, 64).reshape(8, 8)])
    found = unit_range(values, None, StretchConfig(kind="linear", percentile=100))
    np.testing.assert_allclose(found[1], found[0] / 2, atol=1e-6)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_display_ready_images_are_only_divided_by_white(dtype: type, white: int) -> None:
    values = np.array([[[0, white // 5, white]]], dtype)
    for kind in KINDS:
        found = unit_range(values, float(white), StretchConfig(kind=kind))
        np.testing.assert_allclose(found, [[[0, 0.2, 1]]], atol=1e-7)


def test_grey_is_the_mean_of_all_bands_and_rgb_repeats_one() -> None:
    image, config = (galaxy() / 4).astype(np.uint8), StretchConfig()
    grey = display_image(image, 255.0, "grey", config)
    np.testing.assert_allclose(grey[0], image.mean(axis=0) / 255, atol=1e-6)
    np.testing.assert_allclose(display_image(image[:1], 255.0, "rgb", config), np.repeat(image[:1], 3, axis=0) / 255.0)


def test_display_ready_colours_keep_their_order_whatever_rgb_bands_says() -> None:
    image = (galaxy() / 4).astype(np.uint8)
    found = display_image(image, 255.0, "rgb", StretchConfig(rgb_bands=(2, 1, 0)))
    np.testing.assert_allclose(found, image / 255.0, atol=1e-6)


def test_rgb_of_more_measured_bands_picks_the_named_planes() -> None:
    image = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 8, 8), np.float32)
    config = StretchConfig(kind="linear", low=0, high=4, rgb_bands=(4, 1, 0))
    assert display_image(image, None, "rgb", config)[:, 0, 0].tolist() == [1, 0.25, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_rgb_of_three_measured_planes_follows_rgb_bands_too(kind: str) -> None:
    # A g, r, z cube needs z, r, g to look as it should, whichever stretch is chosen.
    plain = display_image(galaxy(), None, "rgb", StretchConfig(kind=kind))
    found = display_image(galaxy(), None, "rgb", StretchConfig(kind=kind, rgb_bands=(2, 1, 0)))
    np.testing.assert_allclose(found, plain[::-1], atol=1e-6)


@pytest.mark.parametrize(("n_bands", "wanted"), [(2, (0, 1, 2)), (4, (0, 1, 4)), (4, (9, 1, 0))])
@pytest.mark.parametrize("kind", KINDS)
def test_planes_that_are_not_there_are_an_error_with_both_numbers(
    kind: str, n_bands: int, wanted: tuple[int, int, int]
) -> None:
    image, config = np.zeros((n_bands, 8, 8), np.float32), StretchConfig(kind=kind, rgb_bands=wanted)
    with pytest.raises(ValueError, match=rf"the image has {n_bands} bands, .* need planes"):
        display_image(image, None, "rgb", config)


@pytest.mark.parametrize("bands", ["grey", "rgb"])
@pytest.mark.parametrize("kind", [*KINDS, "ready"])
def test_a_part_of_an_image_is_stretched_as_in_the_whole(kind: str, bands: str) -> None:
    values, full_scale = (galaxy().astype(np.uint8), 255.0) if kind == "ready" else (galaxy(), None)
    stretch = StretchConfig() if kind == "ready" else StretchConfig(kind=kind)
    part = display_image(values, full_scale, bands, stretch, slice(5, 19), slice(2, 16))
    np.testing.assert_array_equal(part, display_image(values, full_scale, bands, stretch)[:, 5:19, 2:16])
