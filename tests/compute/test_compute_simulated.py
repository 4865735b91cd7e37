"""Simulated galaxies: positions, truth, votes and images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.footprint import draw_positions, footprint
from engine.compute.morphology import KINDS, ODDITIES, answers, draw, resolution
from engine.compute.sky import is_position, separation_arcsec
from engine.compute.votes import draw_votes
from schemas.simulation import SHARES
from schemas.tree import load_tree

galaxy_image = pytest.importorskip("engine.compute.galaxy_image", reason="needs galsim", exc_type=ImportError)
TREE = load_tree("gz_decals")


def some(n: int, kind: str, seed: int = 0, odd_share: float = 0.0):  # type: ignore[no-untyped-def]
    return draw(n, {kind: 1.0}, odd_share, np.random.default_rng(seed))  # type: ignore[dict-item]


@pytest.mark.parametrize("centre_deg", [(0.0, 90.0), (359.9, 0.0), (180.0, -90.0)])
@pytest.mark.parametrize("n", [1, 500, 10_000_000])
def test_positions_are_valid_and_within_the_field_of_as_many_galaxies(n: int, centre_deg: tuple[float, float]) -> None:
    drawn = min(n, 2000)
    sky = footprint(n, centre_deg, np.random.default_rng(0))
    ra_deg, dec_deg = draw_positions(drawn, sky, np.random.default_rng(1))
    assert is_position(ra_deg, dec_deg).all()
    radius_deg = np.degrees(np.arccos(1 - sky.depth)) + 1.5
    assert (separation_arcsec(*centre_deg, ra_deg, dec_deg) / 3600 <= radius_deg).all()


def test_galaxies_cluster() -> None:
    sky = footprint(20_000, (180.0, 30.0), np.random.default_rng(0))
    ra_deg, dec_deg = draw_positions(20_000, sky, np.random.default_rng(1))
    near = np.array([(separation_arcsec(ra_deg[i], dec_deg[i], ra_deg, dec_deg) < 360).sum() - 1 for i in range(200)])
    evenly = 200 * np.pi * 0.1**2
    assert near.mean() > 1.5 * evenly


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_answers_to_each_question_add_up_to_one(seed: int) -> None:
    expected = answers(draw(50, SHARES, 0.1, np.random.default_rng(seed)))
    assert set(expected) == set(TREE.columns)
    for question in TREE.questions:
        np.testing.assert_allclose(sum(expected[column] for column in question.columns), 1.0)
        assert min(expected[column].min() for column in question.columns) > 0


def test_volunteers_see_what_is_there() -> None:
    large = 12.0
    for kind, column, least in (
        ("star", "smooth-or-featured_artifact", 0.7),
        ("artifact", "smooth-or-featured_artifact", 0.7),
        ("edge-on", "disk-edge-on_yes", 0.8),
        ("smooth", "smooth-or-featured_smooth", 0.7),
        ("merger", "merging_none", 0.0),
    ):
        truth = some(200, kind)
        seen = answers(type(truth)(**{**vars(truth), "radius_arcsec": np.full(200, large)}))[column]
        assert seen.mean() >= least
    merging = answers(some(200, "merger"))
    assert merging["merging_none"].mean() < 0.1


def test_small_galaxies_hide_their_features() -> None:
    truth = some(500, "disc")
    assert np.all(np.diff(resolution(truth)[np.argsort(truth.radius_arcsec)]) >= 0)
    shown = {}
    for radius in (2.0, 15.0):
        resized = type(truth)(**{**vars(truth), "radius_arcsec": np.full(500, radius)})
        shown[radius] = answers(resized)["smooth-or-featured_featured-or-disk"].mean()
    assert shown[2.0] < shown[15.0]


def test_kinds_are_as_common_as_asked_and_oddities_spare_stars() -> None:
    truth = draw(20_000, {"smooth": 3.0, "star": 1.0}, 0.5, np.random.default_rng(0))
    share = np.bincount(truth.kind, minlength=len(KINDS)) / 20_000
    assert share[KINDS.index("smooth")] == pytest.approx(0.75, abs=0.02)
    assert share[KINDS.index("star")] == pytest.approx(0.25, abs=0.02)
    assert (truth.oddity[truth.kind == KINDS.index("star")] == 0).all()
    assert set(truth.oddity) == set(range(len(ODDITIES)))


def test_a_question_is_asked_of_those_who_were_led_to_it() -> None:
    truth = draw(300, SHARES, 0.0, np.random.default_rng(0))
    votes = draw_votes(answers(truth), TREE, 40, 20, np.random.default_rng(1))
    count = dict(zip(TREE.columns, votes.T, strict=True))
    for question in TREE.questions:
        asked = sum(count[column] for column in question.columns)
        if question.after:
            assert np.array_equal(asked, sum(count[answer] for answer in question.after))
        else:
            assert asked.min() >= 1
            assert asked.mean() == pytest.approx(40, abs=2)


def test_votes_scatter_around_the_truth_as_agreement_says() -> None:
    n, agreement, asked = 4000, 10.0, 50.0
    truth = {
        column: np.full(n, 1 / len(question.answers)) for question in TREE.questions for column in question.columns
    }
    votes = draw_votes(truth, TREE, asked, agreement, np.random.default_rng(0))[:, :3]
    fractions = votes / votes.sum(axis=1, keepdims=True)
    p = 1 / 3
    expected = p * (1 - p) * (asked + agreement) / (asked * (1 + agreement))
    np.testing.assert_allclose(fractions.mean(axis=0), p, atol=0.01)
    np.testing.assert_allclose(fractions.var(axis=0), expected, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_with_light_in_the_middle_and_the_same_each_time(kind: str) -> None:
    truth = some(3, kind, seed=3)
    for number in range(3):
        fluxes = galaxy_image.draw_fluxes(truth, number, 48)
        assert fluxes.shape == (3, 48, 48)
        assert fluxes.dtype == np.float32
        assert np.isfinite(fluxes).all()
        np.testing.assert_array_equal(fluxes, galaxy_image.draw_fluxes(truth, number, 48))
        if kind != "artifact":
            assert fluxes[:, 20:28, 20:28].mean() > 3 * abs(np.median(fluxes))


def test_every_oddity_changes_the_picture() -> None:
    truth = some(1, "smooth", seed=1)
    plain = galaxy_image.draw_fluxes(truth, 0, 64)
    for number in range(1, len(ODDITIES)):
        odd = type(truth)(**{**vars(truth), "oddity": np.array([number])})
        assert np.abs(galaxy_image.draw_fluxes(odd, 0, 64) - plain).max() > 5


def test_a_ring_is_bright_away_from_the_centre() -> None:
    truth = some(1, "ring", seed=2)
    changed = {"ring_strength": np.array([0.9]), "bulge_fraction": np.zeros(1), "axis_ratio": np.ones(1)}
    changed |= {"n_arms": np.zeros(1, int), "bar_strength": np.zeros(1), "radius_arcsec": np.array([12.0])}
    fluxes = galaxy_image.draw_fluxes(type(truth)(**{**vars(truth), **changed}), 0, 128).mean(axis=0)
    y, x = np.indices((128, 128)) - 63.5
    radius = np.hypot(x, y)
    profile = [fluxes[(radius >= r) & (radius < r + 2)].mean() for r in range(0, 40, 2)]
    assert max(profile[6:]) > 1.2 * min(profile[3:8])
