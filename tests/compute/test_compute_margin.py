"""Margins: whatever lies within the radius of an object of a partition is in it or in its margin, everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute import sky
from engine.compute.margin import in_margin, margin_order, margin_pixels, overlapping
from schemas.partition import Partition

RADII = (0.2, 10.0, 600.0, 3600.0)
MOST_FINER = 12
"""Orders from a partition to the pixels of its margin: these are as many as lie along its sides."""


@pytest.mark.parametrize("radius_arcsec", RADII)
@settings(deadline=None, max_examples=60)
@given(st.floats(0, 359.99), st.floats(-90, 90), st.integers(0, 16), st.integers(0, 2**32 - 1))
def test_what_is_near_an_object_of_a_partition_is_in_its_margin(
    radius_arcsec: float, ra_deg: float, dec_deg: float, order: int, seed: int
) -> None:
    at = margin_order(radius_arcsec)
    order = min(max(order, at - MOST_FINER), at + 2)
    partition = Partition(order, int(sky.healpix_29(np.array([ra_deg]), np.array([dec_deg]))[0]) >> 2 * (29 - order))
    # Pairs that straddle: one somewhere near the centre, the other just within the radius of it, in any direction.
    random = np.random.default_rng(seed)
    n = 500
    around = np.radians(random.uniform(0, radius_arcsec, n) / 3600)
    first = sky.unit_vectors(np.full(n, ra_deg), np.full(n, dec_deg))
    second = moved(first, around, random)
    ra, dec = np.degrees(np.arctan2(second[:, 1], second[:, 0])) % 360, np.degrees(np.arcsin(second[:, 2].clip(-1, 1)))
    near = sky.separation_arcsec(ra_deg, dec_deg, ra, dec) <= radius_arcsec
    healpix = sky.healpix_29(ra % 360, dec)
    outside = healpix >> 2 * (29 - order) != partition.pixel
    found = in_margin(healpix, partition, margin_pixels(partition, at), at)
    assert (found | ~near | ~outside).all()
    assert not (found & ~outside).any()


def moved(vectors: np.ndarray, angles_rad: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Directions at these angles from others, each some way round."""
    sideways = np.cross(vectors, random.normal(size=vectors.shape))
    sideways /= np.linalg.norm(sideways, axis=1, keepdims=True)
    return vectors * np.cos(angles_rad)[:, None] + sideways * np.sin(angles_rad)[:, None]


def test_a_margin_is_not_much_wider_than_it_has_to_be() -> None:
    for radius_arcsec in RADII:
        side_arcsec = 58.6 * 3600 / 2 ** margin_order(radius_arcsec)
        assert 2 * radius_arcsec <= side_arcsec <= 4 * radius_arcsec


def test_the_margin_of_a_base_pixel_is_its_ring_as_healpix_draws_it() -> None:
    # Górski et al. 2005, Figure 4: pixel 0 of order 0 touches 1, 3, 4, 5 by edges and 2, 8 by corners.
    assert margin_pixels(Partition(0, 0), 0).tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert len(margin_pixels(Partition(1, 7), 4)) == 4 * 2**3 + 4


def test_partitions_that_share_sky_with_pixels_are_found_however_deep_they_are() -> None:
    partitions = [Partition(0, 0), Partition(2, 17), Partition(2, 18), Partition(1, 5), Partition(0, 11)]
    assert overlapping(np.array([3]), 3, partitions) == [0]
    assert overlapping(np.array([4]), 1, partitions) == [1, 2]
    assert overlapping(np.array([3, 5 * 16]), 3, partitions) == [0, 3]
    assert overlapping(np.array([6]), 1, partitions) == []
