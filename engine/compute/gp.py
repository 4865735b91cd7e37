"""A Gaussian process that learns what one person finds interesting (Walmsley et al. 2022, Section 5).

Rational quadratic kernel of amplitude 1 and white noise, zero mean; hyper-parameters of maximum marginal likelihood.
Few points are rated, many are scored: everything about scoring is a small matrix and blocks of rows against it.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from schemas.campaign import KernelKind

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Of torch, about what gpytorch does when it is loaded.
    import gpytorch

BOUNDS = (1e-5, 1e5)
"""Of every hyper-parameter; scikit-learn's."""
MATERN_NU = 2.5


class Kernel(NamedTuple):
    """Hyper-parameters."""

    kind: KernelKind = "rational-quadratic"
    length: float = 1.0
    """In units of the space."""
    alpha: float = 1.0
    """How many scales are mixed: the larger, the fewer. Of a rational quadratic only."""
    noise: float = 1.0
    """Variance of a rating about what it would be on average."""


class Posterior(NamedTuple):
    """A kernel that has seen ratings."""

    kernel: Kernel
    points: np.ndarray
    """(n, d) float64, of the rated objects."""
    factor: np.ndarray
    """(n, n) float64, lower Cholesky factor of the covariance of the ratings."""
    weights: np.ndarray
    """(n,) float64: the mean at a point is its covariances with `points` times these, added to that of `prior`."""
    prior: "Posterior | None" = None
    """Whose mean was expected before there were ratings; 0 when None."""


class Fitted(NamedTuple):
    """The hyper-parameters of a fit, and how likely they make the ratings."""

    kernel: Kernel
    log_likelihood: float


def fit(points: np.ndarray, ratings: np.ndarray, start: Kernel) -> Fitted:
    """Maximise the marginal likelihood of ratings by L-BFGS from a start, within `BOUNDS`.

    Parameters
    ----------
    points : (n, d) float64 array
    ratings : (n,) float64 array
    start : Kernel
        Of the kind to fit; the last fit's to go on from.
    """
    inputs, targets = torch.from_numpy(points), torch.from_numpy(ratings)
    model = _Model(inputs, targets, start.kind)
    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    logs = model.logs()

    def negative(values: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.no_grad():
            for log, value in zip(logs.values(), values, strict=True):
                log.fill_(value)
        value = -likelihood(model(inputs), targets) * len(targets)  # gpytorch gives the mean over ratings.
        gradients = torch.autograd.grad(value, list(logs.values()))
        return value.item(), np.array([gradient.item() for gradient in gradients])

    bounds = [tuple(np.log(BOUNDS))] * len(logs)
    with (
        gpytorch.settings.fast_computations(False, False, False),
        gpytorch.settings.debug(False),
        gpytorch.settings.lazily_evaluate_kernels(False),
    ):
        given = np.log([getattr(start, name) for name in logs])
        found = minimize(negative, given, jac=True, method="L-BFGS-B", bounds=bounds)
    values = dict(zip(logs, np.exp(found.x).tolist(), strict=True))
    return Fitted(start._replace(**values), -float(found.fun))


def condition(kernel: Kernel, points: np.ndarray, ratings: np.ndarray, prior: Posterior | None = None) -> Posterior:
    """Condition a kernel on ratings, (n,), of points, (n, d), both float64.

    Parameters
    ----------
    prior : Posterior or None
        What others found interesting: its mean is expected where nothing is rated.
    """
    covariance = covariances(kernel, points, points) + kernel.noise * np.eye(len(points))
    factor = cholesky(covariance, lower=True)
    return Posterior(kernel, points, factor, cho_solve((factor, True), ratings - mean_of(prior, points)), prior)


def mean_of(posterior: Posterior | None, points: np.ndarray) -> np.ndarray:
    """Mean of what a rating at points, (m, d) float64, would be; 0 where there is no posterior."""
    if posterior is None:
        return np.zeros(len(points))
    own = covariances(posterior.kernel, points, posterior.points) @ posterior.weights
    return own + mean_of(posterior.prior, points)


def mean_and_sd(posterior: Posterior, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of what a rating at points, (m, d) float64, would be: white noise included."""
    with_rated = covariances(posterior.kernel, points, posterior.points)
    explained = solve_triangular(posterior.factor, with_rated.T, lower=True)
    variance = 1 + posterior.kernel.noise - (explained**2).sum(axis=0)
    mean = with_rated @ posterior.weights + mean_of(posterior.prior, points)
    return mean, np.sqrt(np.maximum(variance, 0))


def left_out(posterior: Posterior, ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each rating, (n,), had it not been given (Rasmussen & Williams 2006, eq. 5.12)."""
    precision = 1 / np.diag(cho_solve((posterior.factor, True), np.eye(len(ratings))))
    return ratings - posterior.weights * precision, np.sqrt(precision)


def contributions(posterior: Posterior, points: np.ndarray) -> np.ndarray:
    """What each rated object adds to the mean at points, (m, d): (m, n), without the prior's mean."""
    return covariances(posterior.kernel, points, posterior.points) * posterior.weights


def covariances(kernel: Kernel, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Prior covariances of points, (n, d) and (m, d): (n, m), without the noise."""
    square = np.maximum((a**2).sum(1)[:, np.newaxis] + (b**2).sum(1) - 2 * a @ b.T, 0) / kernel.length**2
    if kernel.kind == "rational-quadratic":
        return np.exp(-kernel.alpha * np.log1p(square / (2 * kernel.alpha)))
    distance = np.sqrt(2 * MATERN_NU * square)
    return (1 + distance + distance**2 / 3) * np.exp(-distance)


class _Model(gpytorch.models.ExactGP):  # type: ignore[misc]
    """The same in gpytorch, for its likelihood and gradients; what it learns are logarithms."""

    def __init__(self, points: torch.Tensor, ratings: torch.Tensor, kind: KernelKind) -> None:
        def positive() -> gpytorch.constraints.Positive:
            return gpytorch.constraints.Positive(transform=torch.exp, inv_transform=torch.log)

        super().__init__(points, ratings, gpytorch.likelihoods.GaussianLikelihood(noise_constraint=positive()))
        self.mean = gpytorch.means.ZeroMean()
        if kind == "rational-quadratic":
            self.covariance = gpytorch.kernels.RQKernel(lengthscale_constraint=positive(), alpha_constraint=positive())
        else:
            self.covariance = gpytorch.kernels.MaternKernel(MATERN_NU, lengthscale_constraint=positive())
        self.double()
        self.train()

    def forward(self, points: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean(points), self.covariance(points))

    def logs(self) -> dict[str, torch.nn.Parameter]:
        """Logarithms of the hyper-parameters, by their names in `Kernel`."""
        found = {"noise": self.likelihood.noise_covar.raw_noise, "length": self.covariance.raw_lengthscale}
        if isinstance(self.covariance, gpytorch.kernels.RQKernel):
            found["alpha"] = self.covariance.raw_alpha
        return found
