"""The Gaussian process: scikit-learn's posterior and optimum, and the best of all without scoring all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import log, mp, ncdf, npdf
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, RationalQuadratic, WhiteKernel

from engine.compute.acquisition import Acquisition, expected_improvement, log_expected_improvement, value_of
from engine.compute.batches import choose_batch, spread
from engine.compute.gp import Kernel, condition, contributions, fit, left_out, mean_and_sd, mean_of
from engine.compute.learning import Learned, learn
from engine.compute.ranking import Best, Candidates, means_of, merge, score_all
from schemas.campaign import BatchKind, KernelKind

KINDS: list[KernelKind] = ["rational-quadratic", "matern"]


def rated(n: int = 60, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    points = random.normal(size=(n, d))
    ratings = np.clip(np.round(2.5 + 1.5 * points[:, 0] + random.normal(0, 0.4, n)), 0, 5)
    return points, ratings


def peer(kernel: Kernel) -> GaussianProcessRegressor:
    shape = (
        RationalQuadratic(kernel.length, kernel.alpha)
        if kernel.kind == "rational-quadratic"
        else Matern(kernel.length, nu=2.5)
    )
    return GaussianProcessRegressor(shape + WhiteKernel(kernel.noise), alpha=0, optimizer=None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_posterior_is_that_of_scikit_learn(kind: KernelKind) -> None:
    points, ratings = rated()
    kernel = Kernel(kind, 2.3, 0.7, 0.4)
    new = np.random.default_rng(1).normal(size=(40, 5))
    expected = peer(kernel).fit(points, ratings).predict(new, return_std=True)
    found = mean_and_sd(condition(kernel, points, ratings), new)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_finds_the_optimum_that_scikit_learn_finds(kind: KernelKind) -> None:
    points, ratings = rated()
    shape = RationalQuadratic() if kind == "rational-quadratic" else Matern(nu=2.5)
    expected = GaussianProcessRegressor(shape + WhiteKernel(), alpha=0).fit(points, ratings)
    found = fit(points, ratings, Kernel(kind))
    assert found.log_likelihood == pytest.approx(expected.log_marginal_likelihood_value_, abs=1e-4)
    own = peer(found.kernel).fit(points, ratings)
    assert own.log_marginal_likelihood_value_ == pytest.approx(found.log_likelihood, abs=1e-8)
    again = fit(points, ratings, found.kernel)
    assert again.log_likelihood >= found.log_likelihood - 1e-6


@pytest.mark.parametrize("ratings", [np.zeros(4), np.full(4, 5.0), np.array([0.0, 5, 0, 5])])
def test_ratings_that_say_little_are_fitted_all_the_same(ratings: np.ndarray) -> None:
    points = np.repeat(np.random.default_rng(2).normal(size=(2, 5)), 2, axis=0)
    found = fit(points, ratings, Kernel())
    mean, sd = mean_and_sd(condition(found.kernel, points, ratings), points)
    assert np.isfinite(mean).all()
    assert (sd > 0).all()


@given(mean=st.floats(-100, 100), sd=st.floats(1e-3, 10), best=st.floats(0, 5))
@settings(max_examples=200, deadline=None)
def test_a_log_expected_improvement_is_right_however_small_it_is(mean: float, sd: float, best: float) -> None:
    mp.dps = 60
    z = (mp.mpf(mean) - mp.mpf(best) - mp.mpf(0.5)) / mp.mpf(sd)
    expected = float(log(mp.mpf(sd)) + log(npdf(z)) + log(1 + z * ncdf(z) / npdf(z)))
    found = log_expected_improvement(np.array([mean]), np.array([sd]), best)[0]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_an_expected_improvement_is_that_of_many_draws() -> None:
    draws = np.random.default_rng(0).normal(1.2, 0.8, 2_000_000)
    expected = np.maximum(draws - 1.0 - 0.5, 0).mean()
    assert expected_improvement(np.array([1.2]), np.array([0.8]), 1.0)[0] == pytest.approx(expected, rel=5e-3)
    assert expected_improvement(np.array([3.0, 1.0]), np.zeros(2), 1.0).tolist() == pytest.approx([1.5, 0])


ACQUISITIONS = [
    Acquisition(),
    Acquisition("upper-confidence-bound"),
    Acquisition("thompson", seed=4),
    Acquisition("mean"),
]


def best_of(
    posterior,
    vectors: np.ndarray,
    k: int,
    acquisition: Acquisition,
    best_rating: float,
    excluded=None,
    threads: int = 1,
) -> Best:
    candidates = Candidates(posterior, vectors, acquisition, best_rating, excluded, threads)
    return candidates.best(posterior, acquisition, best_rating, k)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=lambda one: one.kind)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_best_are_those_of_scoring_everything(
    kind: KernelKind, acquisition: Acquisition, threads: int, pooled: bool
) -> None:
    points, ratings = rated()
    vectors = np.random.default_rng(3).normal(size=(30_000, 5)).astype(np.float32)
    vectors[100:110] = vectors[7]
    prior = condition(Kernel(kind, 3.0, noise=0.2), *rated(seed=8)) if pooled else None
    posterior = condition(fit(points, ratings, Kernel(kind)).kernel, points, ratings, prior)
    best, rows = ratings.max(), np.arange(len(vectors))
    mean, sd = mean_and_sd(posterior, vectors.astype(float))
    values = value_of(acquisition, best).value(mean, sd, rows).copy()
    excluded = np.array([np.argmax(values), 55])
    values[excluded] = -np.inf
    found = best_of(posterior, vectors, 25, acquisition, best, excluded, threads)
    np.testing.assert_array_equal(found.rows, np.lexsort((rows, -values))[:25])
    np.testing.assert_allclose(found.value, values[found.rows], rtol=1e-9)
    np.testing.assert_array_equal(found.vectors, vectors[found.rows])
    assert found.n_checked < len(vectors)
    np.testing.assert_allclose(means_of(posterior, vectors, threads).mean, mean, atol=1e-4)
    pieces = [
        Candidates(posterior, vectors[start : start + 9_999], acquisition, best, part, first_row=start)
        for start in range(0, 30_000, 9_999)
        for part in [excluded[(excluded >= start) & (excluded < start + 9_999)]]
    ]
    merged = merge([piece.best(posterior, acquisition, best, 25) for piece in pieces], 25)
    np.testing.assert_array_equal(merged.rows, found.rows)


@pytest.mark.parametrize("many", [0, 10**9], ids=["bounded anew", "bounds of before"])
@pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=lambda one: one.kind)
def test_the_best_are_right_for_a_best_rating_that_grows(
    acquisition: Acquisition, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.compute.ranking._MANY", many)
    points, ratings = rated()
    vectors = np.random.default_rng(3).normal(size=(30_000, 5)).astype(np.float32)
    vectors[20_000:] = vectors[:10_000]  # Equals are in order of their rows.
    posterior = condition(Kernel(length=2.0, noise=0.3), points, ratings)
    candidates = Candidates(posterior, vectors, acquisition, 1.0, np.array([3]), threads=2)
    mean, sd = mean_and_sd(posterior, vectors.astype(float))
    rows = np.arange(len(vectors))
    for best, k in ((1.0, 5), (1.5, 6), (1.5, 40), (5.0, 7), (9.0, 8)):
        values = value_of(acquisition, best).value(mean, sd, rows)
        values[3] = -np.inf
        found = candidates.best(posterior, acquisition, best, k)
        np.testing.assert_array_equal(found.rows, np.lexsort((rows, -values))[:k])


def test_all_are_found_where_fewer_are_there_than_asked_for() -> None:
    points, ratings = rated()
    posterior = condition(Kernel(), points, ratings)
    vectors = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32)
    found = best_of(posterior, vectors, 10, Acquisition(), 5.0, np.array([3]))
    assert sorted(found.rows) == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_scored_in_full_by_blocks_as_at_once(kind: KernelKind) -> None:
    points, ratings = rated(20)
    posterior = condition(Kernel(kind, 2.0), points, ratings)
    vectors = np.random.default_rng(3).normal(size=(9_000, 5)).astype(np.float32)
    vectors[5] = points[3]
    found = score_all(posterior, vectors, threads=2)
    mean, sd = mean_and_sd(posterior, vectors.astype(float))
    np.testing.assert_allclose((found.mean, found.sd), (mean, sd), rtol=1e-12)
    distances = np.linalg.norm(vectors[:, np.newaxis].astype(float) - points, axis=2)
    np.testing.assert_array_equal(found.nearest, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distances.min(axis=1))
    assert found.nearest[5] == 3


@pytest.mark.parametrize("pooled", [False, True])
def test_a_rating_that_is_left_out_is_expected_as_by_a_posterior_without_it(pooled: bool) -> None:
    points, ratings = rated(12)
    kernel = Kernel(length=2.0, noise=0.3)
    prior = condition(kernel, *rated(7, seed=4)) if pooled else None
    mean, sd = left_out(condition(kernel, points, ratings, prior), ratings)
    for row in range(12):
        others = np.arange(12) != row
        expected = mean_and_sd(condition(kernel, points[others], ratings[others], prior), points[[row]])
        assert (mean[row], sd[row]) == pytest.approx((expected[0][0], expected[1][0]), rel=1e-9)


def test_contributions_add_up_to_the_mean_and_are_largest_of_what_is_alike_and_liked() -> None:
    points = np.array([[0.0, 0], [10, 0], [0.5, 0]])
    posterior = condition(Kernel(noise=0.1), points, np.array([5.0, 5, 0]))
    new = np.array([[-0.5, 0.0]])
    found = contributions(posterior, new)
    assert found.sum() == pytest.approx(mean_of(posterior, new)[0])
    assert found[0].argmax() == 0


def test_with_a_prior_the_mean_far_from_all_ratings_is_that_of_the_others() -> None:
    kernel = Kernel(length=1.0, alpha=1e5, noise=0.1)
    others = condition(kernel, np.array([[20.0, 0]]), np.array([4.0]))
    own = condition(kernel, np.array([[0.0, 0]]), np.array([1.0]), others)
    assert mean_of(own, np.array([[20.0, 0]])) == pytest.approx(mean_of(others, np.array([[20.0, 0]])))
    assert mean_of(own, np.array([[0.0, 0]])) == pytest.approx(
        mean_of(others, np.array([[0.0, 0]])) + 1 / 1.1, abs=1e-6
    )


@pytest.mark.parametrize("ratings", [[3.0], [5.0, 5.0, 5.0], [0.0, 0.0]])
def test_ratings_that_do_not_differ_leave_the_hyper_parameters_as_they_were(ratings: list[float]) -> None:
    points, start = rated(len(ratings))[0], Kernel(length=3.0)
    learned = learn(points, np.array(ratings), start)
    assert learned.posterior.kernel == start
    assert learned.log_likelihood is None
    assert not learned.stale


def test_a_fit_in_forty_dimensions_does_not_end_where_nothing_is_learned() -> None:
    random = np.random.default_rng(5)
    points, liked = random.normal(size=(200, 40)), random.normal(size=40)
    ratings = np.clip(np.round(2 + 1.2 * points @ liked / np.linalg.norm(liked) + random.normal(0, 0.5, 200)), 0, 5)
    learned = learn(points, ratings, Kernel())
    assert learned.log_likelihood is not None
    assert learned.log_likelihood > fit(points, ratings, Kernel(length=1e5, alpha=1e-5)).log_likelihood + 30
    assert 3 < learned.posterior.kernel.length < 30


def test_objects_that_cannot_be_told_apart_are_all_scored() -> None:
    points, ratings = rated(20)
    posterior = condition(Kernel(length=1e5, alpha=1e-5, noise=1.0), points, ratings)
    vectors = np.random.default_rng(3).normal(size=(20_000, 5)).astype(np.float32)
    found = best_of(posterior, vectors, 10, Acquisition(), 5.0, threads=2)
    mean, sd = mean_and_sd(posterior, vectors.astype(float))
    values = log_expected_improvement(mean, sd, 5.0)
    np.testing.assert_allclose(found.value, np.sort(values)[::-1][:10], rtol=1e-12)


def test_a_start_in_a_bad_place_does_not_keep_a_fit_there() -> None:
    points, ratings = rated(80)
    good = learn(points, ratings, Kernel())
    stuck = learn(points, ratings, Kernel(length=1e5, alpha=1e5, noise=8.0))
    assert stuck.log_likelihood == pytest.approx(good.log_likelihood, abs=1e-3)


@pytest.mark.fault(36, "a fit that fails")
def test_a_fit_that_fails_leaves_the_last_hyper_parameters_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise np.linalg.LinAlgError

    monkeypatch.setattr("engine.compute.learning.fit", fail)
    learned = learn(*rated(10), Kernel(length=3.0))
    assert learned.stale
    assert learned.posterior.kernel.length == 3.0


def believed_one_by_one(kernel: Kernel, points: np.ndarray, ratings: np.ndarray, vectors: np.ndarray, n: int) -> list:
    """The plainest way: score everything in float64, take the best, believe it, and again."""
    chosen: list[int] = []
    for _ in range(n):
        mean, sd = mean_and_sd(condition(kernel, points, ratings), vectors.astype(float))
        values = log_expected_improvement(mean, sd, float(ratings.max()))
        values[chosen] = -np.inf
        row = int(np.argmax(values))
        chosen.append(row)
        points, ratings = np.vstack([points, vectors[row].astype(float)]), np.append(ratings, mean[row])
    return chosen


def batch(
    kernel: Kernel, points: np.ndarray, ratings: np.ndarray, vectors: np.ndarray, kind: BatchKind, excluded=None
) -> Best:
    learned = Learned(condition(kernel, points, ratings), ratings, None, stale=False)
    candidates = Candidates(learned.posterior, vectors, Acquisition(), learned.best, excluded, threads=2)
    return choose_batch(learned, candidates, 10, Acquisition(), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_believed_batch_is_that_of_doing_it_one_by_one(kind: KernelKind) -> None:
    points, ratings = rated(40)
    vectors = np.random.default_rng(5).normal(size=(8_000, 5)).astype(np.float32)
    kernel = fit(points, ratings, Kernel(kind)).kernel
    found = batch(kernel, points, ratings, vectors, "believer")
    assert found.rows.tolist() == believed_one_by_one(kernel, points, ratings, vectors, 10)


def test_a_believed_batch_is_more_diverse_than_the_best_at_once() -> None:
    points, ratings = rated(30)
    random = np.random.default_rng(6)
    vectors = (random.normal(size=(20, 5))[:, np.newaxis] + random.normal(0, 0.01, (20, 50, 5))).reshape(-1, 5)
    kernel, kinds = Kernel(length=2.0, noise=0.05), ("top", "believer")
    clouds = [len(set(batch(kernel, points, ratings, vectors.astype(np.float32), kind).rows // 50)) for kind in kinds]
    assert clouds[1] > clouds[0]


@pytest.mark.parametrize("kind", ["top", "believer"])
def test_a_batch_has_nobody_twice_and_only_who_is_allowed(kind: BatchKind) -> None:
    points, ratings = rated(10)
    vectors = np.random.default_rng(5).normal(size=(6, 5)).astype(np.float32)
    found = batch(Kernel(), points, ratings, vectors, kind, np.array([0, 1]))
    assert sorted(found.rows) == [2, 3, 4, 5]


def test_a_first_batch_is_spread_over_all_clouds() -> None:
    random = np.random.default_rng(2)
    centres = 100 * np.eye(8)
    vectors = (centres[:, np.newaxis] + random.normal(size=(8, 200, 8))).reshape(-1, 8).astype(np.float32)
    chosen = spread(vectors, 8, seed=1)
    assert sorted(chosen // 200) == list(range(8))
    assert spread(vectors, 8, seed=1).tolist() == chosen.tolist()
    assert sorted(spread(np.zeros((5, 3), np.float32), 10, seed=0)) == [0, 1, 2, 3, 4]
