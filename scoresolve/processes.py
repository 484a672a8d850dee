"""The forward processes of the field, each stated by its path and inverse clock (see ``sde.py``)."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from .errors import real_number, require
from .rounding import sigmoid, softplus
from .sde import SDE, VariancePreservingPrior


class VESDE(SDE):
    """Variance exploding: ``alpha = 1``, ``sigma = sigma_min (sigma_max / sigma_min)^t``, t in [0, 1].

    ``g = sigma sqrt(2 log(sigma_max / sigma_min))``. The marginal is ``N(x_0, sigma(t)^2)`` as in the networks'
    training: at t = 0 it already has variance sigma_min^2, where the SDE started from clean data would have none.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 30-31.
    """

    t_min = 1e-5
    t_eps = 1e-5

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        low, high = real_number("sigma_min", sigma_min), real_number("sigma_max", sigma_max)
        require(0 < low < high < math.inf, f"0 < sigma_min < sigma_max, finite, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = low, high
        self._log_ratio = math.log(sigma_max / sigma_min)

    def _alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self._log_ratio * t).exp()

    def _time(self, lam: Tensor) -> Tensor:
        return (-lam - math.log(self.sigma_min)) / self._log_ratio

    def __repr__(self) -> str:
        return f"VESDE(sigma_min={self.sigma_min}, sigma_max={self.sigma_max})"


class EDM(SDE):
    """Karras et al.: ``alpha = 1``, ``sigma = t``; here t *is* the noise level, in [sigma_min, sigma_max] or 0.

    Sampling ends at noise zero (t_min = 0), the last positive level being sigma_min.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    t_min = 0.0

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        low, high = real_number("sigma_min", sigma_min), real_number("sigma_max", sigma_max)
        require(0 < low < high < math.inf, f"0 < sigma_min < sigma_max, finite, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = low, high
        self.t_eps, self.t_max = self.sigma_min, self.sigma_max

    def _alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return t

    def _time(self, lam: Tensor) -> Tensor:
        return (-lam).exp()

    def __repr__(self) -> str:
        return f"EDM(sigma_min={self.sigma_min}, sigma_max={self.sigma_max})"


class RectifiedFlow(SDE):
    """Straight lines: ``alpha = 1 - t``, ``sigma = t``, t in [0, 1], ``velocity = eps - x_0``.

    Noise is at t = 1 (texts with noise at 0 have t' = 1 - t and the opposite velocity). ``lam = log((1-t)/t)`` is
    infinite at both ends; drift and diffusion diverge at t = 1, the velocity does not.

    Source: Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747.
    """

    t_min = 0.0

    def _alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def _sigma(self, t: Tensor) -> Tensor:
        return t

    def _time(self, lam: Tensor) -> Tensor:
        return sigmoid(-lam)

    def __repr__(self) -> str:
        return "RectifiedFlow()"


class IntegratedBeta(VariancePreservingPrior):
    """``alpha = exp(-B / 2)`` with ``B(t) = int_0^t beta``: the family of VP and sub-VP."""

    @abstractmethod
    def _integral(self, t: Tensor) -> Tensor:
        """B(t)."""

    @abstractmethod
    def _inverse_integral(self, integral: Tensor) -> Tensor:
        """The time at which B has the given value."""

    def _alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * self._integral(t)).exp()

    def _variance(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))  # 1 - exp(-B) without its cancellation at small t

    def _sigma(self, t: Tensor) -> Tensor:
        return self._variance(t).sqrt()

    def _time(self, lam: Tensor) -> Tensor:
        # alpha^2 = 1 / (1 + exp(-2 lam)), so B = log(1 + exp(-2 lam))
        return self._inverse_integral(softplus(-2 * lam))


class VPSDE(IntegratedBeta):
    """Variance preserving, linear beta: ``B(t) = beta_min t + (beta_max - beta_min) t^2 / 2``, t in [0, 1].

    ``alpha = exp(-B/2)``, ``sigma^2 = 1 - exp(-B)``, ``g^2 = beta(t)``.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 32-33.

    >>> import scoresolve as ss
    >>> sde = ss.VPSDE()
    >>> round(sde.diffusion(0.5) ** 2, 12)  # beta(1/2)
    10.05
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        low, high = real_number("beta_min", beta_min), real_number("beta_max", beta_max)
        require(0 < low <= high < math.inf, f"0 < beta_min <= beta_max, finite, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = low, high

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _inverse_integral(self, integral: Tensor) -> Tensor:
        # the root of the quadratic without its cancellation
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(beta_min={self.beta_min}, beta_max={self.beta_max})"


class SubVPSDE(VPSDE):
    """Sub-VP: ``alpha = exp(-B/2)`` as in VP, ``sigma = 1 - exp(-B)`` (no square root), t in [0, 1].

    ``g^2 = beta (1 - exp(-2B))``, and ``rho = 2 sinh(B/2)``.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 34-35.
    """

    def _sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def _variance(self, t: Tensor) -> Tensor:
        return self._sigma(t) ** 2

    def _time(self, lam: Tensor) -> Tensor:
        return self._inverse_integral(2 * torch.asinh(0.5 * (-lam).exp()))


class CosineVPSDE(VariancePreservingPrior):
    """Variance preserving, cosine: ``alpha = cos(a(t)) / cos(a(0))``, ``a(t) = pi/2 (t + s)/(1 + s)``.

    ``alpha`` vanishes at t = 1, so sampling starts at t_max = 0.9946 (lam = -4.8), as Lu et al. 2022 do.
    ``sigma^2 = sin(a - a0) sin(a + a0) / cos(a0)^2`` is ``1 - alpha^2`` without its cancellation.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17.
    """

    t_max = 0.9946

    def __init__(self, s: float = 0.008) -> None:
        self.s = real_number("s", s)
        require(0 < self.s < math.inf, f"a finite s > 0, got {s}")
        self._rate = 0.5 * math.pi / (1 + self.s)
        self._angle0 = self._rate * self.s
        self._cos0 = math.cos(self._angle0)

    def _alpha(self, t: Tensor) -> Tensor:
        return (self._rate * (1 - t)).sin() / self._cos0  # = cos(a) / cos(a0), exact where it vanishes

    def _variance(self, t: Tensor) -> Tensor:
        swept = self._rate * t
        return swept.sin() * (swept + 2 * self._angle0).sin() / self._cos0**2

    def _sigma(self, t: Tensor) -> Tensor:
        return self._variance(t).sqrt()

    def _time(self, lam: Tensor) -> Tensor:
        alpha2, sigma2 = sigmoid(2 * lam), sigmoid(-2 * lam)
        sine2 = math.sin(self._angle0) ** 2 + sigma2 * self._cos0**2
        angle = torch.atan(sine2.sqrt() / (alpha2.sqrt() * self._cos0))
        return (angle - self._angle0) / self._rate

    def __repr__(self) -> str:
        return f"CosineVPSDE(s={self.s})"
