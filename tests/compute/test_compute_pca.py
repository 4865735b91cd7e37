"""Principal components from mergeable moments: exact, whatever the pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import decomposition

from engine.compute.pca import (
    Counted,
    Moments,
    as_incremental_pca,
    merge,
    merge_counted,
    moments,
    project,
    solve,
    solve_sequentially,
)

quick = settings(deadline=None, max_examples=40)


def sample(n: int, d: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """Correlated rows with well separated variances, (n, d) float32."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(d, d)))[0]
    return (generator.normal(size=(n, d)) * np.linspace(4, 0.5, d) @ rotation + offset).astype(np.float32)


def assert_same_moments(found: Moments, expected: Moments) -> None:
    assert found.n == expected.n
    scale = np.abs(expected.scatter).max() if expected.n else 1.0
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=0, atol=1e-6 * scale)


def test_the_worked_example_of_smith_comes_out() -> None:
    # L. I. Smith 2002, "A tutorial on Principal Components Analysis", Section 3.1; signs by our convention.
    x = [2.5, 0.5, 2.2, 1.9, 3.1, 2.3, 2.0, 1.0, 1.5, 1.1]
    y = [2.4, 0.7, 2.9, 2.2, 3.0, 2.7, 1.6, 1.1, 1.6, 0.9]
    pca = solve(moments(np.column_stack([x, y]).astype(np.float32)), 2)
    np.testing.assert_allclose(pca.explained_variance, [1.28402771, 0.0490833989], rtol=1e-6)
    np.testing.assert_allclose(np.abs(pca.components[0]), [0.677873399, 0.735178656], rtol=1e-6)
    np.testing.assert_allclose(pca.mean, [1.81, 1.91], rtol=1e-6)
    # The tutorial's first transformed point is (-0.828, -0.175) with its eigenvectors' signs.
    np.testing.assert_allclose(
        np.abs(project(np.array([[2.5, 2.4]], np.float32), pca)[0]), [0.827970, 0.175115], rtol=1e-4
    )


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3])
def test_a_fit_equals_singular_values_and_sklearn_in_double_precision(offset: float) -> None:
    rows = sample(3000, 12, offset=offset)
    exact = rows.astype(np.float64)
    pca = solve(moments(rows), 5)
    _, singular, right = np.linalg.svd(exact - exact.mean(axis=0), full_matrices=False)
    reference = decomposition.PCA(5, svd_solver="full").fit(exact)
    np.testing.assert_allclose(pca.explained_variance, singular[:5] ** 2 / 2999, rtol=1e-6)
    np.testing.assert_allclose(pca.explained_variance, reference.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(pca.explained_variance_ratio, reference.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(np.abs((pca.components * right[:5]).sum(axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(5), atol=1e-12)
    signs = np.sign((pca.components * reference.components_).sum(axis=1))
    np.testing.assert_allclose(project(rows, pca), reference.transform(exact) * signs, atol=1e-4)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    # At 1e4, float32 keeps 1e-3 of these rows; a scatter from raw squares would lose everything below 10.
    rows = sample(5000, 6, offset=1e4)
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    expected = centred.T @ centred
    assert np.abs(moments(rows).scatter - expected).max() < 1e-6 * np.abs(expected).max()


@quick
@given(st.lists(st.integers(0, 400), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_pieces_and_their_order_do_not_change_the_moments(cuts: list[int], random) -> None:  # type: ignore[no-untyped-def]
    rows = sample(400, 5, offset=3.0)
    pieces = np.split(rows, sorted(cuts))
    random.shuffle(pieces)
    counted = [Counted(frozenset([str(number)]), moments(piece)) for number, piece in enumerate(pieces)]
    merged = merge_counted(counted)
    assert_same_moments(merged.moments, moments(rows))
    assert merged.names == {str(number) for number in range(len(pieces))}


def test_rows_beyond_one_block_have_the_moments_of_their_halves() -> None:
    rows = sample(6000, 4)
    exact = rows.astype(np.float64)
    expected = Moments(6000, exact.mean(axis=0), (exact - exact.mean(axis=0)).T @ (exact - exact.mean(axis=0)))
    assert_same_moments(moments(rows), expected)
    assert_same_moments(merge(moments(rows[:3001]), moments(rows[3001:])), expected)


def test_no_rows_are_the_neutral_element_of_merging() -> None:
    none, some = moments(np.empty((0, 3), np.float32)), moments(sample(10, 3))
    for merged in (merge(none, some), merge(some, none)):
        assert_same_moments(merged, some)
    assert merge(none, none).n == 0


def test_one_row_has_itself_as_its_mean_and_no_scatter() -> None:
    found = moments(np.array([[1.5, -2.0]], np.float32))
    assert (found.n, found.mean.tolist(), found.scatter.tolist()) == (1, [1.5, -2.0], [[0.0, 0.0], [0.0, 0.0]])


@quick
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_the_largest_entry_of_every_component_is_positive(seed: int, d: int) -> None:
    pca = solve(moments(sample(60, d, seed)), d)
    largest = np.abs(pca.components).argmax(axis=1)
    assert (pca.components[np.arange(d), largest] > 0).all()
    assert (np.diff(pca.explained_variance) <= 0).all()


def test_mirrored_rows_have_the_same_components() -> None:
    rows = sample(200, 4)
    np.testing.assert_allclose(solve(moments(-rows), 3).components, solve(moments(rows), 3).components, atol=1e-6)


@pytest.mark.parametrize(("n", "d", "k"), [(0, 4, 2), (1, 4, 1), (2, 4, 2), (9, 1, 2), (3, 3, 3)])
def test_too_few_rows_or_columns_are_refused_with_both_numbers(n: int, d: int, k: int) -> None:
    with pytest.raises(ValueError, match=rf"{k} components need more than {k} rows .*found {n} of {d}"):
        solve(moments(np.ones((n, d), np.float32)), k)


def test_rows_that_do_not_vary_have_components_without_variance() -> None:
    pca = solve(moments(np.full((10, 3), 7.0, np.float32)), 2)
    assert pca.explained_variance.tolist() == [0.0, 0.0]
    assert pca.explained_variance_ratio.tolist() == [0.0, 0.0]
    assert project(np.full((1, 3), 7.0, np.float32), pca).tolist() == [[0.0, 0.0]]


def test_nan_rows_are_refused_by_the_solver() -> None:
    with pytest.raises(ValueError, match="NaN"):
        solve(moments(np.full((10, 3), np.nan, np.float32)), 2)


def test_sklearn_takes_over_and_transforms_equally() -> None:
    rows = sample(300, 6)
    pca = solve(moments(rows), 3)
    model = as_incremental_pca(pca)
    np.testing.assert_allclose(model.transform(rows), project(rows, pca), atol=1e-5)
    np.testing.assert_allclose(model.inverse_transform(model.transform(rows)).mean(axis=0), pca.mean, atol=1e-5)
    reference = decomposition.PCA(3).fit(rows.astype(np.float64))
    assert model.noise_variance_ == pytest.approx(reference.noise_variance_, rel=1e-5)


def test_sklearn_fits_on_from_where_the_moments_ended() -> None:
    # With every component kept, IncrementalPCA is exact: going on equals one fit of everything.
    first, more = sample(300, 5), sample(200, 5, seed=1, offset=2.0)
    model = as_incremental_pca(solve(moments(first), 5)).partial_fit(more.astype(np.float64))
    whole = solve(moments(np.concatenate([first, more])), 5)
    assert model.n_samples_seen_ == 500
    np.testing.assert_allclose(model.mean_, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(model.var_ * 500 / 499, whole.column_variance, rtol=1e-6)
    np.testing.assert_allclose(model.explained_variance_, whole.explained_variance, rtol=1e-6)
    np.testing.assert_allclose(np.abs((model.components_ * whole.components).sum(axis=1)), 1, atol=1e-6)


def test_neither_moments_nor_projection_write_into_the_rows() -> None:
    rows = sample(50, 4)
    before = rows.copy()
    project(rows, solve(moments(rows), 2))
    np.testing.assert_array_equal(rows, before)


def test_a_partition_cannot_count_twice() -> None:
    once = Counted(frozenset(["3-7"]), moments(sample(5, 2)))
    with pytest.raises(ValueError, match="1 partitions would be counted twice, among them 3-7"):
        merge_counted([once, once])


def test_unit_variance_scales_every_component_and_sklearn_whitens_alike() -> None:
    rows = sample(500, 6)
    pca = solve(moments(rows), 4, unit_variance=True)
    projected = project(rows, pca)
    np.testing.assert_allclose(projected.var(axis=0, ddof=1), 1, rtol=1e-4)
    np.testing.assert_allclose(as_incremental_pca(pca).transform(rows), projected, atol=1e-5)


def test_a_component_that_does_not_vary_is_not_scaled() -> None:
    rows = np.concatenate([sample(50, 2), np.zeros((50, 1), np.float32)], axis=1)
    pca = solve(moments(rows), 3, unit_variance=True)
    assert np.isfinite(project(rows, pca)).all()


def test_the_reference_is_scikit_learns_own_algorithm_with_our_signs() -> None:
    rows = sample(600, 8)
    batches = np.split(rows, 3)
    model = decomposition.IncrementalPCA(n_components=4)
    for batch in batches:
        model.partial_fit(batch)
    pca = solve_sequentially(batches, 4)
    np.testing.assert_allclose(np.abs(pca.components), np.abs(model.components_), atol=1e-12)
    np.testing.assert_array_equal(pca.explained_variance, model.explained_variance_)
    largest = np.abs(pca.components).argmax(axis=1)
    assert (pca.components[np.arange(4), largest] > 0).all()
    np.testing.assert_allclose(pca.explained_variance_ratio, model.explained_variance_ratio_, rtol=1e-6)


@quick
@given(st.permutations(range(40)))
def test_the_order_of_rows_changes_no_sign(order: list[int]) -> None:
    rows = sample(40, 4)
    np.testing.assert_allclose(solve(moments(rows[order]), 3).components, solve(moments(rows), 3).components, atol=1e-4)
