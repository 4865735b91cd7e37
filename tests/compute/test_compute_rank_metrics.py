"""Rankings measured: the published golden values, and scikit-learn's average precision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from engine.compute.rank_metrics import (
    accuracy_at,
    average_precision,
    rank_weighted_score,
    ratings_of_fractions,
    recall_at,
)


def test_rank_weighted_scores_are_the_published_ones() -> None:
    assert rank_weighted_score(np.array([1, 0, 1, 1, 0], bool), 5) == pytest.approx(10 / 15)
    first = np.arange(1000) < 100
    assert rank_weighted_score(first, 50) == rank_weighted_score(first, 100) == 1
    assert rank_weighted_score(first, 200) == pytest.approx(0.7488, abs=5e-5)
    assert rank_weighted_score(np.array([True]), 2) == pytest.approx(2 / 3)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 80))
def test_metrics_agree_with_their_definitions(ranked: list[bool], n: int) -> None:
    interesting = np.array(ranked)
    score = sum((n - i) * ranked[i] for i in range(min(n, len(ranked)))) / (n * (n + 1) / 2)
    assert rank_weighted_score(interesting, n) == pytest.approx(score)
    assert accuracy_at(interesting, n) == sum(ranked[:n]) / n
    if any(ranked):
        assert recall_at(interesting, n) == sum(ranked[:n]) / sum(ranked)
        expected = average_precision_score(interesting, -np.arange(len(ranked)))
        assert average_precision(interesting) == pytest.approx(expected)
    else:
        assert np.isnan(recall_at(interesting, n))
        assert np.isnan(average_precision(interesting))


def test_a_simulated_person_rounds_halves_to_the_even_number() -> None:
    assert ratings_of_fractions(np.array([0, 0.1, 0.3, 0.5, 0.7, 0.95, 1])).tolist() == [0, 0, 2, 2, 4, 5, 5]
