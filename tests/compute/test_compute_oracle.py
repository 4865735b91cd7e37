"""Simulated campaigns: planted interesting objects are found, and judged as by hand."""

import numpy as np
import pytest

from engine.compute.oracle import (
    Trial,
    baseline_trial,
    found_by_ratings,
    gaussian_process_trial,
    metrics_of,
    random_trial,
)
from schemas.campaign import BatchKind


def planted(n: int = 2_000, n_interesting: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cloud of objects, the duller the further from a small cloud of interesting ones."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(n, 8)).astype(np.float32)
    interesting = np.arange(n) < n_interesting
    vectors[interesting] = random.normal(0, 0.3, (n_interesting, 8)) + np.full(8, 1.2)
    nearness = np.exp(-((vectors - 1.2) ** 2).sum(axis=1) / 16)
    answers = np.where(interesting, 5.0, np.clip(np.round(4 * nearness + random.normal(0, 0.4, n)), 0, 4))
    order = random.permutation(n)
    return vectors[order], answers[order], interesting[order]


@pytest.mark.parametrize("kind", ["top", "believer"])
def test_a_gaussian_process_finds_what_is_alike_and_never_asks_twice(kind: BatchKind) -> None:
    vectors, answers, interesting = planted()
    trial = gaussian_process_trial(vectors, answers, 100, 10, kind, 0.5, seed=1)
    assert len(trial.rated) == len(set(trial.rated)) == 100
    metrics = metrics_of(trial, answers, interesting)
    at_random = metrics_of(random_trial(vectors, answers, 100, seed=1), answers, interesting)
    assert metrics["found"] >= 20 > at_random["found"]
    assert metrics["published_average_precision"] > max(0.6, at_random["published_average_precision"])
    again = gaussian_process_trial(vectors, answers, 100, 10, kind, 0.5, seed=1)
    np.testing.assert_array_equal(trial.rated, again.rated)


def test_methods_begin_with_the_same_random_batch_and_the_baseline_with_the_most_isolated() -> None:
    vectors, answers, _ = planted()
    first = [gaussian_process_trial(vectors, answers, 20, 10, kind, 0.5, 4).rated[:10] for kind in ("top", "believer")]
    np.testing.assert_array_equal(*first)
    vectors[77] = 30
    assert baseline_trial(vectors, answers, 50, seed=0).rated[0] == 77


def test_more_ratings_than_objects_rate_every_object_once() -> None:
    vectors, answers, _ = planted(25, 3)
    for trial in (
        gaussian_process_trial(vectors, answers, 100, 10, "top", 0.5, 0),
        random_trial(vectors, answers, 100, 0),
        baseline_trial(vectors, answers, 100, 0),
    ):
        assert sorted(trial.rated) == list(range(25))


def test_a_trial_is_judged_as_published_and_by_what_was_never_shown() -> None:
    answers = np.array([5.0, 0, 5, 0, 5, 0])
    interesting = answers > 4
    trial = Trial(np.array([0, 1]), np.array([0.0, 9, 4, 3, 2, 1]))
    metrics = metrics_of(trial, answers, interesting)
    # As published: 0 is first for its rating, then 2, 3, 4, 5 as expected, and 1, which was rated 0, is last.
    assert metrics["published_average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert metrics["unrated_average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["found"] == 1
    assert metrics["published_accuracy_10"] == pytest.approx(0.3)
    assert metrics["unrated_recall_10"] == 1
    assert found_by_ratings(trial, interesting, [0, 1, 2, 10]) == [0, 1, 1, 1]
