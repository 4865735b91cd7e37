"""Brute force: the bits of the boxes, wherever PyTorch runs."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute import boxes, brute_force
from engine.compute.boxes import BLOCK_ROWS, Found, Sky
from engine.compute.sky import unit_vectors
from tests.devices import DEVICES


def integers(seed: int, n: int, d: int, levels: int) -> np.ndarray:
    """Vectors of few values: most distances are shared, and sevenths do not add up exactly."""
    return (np.random.default_rng(seed).integers(levels, size=(n, d)) / np.float32(7)).astype(np.float32)


def assert_same_answers(found: Found, expected: Found) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.distances.view(np.int32), expected.distances.view(np.int32))


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(0, 2 * BLOCK_ROWS + 1),
    d=st.integers(1, 12),
    k=st.integers(1, 300),
    levels=st.sampled_from([1, 2, 10_000]),
)
def test_answers_have_the_bits_of_the_boxes_whatever_is_left_out(
    device: str, seed: int, n: int, d: int, k: int, levels: int
) -> None:
    random = np.random.default_rng(seed)
    made, queries = boxes.build(integers(seed, n, d, levels)), integers(seed + 1, 4, d, levels)
    left_out, allowed = random.integers(-1, max(n, 1), 4), random.random(n) < 0.8
    places = unit_vectors(random.uniform(0, 2, n + 4), random.uniform(-1, 1, n + 4))
    sky = Sky(places[:n], places[n:], np.radians(0.5))
    for conditions in ({}, {"left_out": left_out}, {"allowed": allowed}, {"sky": sky}):
        found = brute_force.search(made, queries, k, **conditions, device=device)
        assert_same_answers(found, boxes.search(made, queries, k, **conditions))
    found = brute_force.search(made, queries, k, left_out, allowed, sky, device)
    assert_same_answers(found, boxes.search(made, queries, k, None, left_out, allowed, sky))
    assert (found.unseen == np.inf).all()
    assert (found.n_compared == n).all()


@pytest.mark.parametrize("device", DEVICES)
def test_queries_that_do_not_fit_into_memory_at_once_are_answered_alike(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, queries = boxes.build(integers(0, 300, 3, 5)), integers(1, 50, 3, 5)
    whole = brute_force.search(made, queries, 9, device=device)
    monkeypatch.setattr(brute_force, "_BLOCK_BYTES", 4 * 3 * BLOCK_ROWS * 7)
    assert_same_answers(brute_force.search(made, queries, 9, device=device), whole)


def test_queries_of_double_precision_are_answered_as_those_of_single_precision() -> None:
    made, queries = boxes.build(integers(0, 300, 5, 1000)), np.random.default_rng(1).uniform(0, 100, (20, 5))
    assert_same_answers(brute_force.search(made, queries, 9), boxes.search(made, queries, 9))


def test_arrays_that_cannot_be_written_to_are_searched_without_a_warning() -> None:
    made = boxes.build(integers(0, 300, 3, 5))
    for part in made:
        part.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        brute_force.search(made, integers(1, 2, 3, 5), 4)


def test_queries_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="expected queries of 3 components, found 2"):
        brute_force.search(boxes.build(np.ones((5, 3), np.float32)), np.ones((1, 2), np.float32), 1)
