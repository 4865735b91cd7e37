import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mocpy import MOC

from engine.compute.sky import healpix_29, in_cone, in_moc, separation_arcsec, unit_vectors
from engine.compute.sky_match import caps_around, nearest_caps, nearest_object, within_reach


def everywhere(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(0, 360, n), np.degrees(np.arcsin(random.uniform(-1, 1, n)))


@pytest.mark.parametrize("order", [0, 1, 3, 8])
def test_a_cap_holds_every_position_of_its_pixel(order: int) -> None:
    ra_deg, dec_deg = everywhere(20_000, order)
    pixels = healpix_29(ra_deg, dec_deg) >> 2 * (29 - order)
    present, at = np.unique(pixels, return_inverse=True)
    caps = caps_around(np.full(len(present), order), present)
    apart = np.arccos(np.clip((unit_vectors(ra_deg, dec_deg) * caps.centres[at]).sum(axis=1), -1, 1))
    assert (apart <= caps.radii_rad[at] + 1e-8).all()


def test_caps_out_of_reach_are_left_out_and_none_within_it() -> None:
    ra_deg, dec_deg = everywhere(300, 1)
    queries = unit_vectors(ra_deg, dec_deg)
    caps = caps_around(np.full(192, 2), np.arange(192))
    reach = np.radians(np.random.default_rng(2).uniform(0, 30, 300))
    found = within_reach(queries, reach, caps)
    apart = np.arccos(np.clip(queries @ caps.centres.T, -1, 1)) - caps.radii_rad
    expected = np.nonzero(apart <= reach[:, None])
    assert set(zip(*found, strict=True)) == set(zip(*expected, strict=True))
    assert np.array_equal(nearest_caps(queries, caps), apart.argmin(axis=1))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 10_000), spread=st.sampled_from([1e-6, 1.0, 180.0]))
@pytest.mark.parametrize(("ra0", "dec0"), [(0.0, 90.0), (0.0, 0.0), (180.0, -89.9999)])
def test_the_nearest_object_is_that_of_brute_force(ra0: float, dec0: float, n: int, seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    ra = (ra0 + random.uniform(-spread, spread, n + 5)) % 360
    dec = np.clip(dec0 + random.uniform(-spread, spread, n + 5), -90, 90)
    rows, apart = nearest_object(ra[n:], dec[n:], ra[:n], dec[:n])
    every = separation_arcsec(ra[n:, None], dec[n:, None], ra[:n], dec[:n])
    np.testing.assert_array_equal(apart, every[np.arange(5), rows])
    np.testing.assert_allclose(apart, every.min(axis=1), atol=1e-6)


def test_of_objects_at_the_same_place_the_first_is_found() -> None:
    rows, apart = nearest_object(np.array([10.0]), np.array([5.0]), np.full(5, 10.0), np.full(5, 5.0))
    assert (rows.tolist(), apart.tolist()) == ([0], [0.0])


@pytest.mark.parametrize(("ra0", "dec0"), [(0.0, 0.0), (123.0, 90.0), (359.99, -45.0)])
def test_a_cone_holds_what_is_within_its_radius(ra0: float, dec0: float) -> None:
    ra_deg, dec_deg = (
        (ra0 + np.array([0.0, 0.01, -0.01, 180.0])) % 360,
        np.clip(dec0 + np.array([0, 0, 0, -1]), -90, 90),
    )
    expected = separation_arcsec(ra0, dec0, ra_deg, dec_deg) <= 40
    assert in_cone(ra_deg, dec_deg, ra0, dec0, 40).tolist() == expected.tolist()
    assert in_cone(ra_deg, dec_deg, ra0, dec0, 40)[:3].all() or dec0 == 0.0
    assert not in_cone(ra_deg, dec_deg, ra0, dec0, 40)[3]


def test_a_coverage_map_holds_the_positions_of_its_pixels() -> None:
    ra_deg, dec_deg = everywhere(2000, 3)
    moc = MOC.from_string("2/5 17 3/400")
    pixels = healpix_29(ra_deg, dec_deg)
    expected = np.isin(pixels >> 54, [5, 17]) | (pixels >> 52 == 400)
    assert 0 < expected.sum() < 2000
    assert np.array_equal(in_moc(moc, ra_deg, dec_deg), expected)
    assert in_moc(moc, np.empty(0), np.empty(0)).shape == (0,)


@pytest.mark.parametrize("radius_arcsec", [0.5, 3600.0, 324_000.0, 648_000.0])
@pytest.mark.parametrize(("ra0", "dec0"), [(0.0, 0.0), (359.999, -89.9999), (10.0, 90.0), (180.0, 45.0)])
def test_a_cone_holds_what_is_no_farther_than_its_radius(ra0: float, dec0: float, radius_arcsec: float) -> None:
    random = np.random.default_rng(3)
    ra_deg = np.concatenate([random.uniform(0, 360, 20_000), np.full(3, ra0), [(ra0 + 180) % 360]])
    offsets = np.array([0, radius_arcsec, radius_arcsec * (1 + 1e-9)]) / 3600
    dec_deg = np.concatenate([np.degrees(np.arcsin(random.uniform(-1, 1, 20_000))), dec0 - offsets, [-dec0]])
    dec_deg = np.clip(dec_deg, -90, 90)
    expected = separation_arcsec(ra0, dec0, ra_deg, dec_deg) <= radius_arcsec
    assert in_cone(ra_deg, dec_deg, ra0, dec0, radius_arcsec).tolist() == expected.tolist()
