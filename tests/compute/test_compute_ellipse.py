"""Ellipse features: known ellipses are found, turning an image turns them, and what is odd shows."""

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from engine.compute.ellipse import (
    N_FEATURES,
    PARTS,
    PERCENTILES,
    background,
    ellipse_features,
    fit_ellipses,
    galaxy_mask,
)

SIDE = 101
BORING = np.tile(np.array([0, 0, 0, 1, 0], np.float32), len(PERCENTILES))


def profile(
    ratio: float, angle_deg: float, size: float = 7.0, x: float = SIDE // 2, y: float = SIDE // 2, side: int = SIDE
) -> np.ndarray:
    """Exponential light profile of an axis ratio, its major axis turned from the columns' axis towards the rows'."""
    rows, columns = np.mgrid[:side, :side]
    angle = np.radians(angle_deg)
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    return np.exp(-np.hypot(along, across / ratio) / size).astype(np.float32)


def disc(ratio: float, angle_deg: float, half_axis: float) -> np.ndarray:
    """An ellipse of even light."""
    return (profile(ratio, angle_deg, half_axis) >= np.exp(-1)).astype(np.float32)


def acute(turned: float) -> float:
    """Angle between axes, of the difference of their angles."""
    return min(turned % 180, -turned % 180)


def noisy(image: np.ndarray, deviation: float = 0.005) -> np.ndarray:
    return (image + np.random.default_rng(0).normal(0, deviation, image.shape)).astype(np.float32)


def parts(image: np.ndarray) -> dict[str, np.ndarray]:
    """Features by name, each of all levels."""
    return dict(zip(PARTS, ellipse_features(image).reshape(-1, len(PARTS)).T, strict=True))


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0.3, 0.75), angle_deg=st.floats(0, 179.9), x=st.floats(45, 55), y=st.floats(45, 55))
def test_an_elliptical_profile_has_its_axis_ratio_angle_and_centre_at_every_level(
    ratio: float, angle_deg: float, x: float, y: float
) -> None:
    for ellipse in fit_ellipses(profile(ratio, angle_deg, 5, x, y)):
        assert ellipse.aspect == pytest.approx(1 / ratio, rel=0.08)
        assert acute(ellipse.angle_deg - angle_deg) < 4
        assert (ellipse.x, ellipse.y) == pytest.approx((x, y), abs=0.4)
        assert ellipse.residual < 0.01


def test_nested_ellipses_have_the_features_of_a_boring_galaxy() -> None:
    found = ellipse_features(profile(0.6, 30)).reshape(-1, len(PARTS))
    assert (np.abs(found - BORING.reshape(found.shape)) < [0.005, 0.005, 0.005, 0.05, 2]).all()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turning_an_image_turns_its_ellipses_and_leaves_its_features(quarters: int) -> None:
    image = noisy(profile(0.5, 25) + 0.4 * profile(0.9, 0, 4, 70, 42))
    turned = np.rot90(image, -quarters)  # From the columns' axis towards the rows'.
    for before, after in zip(fit_ellipses(image), fit_ellipses(turned), strict=True):
        assert acute(after.angle_deg - before.angle_deg - 90 * quarters) < 1e-6
        assert after.aspect == pytest.approx(before.aspect)
    np.testing.assert_allclose(ellipse_features(turned), ellipse_features(image), atol=1e-4)


def test_mirroring_an_image_or_changing_its_scale_leaves_its_features() -> None:
    image = noisy(profile(0.5, 25) + 0.4 * profile(0.9, 0, 4, 70, 42))
    expected = ellipse_features(image)
    np.testing.assert_allclose(ellipse_features(image[:, ::-1]), expected, atol=1e-4)
    np.testing.assert_array_equal(ellipse_features(image * np.float32(4)), expected)


@pytest.mark.parametrize(("x", "y", "shows", "hidden"), [(72, 50, "along", "across"), (50, 72, "across", "along")])
def test_a_clump_beside_the_centre_shows_in_the_offset_of_the_outer_ellipses(
    x: float, y: float, shows: str, hidden: str
) -> None:
    found = parts(profile(0.6, 0) + 0.5 * profile(1, 0, 3, x, y))
    assert found[shows][0] == found[hidden][0] == 0
    assert found[shows][1:].max() > 0.02
    assert found[hidden].max() < 0.005


