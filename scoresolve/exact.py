r"""Laws whose scores are known exactly at every noise level: the oracles of tests and benchmarks, and a place to start.

If ``x_0`` has law N(mu, S) then ``x_t = alpha x_0 + sigma eps`` has law N(alpha mu, alpha^2 S + sigma^2 I), and
with S = U diag(v) U^T and y = U^T (x - alpha mu)

    E[x_0 | x_t = x] = mu + U diag(alpha v / (alpha^2 v + sigma^2)) y.

A mixture has the average of its components' expectations, weighted by their posterior probabilities
``w_k N(x; alpha mu_k, alpha^2 S_k + sigma^2 I)``. Its score is ``(alpha E[x_0 | x] - x) / sigma^2`` (Tweedie).

The probability flow of a Gaussian carries each eigen-direction by a ratio of standard deviations,

    x_s = alpha_s mu + U diag(sqrt((alpha_s^2 v + sigma_s^2) / (alpha_t^2 v + sigma_t^2))) U^T (x_t - alpha_t mu).

Everything is computed in float64, whatever the dtype of the states; a network in another dtype where it is asked for.
"""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
from torch import Tensor

from .errors import real_number, require
from .law import Law
from .operators import LinearOperator, check_measurement
from .posterior import measured
from .propagation import affine_map, push
from .sde import SDE, as_float64
from .shrinkage import shrunk_covariance

__all__ = ["Empirical", "Gaussian", "GaussianMixture", "Law", "affine_map", "push"]


