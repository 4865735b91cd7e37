"""The baseline of the anomaly search: the trained score by hand, and forests that find what was planted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.baseline import (
    baseline_ranking,
    isolation_scores,
    nearest_rated,
    standardised,
    trained_score,
)
from engine.compute.rank_metrics import average_precision

UNIT = st.floats(0, 5)


def planted(n: int = 800, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Features with outliers in each direction, of which only those in the third are interesting."""
    random = np.random.default_rng(0)
    features = random.normal(size=(n, d)) * np.arange(1, d + 1) + 3
    outliers = np.arange(160)
    features[outliers, outliers % d] += 5 * (outliers % d + 1)
    interesting = np.zeros(n, bool)
    interesting[outliers[outliers % d == 2]] = True
    return features, interesting


def test_the_trained_score_is_what_the_equation_gives_by_hand() -> None:
    # d = 1, 1: delta = e. u = 5: f = 0.95, arctanh f = ln(39) / 2 = 1.831781; tanh(3.550063) = 0.998351.
    # u = 0 counts as 0.1: f = 0.117, arctanh f = ln(1.117 / 0.883) / 2 = 0.117538; tanh(1.835820) = 0.950392.
    found = trained_score(np.array([4.0, 4.0]), np.array([5.0, 0.0]), np.array([1.0, 1.0]))
    assert found == pytest.approx([3.993405, 3.801569], abs=2e-6)


def test_a_rated_object_is_weighed_by_its_rating_and_a_far_one_only_by_isolation() -> None:
    distance = np.array([0.0] * 99 + [1.0])
    found = trained_score(np.full(100, 2.0), np.full(100, 2.5), distance)
    assert found[0] == pytest.approx(2 * (0.1 + 0.85 / 2))
    assert found[-1] == pytest.approx(2)


def test_where_everything_is_rated_there_is_no_mean_distance_and_ratings_alone_count() -> None:
    found = trained_score(np.array([1.0, 5.0]), np.array([9.0, -9.0]), np.zeros(2))
    assert found == pytest.approx([0.95, 5 * (0.1 + 0.85 * 0.1 / 5)])
    assert len(trained_score(np.empty(0), np.empty(0), np.empty(0))) == 0


@settings(max_examples=200, deadline=None)
@given(st.tuples(UNIT, UNIT), st.tuples(UNIT, UNIT), st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), UNIT)
def test_the_score_grows_with_isolation_expectation_and_distance_within_its_bounds(
    isolation: tuple[float, float], expected: tuple[float, float], distance: tuple[float, float], other: float
) -> None:
    def score(s: tuple[float, float], u: tuple[float, float], d: tuple[float, float]) -> np.ndarray:
        return trained_score(np.array(s), np.array(u), np.array(d))

    for low, high in (
        score(tuple(sorted(isolation)), (other, other), (distance[0],) * 2),
        score((other, other), tuple(sorted(expected)), (distance[0],) * 2),
        score((other, other), (expected[0],) * 2, tuple(sorted(distance))),
    ):
        assert low <= high + 1e-12
    found = score(isolation, expected, distance)
    floor = np.array(isolation) * (0.1 + 0.85 * np.clip(expected, 0.1, 5) / 5)
    assert (found >= floor - 1e-9).all()
    assert (found <= np.array(isolation) + 1e-12).all()


def test_isolation_is_stretched_to_ratings_and_largest_where_an_object_is_alone() -> None:
    features = np.random.default_rng(1).normal(size=(300, 4))
    features[17] = 9
    found = isolation_scores(features, seed=3)
    assert (found.min(), found.max(), found.argmax()) == (0, 5, 17)
    np.testing.assert_array_equal(isolation_scores(features, seed=3), found)


@pytest.mark.parametrize("n", [0, 1, 20])
def test_objects_that_are_all_alike_are_not_isolated(n: int) -> None:
    np.testing.assert_array_equal(isolation_scores(np.zeros((n, 3)), seed=0), np.zeros(n))


def test_ratings_of_the_most_isolated_teach_which_outliers_are_interesting() -> None:
    features, interesting = planted()
    isolation = isolation_scores(standardised(features), seed=0)
    rows = np.argsort(-isolation)[:80]
    assert 0 < interesting[rows].sum() < 20
    found = baseline_ranking(features, rows, 5.0 * interesting[rows], isolation, seed=0)
    assert np.isfinite(found).all()
    assert (found <= isolation + 1e-12).all()
    before, after = (average_precision(interesting[np.argsort(-score)]) for score in (isolation, found))
    assert before < 0.3
    assert after > 2 * before
    np.testing.assert_array_equal(baseline_ranking(features, rows, 5.0 * interesting[rows], isolation, 0), found)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    features, interesting = planted(200)
    isolation = isolation_scores(standardised(features), seed=0)
    rows, ratings = np.arange(0, 200, 5), 5.0 * interesting[::5]
    expected = baseline_ranking(features, rows, ratings, isolation, seed=0)
    scaled = baseline_ranking(features * 2.0 ** np.arange(8), rows, ratings, isolation, seed=0)
    np.testing.assert_allclose(scaled, expected, rtol=1e-9)


def test_without_ratings_the_ranking_is_that_of_isolation() -> None:
    isolation = np.array([3.0, 1.0])
    found = baseline_ranking(np.eye(2), np.empty(0, int), np.empty(0), isolation, seed=0)
    np.testing.assert_array_equal(found, isolation)
    assert found is not isolation


def test_the_nearest_rated_object_is_that_of_comparing_all() -> None:
    points = np.random.default_rng(2).normal(size=(120, 30))
    rows = np.array([4, 90, 33])
    expected = np.linalg.norm(points[:, np.newaxis] - points[rows], axis=2).min(axis=1)
    np.testing.assert_allclose(nearest_rated(points, rows), expected)


def test_features_are_standardised_and_a_constant_one_says_nothing() -> None:
    features = np.random.default_rng(3).normal(5, 2, (50, 3)).astype(np.float32)
    features[:, 1] = 0.1
    features.flags.writeable = False
    found = standardised(features)
    assert found[:, [0, 2]].mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert found[:, [0, 2]].std(axis=0) == pytest.approx(1)
    np.testing.assert_array_equal(found[:, 1], 0)
    np.testing.assert_allclose(standardised(found), found)
    assert standardised(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected finite features, found 1 that are not"):
        standardised(np.array([[1.0, value], [2.0, 3.0]]))