def test_a_bright_bar_across_a_disc_shows_in_rotation_and_aspect() -> None:
    found = parts(0.2 * disc(0.7, 70, 40) + disc(0.25, 10, 28))
    assert found["rotation_deg"][0] == 0
    assert found["rotation_deg"][-1] == pytest.approx(60, abs=1)
    assert found["aspect"][-1] == pytest.approx(0.25 / 0.7, rel=0.05)
    assert max(found["along"].max(), found["across"].max()) < 0.001


def test_a_rotation_is_the_acute_angle_between_axes() -> None:
    found = parts(0.2 * disc(0.7, 175, 40) + disc(0.25, 15, 28))
    assert found["rotation_deg"][-1] == pytest.approx(20, abs=1)


def test_the_residual_of_a_square_is_what_it_does_not_share_with_the_circle_of_its_moments() -> None:
    image = np.zeros((61, 61), np.float32)
    image[20:41, 20:41] = 1
    rows, columns = np.mgrid[:61, :61] - 30
    circle = rows**2 + columns**2 <= 4 * 21**2 / 12  # The variance of a side of 21 is 21^2 / 12.
    expected = (circle != (image == 1)).sum() / image.size
    for ellipse in fit_ellipses(image):
        assert ellipse[:3] == pytest.approx((30, 30, 1))
        assert ellipse.residual == pytest.approx(expected)
    assert expected > 0.01


def test_holes_of_a_ring_count_as_inside() -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    ring = np.exp(-((np.hypot(rows, columns) - 20) ** 2) / 8).astype(np.float32)
    assert galaxy_mask(ring)[SIDE // 2, SIDE // 2]
    np.testing.assert_allclose(ellipse_features(ring), BORING, atol=0.01)


def test_a_saturated_core_has_an_ellipse_at_every_level() -> None:
    saturated = np.minimum(profile(0.5, 40), 0.1)
    for ellipse in fit_ellipses(saturated):
        assert ellipse.aspect == pytest.approx(2, rel=0.05)


def test_neighbours_that_do_not_touch_the_galaxy_are_left_out() -> None:
    galaxy = profile(0.6, 30, 5)
    neighbour = profile(1, 0, 2, 88, 12)
    mask = galaxy_mask(galaxy + 3 * neighbour)
    assert mask[50, 50]
    assert not mask[12, 88]
    alone, beside = (fit_ellipses(image)[-1] for image in (galaxy, galaxy + 3 * neighbour))
    assert beside[:3] == pytest.approx(alone[:3], abs=0.1)


def test_where_nothing_covers_the_middle_the_largest_region_is_the_galaxy() -> None:
    image = profile(0.8, 0, 4, 25, 25) + profile(1, 0, 1, 85, 85)
    assert galaxy_mask(image)[25, 25]
    assert not galaxy_mask(image)[85, 85]


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_has_no_galaxy_and_boring_features(value: float) -> None:
    image = np.full((64, 64), value, np.float32)
    assert not galaxy_mask(image).any()
    assert fit_ellipses(image) == []
    np.testing.assert_array_equal(ellipse_features(image), BORING)


@settings(max_examples=150, deadline=None)
@given(
    arrays(
        np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 0.1, 0.5, 0.75, 1])
    )
)
def test_features_of_any_image_are_finite_and_in_range(image: np.ndarray) -> None:
    image.flags.writeable = False
    found = ellipse_features(image)
    assert (found.shape, found.dtype) == ((N_FEATURES,), np.float32)
    assert np.isfinite(found).all()
    residual, along, across, aspect, rotation = found.reshape(-1, len(PARTS)).T
    assert (residual >= 0).all()
    assert (residual <= 1).all()
    assert (along >= 0).all()
    assert (across >= 0).all()
    assert (aspect > 0).all()
    assert (rotation >= 0).all()
    assert (rotation <= 90).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_background_is_that_of_sigma_clipping_with_astropy(seed: int) -> None:
    random = np.random.default_rng(seed)
    image = (random.normal(0.1, 0.02, (80, 80)) + profile(0.6, 30, 4, 40, 40, 80)).astype(np.float32)
    _, median, deviation = sigma_clipped_stats(image, sigma=3)
    assert background(image) == pytest.approx(median + deviation, rel=1e-5)
