import numpy as np
import pytest

from tests.benchmarks.agreement import agreement, chance, shuffled
from tests.benchmarks.table import Bar


def test_chance_leaves_the_object_itself_out():
    assert chance(np.array(["a", "a", "a", "b"])) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])


def test_agreement_is_the_share_of_neighbours_of_the_same_class():
    classes = np.array(["a", "a", "b"])
    assert agreement(np.array([[1, 2], [0, 2], [0, 1]]), classes) == pytest.approx([0.5, 0.5, 0])


def test_shuffled_classes_agree_about_as_often_as_chance():
    generator = np.random.default_rng(0)
    classes = generator.choice(["a", "b"], 400)
    rows = generator.integers(0, 400, (400, 10))
    assert shuffled(rows, classes, 0.5) == pytest.approx(chance(classes).mean(), abs=0.02)


def test_a_bar_that_was_measured_as_nan_is_missed():
    assert not Bar("", float("nan"), ">=", 0).passed
    assert not Bar("", float("nan"), "<=", 0).passed
