"""Layouts: what is near stays near, on the map as in the space; copies and held-out vectors find their place."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.manifold import trustworthiness

from engine.compute import layout as layouts
from engine.compute.layout import Layout, fit, geometric_median, nearest, place
from schemas.errors import ConfigError
from tests.generated import clustered


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(900, 15, 4)


@pytest.fixture(scope="module")
def fitted(vectors: np.ndarray) -> Layout:
    return fit(vectors[:600], 15, 0.1, seed=3)


def test_what_is_near_in_the_space_is_near_on_the_map(fitted: Layout) -> None:
    assert fitted.positions.shape == (600, 2)
    assert fitted.positions.dtype == np.float32
    assert trustworthiness(fitted.vectors, fitted.positions, n_neighbors=15) > 0.95


def test_held_out_vectors_are_placed_near_what_they_are_near_to_and_never_between_clouds(
    vectors: np.ndarray, fitted: Layout
) -> None:
    held_out = vectors[600:]
    placed = place(held_out, fitted, 10)
    assert trustworthiness(held_out, placed, n_neighbors=15) > 0.95
    mean = fitted.positions[nearest(fitted.vectors, held_out, 10)[0]].mean(axis=1)
    assert far(placed, fitted) < far(mean, fitted) / 3


def far(placed: np.ndarray, layout: Layout) -> float:
    """How far the worst hundredth lies from anything that was fitted."""
    return float(np.quantile(nearest(layout.positions, placed, 1)[1], 0.99))


def test_the_same_seed_gives_the_same_map_and_another_seed_another(vectors: np.ndarray, fitted: Layout) -> None:
    again = fit(vectors[:600], 15, 0.1, seed=3)
    assert again.positions.tobytes() == fitted.positions.tobytes()
    assert fit(vectors[:600], 15, 0.1, seed=4).positions.tobytes() != fitted.positions.tobytes()


def test_fitted_vectors_and_their_copies_get_their_own_position(vectors: np.ndarray, fitted: Layout) -> None:
    placed = place(np.concatenate([fitted.vectors, fitted.vectors[:50]]), fitted, 10)
    assert np.array_equal(placed[:600], fitted.positions)
    assert np.array_equal(placed[600:], fitted.positions[:50])


def test_a_position_does_not_depend_on_what_else_is_placed(vectors: np.ndarray, fitted: Layout) -> None:
    together = place(vectors[600:], fitted, 10)
    alone = np.concatenate([place(vectors[[row]], fitted, 10) for row in range(600, 620)])
    assert np.allclose(together[:20], alone, atol=1e-4)
    assert place(vectors[:0], fitted, 10).shape == (0, 2)


def test_everything_lies_between_fitted_positions(vectors: np.ndarray, fitted: Layout) -> None:
    placed = place(10 * vectors[600:], fitted, 10)
    assert (placed >= fitted.positions.min(axis=0)).all()
    assert (placed <= fitted.positions.max(axis=0)).all()


def test_copies_count_once(vectors: np.ndarray) -> None:
    few = vectors[:40]
    made = fit(np.concatenate([few, few[[0] * 200]]), 10, 0.1, seed=0)
    assert made.positions.tobytes() == fit(few, 10, 0.1, seed=0).positions.tobytes()


def test_vectors_that_make_no_map_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="more than 15 objects that differ, found 15"):
        fit(vectors[:15], 15, 0.1, seed=0)
    with pytest.raises(ValueError, match="found 1"):
        fit(np.repeat(vectors[:1], 100, axis=0), 15, 0.1, seed=0)
    for value in (np.nan, np.inf):
        broken = vectors[:50].copy()
        broken[[7, 9], 2] = value
        with pytest.raises(ValueError, match="found 2 that are not, the first in row 7"):
            fit(broken, 15, 0.1, seed=0)


def test_what_is_not_installed_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"umap, and it is not installed: pip install 'voorwerp\[map\]'"):
        fit(np.zeros((5, 2), np.float32), 2, 0.1, seed=0)
    with pytest.raises(ConfigError, match="cuml"):
        fit(np.zeros((5, 2), np.float32), 2, 0.1, seed=0, device="cuda")


@pytest.mark.skipif(importlib.util.find_spec("cuml") is None, reason="needs a GPU")
def test_cuml_makes_a_map_as_trustworthy(vectors: np.ndarray) -> None:
    made = fit(vectors[:600], 15, 0.1, seed=3, device="cuda")
    assert trustworthiness(made.vectors, made.positions, n_neighbors=15) > 0.9


def test_the_nearest_are_those_of_comparing_everything() -> None:
    random = np.random.default_rng(0)
    vectors, queries = (random.normal(0, 1, (n, 4)).astype(np.float32) for n in (200, 30))
    rows, distances = nearest(vectors, queries, 7)
    expected = np.linalg.norm(vectors[None].astype(float) - queries[:, None], axis=2)
    assert np.allclose(distances, np.sort(expected, axis=1)[:, :7])
    assert np.array_equal(rows, np.argsort(expected, axis=1)[:, :7])


def test_small_distances_between_large_vectors_are_exact() -> None:
    vectors = np.full((3, 4), 1000, np.float32)
    vectors[1, 0] += 2**-10
    vectors[2, 0] += 2**-8
    rows, distances = nearest(vectors, vectors[:1], 3)
    assert (rows.tolist(), distances.tolist()) == ([[0, 1, 2]], [[0, 2**-10, 2**-8]])


@pytest.mark.parametrize(
    ("points", "weights", "expected"),
    [
        ([[0, 0], [1, 0], [10, 0]], [1, 1, 1], [1, 0]),  # On a line it is the middle one.
        (
            [[0, 0], [4, 0], [2, 2 * np.sqrt(3)]],
            [1, 1, 1],
            [2, 2 / np.sqrt(3)],
        ),  # Of an equilateral triangle its centre.
        ([[0, 0], [10, 0], [0, 10]], [5, 1, 1], [0, 0]),  # A weight above the sum of the others decides.
        ([[3, 4], [9, 9]], [1, 0], [3, 4]),
    ],
)
def test_geometric_medians_that_are_known(points: list, weights: list, expected: list) -> None:
    found = geometric_median(np.array([points], float), np.array([weights], float), 1e-9)
    assert np.allclose(found, [expected], atol=0.02)


@settings(deadline=None)
@given(hnp.arrays(float, (6, 5, 2), elements=st.floats(-100, 100)))
def test_no_mean_is_nearer_to_all_points_together_than_the_median(points: np.ndarray) -> None:
    median = geometric_median(points, np.ones((6, 5)), 1e-7)

    def together(place: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points - place[:, None], axis=2).sum(axis=1)

    assert (together(median) <= together(points.mean(axis=1)) * (1 + 1e-9) + 1e-6).all()
