"""Positions on the sphere: pixels, partitions, separations and matches (`engine.compute.sky_match`)."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hats.pixel_math import compute_spatial_index, spatial_index_to_healpix
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.compute import sky
from engine.compute.sky_match import nearest_object

ra_deg = st.floats(0, 360, exclude_max=True)
dec_deg = st.floats(-90, 90)
positions = st.tuples(ra_deg, dec_deg)
quick = settings(deadline=None, max_examples=60)


def two(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([ra for ra, _ in points]), np.array([dec for _, dec in points])


def test_the_twelve_base_pixels_lie_where_healpix_puts_them() -> None:
    # Górski et al. 2005, Section 4: centres at z = 2/3, 0, -2/3; the equatorial four start at longitude 0.
    cap_deg = np.degrees(np.arcsin(2 / 3))
    ra = np.array([45, 135, 225, 315, 0, 90, 180, 270, 45, 135, 225, 315], dtype=float)
    dec = np.repeat([cap_deg, 0.0, -cap_deg], 4)
    np.testing.assert_array_equal(sky.healpix_29(ra, dec) >> 58, np.arange(12))


def test_poles_and_both_sides_of_ra_zero_have_pixels() -> None:
    pixels = sky.healpix_29(np.array([0, 0, 0, 359.9999999]), np.array([90.0, -90, 0, 0]))
    assert pixels.dtype == np.int64
    assert ((pixels >= 0) & (pixels < 12 << 58)).all()


def test_no_positions_have_no_pixels() -> None:
    assert sky.healpix_29(np.empty(0), np.empty(0)).shape == (0,)


@quick
@given(
    arrays(np.int64, st.integers(0, 200), elements=st.integers(0, (12 << 58) - 1) | st.integers(0, 50)),
    st.integers(1, 20),
)
def test_partitions_cover_every_row_once_and_hold_only_their_own(healpix: np.ndarray, max_rows: int) -> None:
    healpix = np.sort(healpix)
    slices = sky.partition(healpix, max_rows)
    assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])][: len(slices)]
    assert sum(part.stop - part.start for part in slices) == len(healpix)
    for part in slices:
        rows = healpix[part.start : part.stop]
        assert len(rows) > 0
        assert len(rows) <= max_rows or part.order == sky.DEEPEST_PARTITION_ORDER
        assert (spatial_index_to_healpix(rows, part.order) == part.pixel).all()


@quick
@given(st.lists(positions, min_size=1, max_size=60), st.integers(1, 9))
def test_partitions_are_the_largest_pixels_of_hats_that_hold_at_most_max_rows(
    points: list[tuple[float, float]], max_rows: int
) -> None:
    ra, dec = two(points)
    order = np.argsort(sky.healpix_29(ra, dec))
    ra, dec = ra[order], dec[order]
    for part in sky.partition(sky.healpix_29(ra, dec), max_rows):
        rows = slice(part.start, part.stop)
        assert (compute_spatial_index(ra[rows], dec[rows], part.order) == part.pixel).all()
        if part.order > 0:
            assert (compute_spatial_index(ra, dec, part.order - 1) == part.pixel >> 2).sum() > max_rows


def test_objects_at_one_position_are_not_divided_for_ever() -> None:
    assert sky.partition(np.full(5, 7, np.int64), 2) == [sky.Slice(sky.DEEPEST_PARTITION_ORDER, 0, 0, 5)]


def test_an_empty_sky_has_no_partitions() -> None:
    assert sky.partition(np.empty(0, np.int64), 5) == []


def test_the_separation_of_arcturus_and_spica_is_that_of_meeus() -> None:
    # Meeus 1998, Astronomical Algorithms, example 17.a: 32.7930 degrees.
    found = sky.separation_arcsec(213.9154, 19.1825, np.array([201.2983]), np.array([-11.1614]))
    assert found[0] / 3600 == pytest.approx(32.7930, abs=5e-5)


@quick
@given(positions, st.lists(positions, min_size=1, max_size=20))
def test_separations_are_those_of_astropy(here: tuple[float, float], others: list[tuple[float, float]]) -> None:
    ra, dec = two(others)
    expected = SkyCoord(*here, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).to_value(u.arcsec)
    np.testing.assert_allclose(sky.separation_arcsec(*here, ra, dec), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("pole_deg", [90.0, -90.0])
def test_at_a_pole_right_ascension_does_not_matter(pole_deg: float) -> None:
    near_deg = pole_deg - np.sign(pole_deg) / 3600
    found = sky.separation_arcsec(0.0, pole_deg, np.array([0.0, 123.0, 180.0]), np.full(3, near_deg))
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)


def test_across_ra_zero_and_over_the_pole_neighbours_are_near() -> None:
    across = sky.separation_arcsec(359.9999, 0.0, np.array([0.0001]), np.array([0.0]))
    over = sky.separation_arcsec(10.0, 89.9999, np.array([190.0]), np.array([89.9999]))
    np.testing.assert_allclose([across[0], over[0]], 0.72, rtol=1e-6)


def test_a_match_is_the_nearest_on_the_sphere_at_the_pole_and_across_ra_zero() -> None:
    ra, dec = np.array([350.0, 0.1, 200.0, 100.0]), np.array([0.0, 0.0, 89.9, -89.5])
    rows, separations = nearest_object(np.array([359.9, 20.0, 280.0]), np.array([0.0, 89.95, -90.0]), ra, dec)
    assert rows.tolist() == [1, 2, 3]
    np.testing.assert_allclose(separations[[0, 2]], [720.0, 1800.0], rtol=1e-6)


@quick
@given(positions, st.lists(positions, min_size=1, max_size=20))
def test_no_other_is_nearer_than_the_match(here: tuple[float, float], others: list[tuple[float, float]]) -> None:
    ra, dec = two(others)
    rows, separations = nearest_object(*two([here]), ra, dec)
    every = sky.separation_arcsec(*here, ra, dec)
    # Matching compares chords, which are flat near the antipode: 1e-16 of a chord is milliarcseconds there.
    assert every[rows[0]] <= every.min() + 0.01
    assert separations[0] == pytest.approx(every[rows[0]], abs=0.01)


@pytest.mark.fault(21, "positions that are not finite or out of range")
@pytest.mark.parametrize(
    ("ra", "dec", "valid"),
    [
        (0.0, -90.0, True),
        (359.999999, 90.0, True),
        (360.0, 0.0, False),
        (-1e-9, 0.0, False),
        (0.0, 90.0001, False),
        (0.0, -90.01, False),
        (np.nan, 0.0, False),
        (0.0, np.nan, False),
        (np.inf, 0.0, False),
        (0.0, -np.inf, False),
    ],
)
def test_a_position_is_finite_and_in_range(ra: float, dec: float, valid: bool) -> None:
    assert sky.is_position(np.array([ra]), np.array([dec])).tolist() == [valid]


@pytest.mark.fault(21, "right ascension and declination exchanged")
def test_exchanged_columns_look_swapped_and_good_or_hopeless_ones_do_not() -> None:
    ra, dec = np.array([200.0, 300.0, 100.0]), np.array([10.0, -20.0, 30.0])
    assert sky.look_swapped(dec, ra)
    assert not sky.look_swapped(ra, dec)
    assert not sky.look_swapped(np.full(3, np.nan), np.full(3, np.nan))
    assert not sky.look_swapped(np.empty(0), np.empty(0))


def test_hours_are_suspected_only_of_a_wide_catalogue() -> None:
    hours, wide, narrow = np.linspace(0, 23.9, 40), np.linspace(-60, 60, 40), np.linspace(0, 5, 40)
    assert sky.look_like_hours(hours, wide)
    assert not sky.look_like_hours(hours * 15, wide)
    assert not sky.look_like_hours(hours, narrow)
    assert not sky.look_like_hours(hours[:19], wide[:19])
    assert not sky.look_like_hours(np.empty(0), np.empty(0))


def test_a_pixel_that_is_cut_further_gives_tiles_within_it() -> None:
    random = np.random.default_rng(0)
    healpix = np.sort(random.integers(0, 12 << 58, 4000))
    whole = sky.partition(healpix, 30)
    for part in sky.partition(healpix, 500):
        own = healpix[part.start : part.stop]
        tiles = sky.partition(own, 30, [(part.order, part.pixel)])
        expected = [tile for tile in whole if part.start <= tile.start < part.stop]
        assert [(one.order, one.pixel, one.start + part.start) for one in tiles] == [one[:3] for one in expected]
    (few,) = sky.partition(healpix[:1], 30, [(3, int(healpix[0] >> 52))])
    assert few.order == 3


def test_the_centre_of_a_pixel_lies_in_it() -> None:
    orders, pixels = np.array([0, 3, 9, 3]), np.array([11, 700, 123456, 0])
    ra, dec = sky.pixel_centres(orders, pixels)
    np.testing.assert_array_equal(sky.healpix_29(ra, dec) >> 2 * (29 - orders), pixels)