class GaussianMixture(Law):
    """A mixture of Gaussians with full covariances.

    Args:
        weights: (k,), positive; normalised to sum to one.
        means: (k, ...), one mean a component, of the shape of a sample.
        covariances: (k, d, d) symmetric, or (k, d) variances, or (k,) for multiples of the identity; d is the number
            of elements of a sample. Positive semi-definite.

    Raises: ValueError for shapes that do not fit, weights that are not positive, covariances that are not symmetric
    or have a negative eigenvalue.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.GaussianMixture([0.7, 0.3], torch.tensor([[-1.0], [1.0]]), [0.01, 0.01])
    >>> model = law.model(ss.VPSDE())
    >>> round(model.data(torch.tensor([[0.0]]), 1.0).item(), 3)  # nothing but noise: the mean of the law
    -0.4
    """

    def __init__(self, weights: object, means: object, covariances: object) -> None:
        mean = as_float64("means", means)
        weight, covariance = as_float64("weights", weights).reshape(-1), as_float64("covariances", covariances)
        k = len(weight)
        require(mean.ndim >= 2 and mean.shape[0] == k, f"means of shape ({k}, ...), got {tuple(mean.shape)}")
        require(bool((weight > 0).all()), "positive weights")
        self.shape = mean.shape[1:]
        self.weights, self.means = weight / weight.sum(), mean.flatten(1)
        self.variances, self.bases = _spectrum(covariance, k, self.means.shape[1])

    @property
    def mean(self) -> Tensor:
        """Mean of the law, in the shape of a sample."""
        return (self.weights @ self.means).reshape(self.shape)

    @property
    def covariance(self) -> Tensor:
        """Covariance of the law, (d, d)."""
        within = torch.einsum("k,kij,kj,klj->il", self.weights, self.bases, self.variances, self.bases)
        centred = self.means - self.weights @ self.means
        return within + torch.einsum("k,ki,kj->ij", self.weights, centred, centred)

    def _spread(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eigen-coordinates (batch, k, d), their variances, and log posterior weights (batch, k), unnormalised."""
        y = torch.einsum("bki,kij->bkj", x[:, None] - alpha[:, None] * self.means, self.bases)
        total = alpha[:, None] ** 2 * self.variances + sigma[:, None] ** 2
        log_weight = self.weights.log() - 0.5 * (y**2 / total + total.log()).sum(-1)
        return y, total, log_weight

    def _has_density(self) -> bool:
        return bool((self.variances > 0).all())

    def _denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        y, total, log_weight = self._spread(x, alpha, sigma)
        gain = alpha[:, None] * self.variances / total
        each = self.means + torch.einsum("bkj,kij->bki", gain * y, self.bases)
        return torch.einsum("bk,bki->bi", log_weight.softmax(dim=1), each)

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, _, log_weight = self._spread(x, alpha, sigma)
        return log_weight.logsumexp(dim=1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64, device=self.means.device)
        scaled = self.variances[which].sqrt() * z
        for k, basis in enumerate(self.bases):  # not bases[which], which is a matrix for each sample
            scaled[which == k] = scaled[which == k] @ basis.T
        return self.means[which] + scaled

    def marginal(self, sde: SDE, t: float) -> Self:
        """The law of x_t: means alpha mu_k, covariances alpha^2 S_k + sigma^2 I."""
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        law = copy.copy(self)
        law.means, law.variances = alpha * self.means, alpha**2 * self.variances + sigma**2
        return law

    def posterior(self, operator: LinearOperator, measurement: Tensor, noise_std: float) -> GaussianMixture:
        """The law given one ``measurement = A x_0 + noise_std n`` (1, ...), again a mixture. Raises: ValueError.

        >>> import torch, scoresolve as ss
        >>> law = ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
        >>> law.posterior(ss.operators.matrix(torch.tensor([[1.0, 0.0]])), torch.tensor([[2.0]]), 0.0).mean
        tensor([2.0000, 1.6000], dtype=torch.float64)
        """
        check_measurement(operator, measurement)
        require(len(measurement) == 1, f"one measurement, (1, ...), got {len(measurement)}: take y[i : i + 1]")
        unit = torch.eye(self.means.shape[1], dtype=torch.float64, device="cpu")
        matrix = operator(unit.reshape(-1, *self.shape)).flatten(1).T
        y = as_float64("measurement", operator.reached(measurement)).flatten()  # what is not seen may be NaN
        roots = self.bases * self.variances.sqrt()[:, None]
        weights, means, covariances = measured(self.weights, self.means, roots, matrix, y, noise_std)
        return GaussianMixture(weights, means.reshape(-1, *self.shape), covariances)


class Gaussian(GaussianMixture):
    """One Gaussian.

    Args:
        mean: of the shape of a sample.
        covariance: (d, d) symmetric, or (d,) variances, or a number for a multiple of the identity.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
    >>> torch.allclose(law.covariance, torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64))
    True
    """

    def __init__(self, mean: object, covariance: object) -> None:
        super().__init__([1.0], as_float64("mean", mean)[None], as_float64("covariance", covariance)[None])

    @classmethod
    def fit(cls, data: Tensor, *, shrinkage: float | None = None) -> Self:
        """The Gaussian of a data set's mean and covariance: (1 - shrinkage) S + shrinkage (tr S / d) I.

        Args: data (n, ...), at least two samples; shrinkage in [0, 1], default that of Ledoit and Wolf, which fits
        fewer samples than dimensions as well. Cost: the eigenvectors of a (d, d) matrix. Raises: ValueError.

        >>> import torch, scoresolve as ss
        >>> ss.exact.Gaussian.fit(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).mean
        tensor([2., 2.], dtype=torch.float64)
        """
        points = as_float64("data", data)
        require(points.ndim >= 2 and len(points) > 1, f"data of shape (n, ...), n >= 2, got {tuple(points.shape)}")
        return cls(points.mean(dim=0), shrunk_covariance(points.flatten(1), shrinkage))

    def flow(self, sde: SDE, x: Tensor, t: float, s: float) -> Tensor:
        """The end at time s of the probability flow that is at x (batch, ...) at time t, in closed form."""
        law = self.to(x.device)
        basis, v, mean = law.bases[0], law.variances[0], law.means[0]
        stretch = ((sde.alpha(s) ** 2 * v + sde.sigma(s) ** 2) / (sde.alpha(t) ** 2 * v + sde.sigma(t) ** 2)).sqrt()
        y = (x.flatten(1).double() - sde.alpha(t) * mean) @ basis
        return (sde.alpha(s) * mean + (stretch * y) @ basis.T).reshape(x.shape).to(x.dtype)


class Empirical(Law):
    """The smoothed empirical law of a data set: an equal mixture of N(x_i, bandwidth^2 I).

    Args:
        data: (n, ...), one row a sample.
        bandwidth: standard deviation of the smoothing, at least 0.

    Cost of a denoiser's call: a product of (batch, d) with (d, n), twice.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.Empirical(torch.tensor([[0.0], [1.0]]), bandwidth=0.1)
    >>> law.sample(5).shape
    torch.Size([5, 1])
    """

    def __init__(self, data: Tensor, bandwidth: float) -> None:
        points = as_float64("data", data)
        require(points.ndim >= 2 and len(points) > 0, f"data of shape (n, ...), got {tuple(points.shape)}")
        self.shape, self.points = points.shape[1:], points.flatten(1)
        self.bandwidth = real_number("bandwidth", bandwidth)
        require(self.bandwidth >= 0, f"bandwidth >= 0, got {bandwidth}")

    def _has_density(self) -> bool:
        return self.bandwidth > 0

    def _log_weights(self, x: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
        """-|x - alpha x_i|^2 / (2 variance), (batch, n)."""
        return -0.5 * torch.cdist(x, alpha[:1] * self.points) ** 2 / variance

    def _denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = (alpha * self.bandwidth) ** 2 + sigma**2
        points = self.points
        # |x - alpha x_i|^2 without |x|^2, which all points share
        logits = (alpha * (x @ points.T) - 0.5 * alpha**2 * points.square().sum(1)) / variance
        nearest = logits.softmax(dim=1) @ points
        return nearest + alpha * self.bandwidth**2 / variance * (x - alpha * nearest)

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = (alpha * self.bandwidth) ** 2 + sigma**2
        d, n = self.points.shape[1], len(self.points)
        logits = self._log_weights(x, alpha, variance)
        return logits.logsumexp(dim=1) - math.log(n) - 0.5 * d * (2 * math.pi * variance[:, 0]).log()

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        which = torch.randint(len(self.points), (n,), generator=generator, device=self.points.device)
        z = torch.randn(n, self.points.shape[1], generator=generator, dtype=torch.float64, device=self.points.device)
        return self.points[which] + self.bandwidth * z

    def marginal(self, sde: SDE, t: float) -> Empirical:
        """The law of x_t: points alpha x_i, bandwidth sqrt(alpha^2 b^2 + sigma^2)."""
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        points = (alpha * self.points).reshape(-1, *self.shape)
        return Empirical(points, math.hypot(alpha * self.bandwidth, sigma))


def _spectrum(covariance: Tensor, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (k, d) and eigenvectors (k, d, d) of covariances given in one of three ways."""
    if covariance.shape in ((k,), (k, d)):
        variances = covariance.reshape(k, -1).expand(k, d).clone()
        bases = torch.eye(d, dtype=torch.float64, device="cpu").expand(k, d, d).clone()
    else:
        require(covariance.shape == (k, d, d), f"covariances of shape ({k}, {d}, {d}), got {tuple(covariance.shape)}")
        require(torch.allclose(covariance, covariance.mT, atol=1e-10), "symmetric covariances")
        variances, bases = torch.linalg.eigh(covariance)
    scale = float(variances.abs().max())
    require(
        bool((variances >= -1e-12 * scale).all()), f"covariances without negative eigenvalues, got {variances.min():g}"
    )
    return variances.clamp(min=0.0), bases
