import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.splits import balanced, groups_of, split

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def test_linked_objects_share_a_group_through_others_too() -> None:
    pairs = np.array([[1, 4], [4, 2], [5, 0]])
    assert groups_of(7, pairs).tolist() == [0, 1, 1, 3, 1, 0, 6]
    assert groups_of(3, np.empty((0, 2), int)).tolist() == [0, 1, 2]
    assert groups_of(0, np.empty((0, 2), int)).tolist() == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 200))
def test_near_duplicates_never_part(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    pairs = random.integers(n, size=(n // 2, 2))
    parts = split([f"g{row}" for row in range(n)], groups_of(n, pairs), SHARES, seed)
    assert all(parts[a] == parts[b] for a, b in pairs)


def test_an_object_keeps_its_part_when_others_come() -> None:
    few = split(list(range(50)), np.arange(50), SHARES, 3)
    many = split(list(range(5000)), np.arange(5000), SHARES, 3)
    assert np.array_equal(few, many[:50])
    shares = {name: (many == name).mean() for name in SHARES}
    assert shares == pytest.approx(SHARES, abs=0.03)


def test_another_seed_makes_another_split() -> None:
    first, second = (split(list(range(500)), np.arange(500), SHARES, seed) for seed in (1, 2))
    assert 0.3 < (first == second).mean() < 0.8


@pytest.mark.parametrize("shares", [{"train": 0.5}, {"train": 1.5, "test": -0.5}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected shares that add up to 1"):
        split([1], np.zeros(1, int), shares, 0)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_classes_are_balanced_and_nobody_is_left_out(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = balanced(labels, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [max(counts)] * len(counts)
    repeats = np.bincount(rows, minlength=len(labels))
    assert repeats.min() >= 1
    for value in range(len(counts)):
        assert np.ptp(repeats[labels == value]) <= 1
