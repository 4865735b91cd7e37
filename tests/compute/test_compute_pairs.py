"""Pairs on the sky, against astropy pair by pair; L1 distances, against searching."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st

from engine.compute import boxes
from engine.compute.pairs import l1_distances, pairs_on_sky


def crowded(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions around the north pole and across RA = 0."""
    random = np.random.default_rng(seed)
    ra_deg = np.concatenate([random.uniform(0, 360, n), random.normal(0, 0.02, n) % 360])
    return ra_deg, np.concatenate([90 - random.exponential(0.02, n), random.normal(5, 0.02, n)])


@given(st.integers(0, 50), st.floats(0, 400))
def test_pairs_are_those_of_astropy(seed: int, radius_arcsec: float) -> None:
    here, there = crowded(20, seed), crowded(25, seed + 1)
    rows, other_rows = pairs_on_sky(*here, *there, radius_arcsec)
    apart = SkyCoord(*here, unit="deg")[:, np.newaxis].separation(SkyCoord(*there, unit="deg")[np.newaxis]).arcsec
    assert list(zip(rows.tolist(), other_rows.tolist(), strict=True)) == [
        tuple(pair) for pair in np.argwhere(apart <= radius_arcsec).tolist()
    ]


def test_one_position_twice_is_a_pair_at_radius_0() -> None:
    ra_deg, dec_deg = np.array([0.0, 10.0]), np.array([90.0, -5.0])
    rows, other_rows = pairs_on_sky(ra_deg, dec_deg, ra_deg, dec_deg, 0.0)
    assert (rows.tolist(), other_rows.tolist()) == ([0, 1], [0, 1])


def test_nothing_gives_no_pairs() -> None:
    nothing, one = np.empty(0), np.zeros(1)
    for here, there in ((nothing, one), (one, nothing)):
        assert [len(part) for part in pairs_on_sky(here, here, there, there, 10.0)] == [0, 0]


@pytest.mark.parametrize("dimension", [1, 10])
def test_distances_have_the_bits_of_searches(dimension: int) -> None:
    vectors = np.random.default_rng(0).normal(0, 1, (300, dimension)).astype(np.float32)
    found = boxes.search(boxes.build(vectors), vectors[:50], 20)
    others = vectors[found.rows.ravel()]
    assert np.array_equal(l1_distances(np.repeat(vectors[:50], 20, axis=0), others), found.distances.ravel())
