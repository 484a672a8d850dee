"""Linear forward processes: everything that follows from the path ``x_t = alpha(t) x_0 + sigma(t) eps``.

A subclass states three functions of float64 tensors: ``_alpha``, ``_sigma`` and the inverse clock ``_time``.
The base class derives the rest, once, for every process. With ``eps ~ N(0, I)`` independent of ``x_0``,

    mean:      d E[x_t] / dt = f(t) E[x_t]                 =>  f = alpha' / alpha
    variance:  d v / dt = 2 f v + g^2,   v = sigma^2       =>  g^2 = (sigma^2)' - 2 f sigma^2

so the marginals of ``dx = f(t) x dt + g(t) dw`` are those of the path. The derivatives are taken by automatic
differentiation of the float64 formulas, which is exact to rounding: a subclass cannot get its drift wrong.

Clocks: ``rho = sigma / alpha`` grows with t and ``lam = log(alpha / sigma)`` falls. Two processes with equal lam
differ only by a scale of x (see ``ScoreModel.on``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from .errors import require

if TYPE_CHECKING:
    from .dynamics import ProbabilityFlow, ReverseSDE
    from .model import ScoreFunction, ScoreModel

Time = TypeVar("Time", float, np.ndarray, Tensor, float | Tensor)
"""A time is a float, a float64 array or a tensor; a function of time answers in kind."""


@dataclass(frozen=True, slots=True)
class Point:
    """A time of a grid with the path's values there, on the host."""

    t: float
    alpha: float
    sigma: float
    lam: float


class SDE(ABC):
    """A linear forward process ``dx = f(t) x dt + g(t) dw`` with marginals ``x_t = alpha(t) x_0 + sigma(t) eps``.

    Every function of time takes a float, an array or a tensor of any shape, computes in float64 and answers in
    kind (a float32 tensor gives a float32 tensor, correctly rounded). Noise grows with t.

    Attributes:
        t_max: where sampling starts.
        t_min: where sampling ends unless told otherwise; 0 where the process is noiseless there and networks are
            customarily run to the end (``EDM``, ``RectifiedFlow``, ``DiscreteVPSDE``).
        t_eps: the smallest positive time a network is asked about, before a last jump to noise zero.
    """

    t_max: float = 1.0
    t_min: float = 1e-3
    t_eps: float = 1e-3

    # -- what a subclass states, on float64 tensors ---------------------------------------------------------

    @abstractmethod
    def _alpha(self, t: Tensor) -> Tensor:
        """Signal scale alpha(t)."""

    @abstractmethod
    def _sigma(self, t: Tensor) -> Tensor:
        """Noise scale sigma(t)."""

    @abstractmethod
    def _time(self, lam: Tensor) -> Tensor:
        """The time at which log(alpha / sigma) equals lam."""

    def _variance(self, t: Tensor) -> Tensor:
        """sigma(t)^2; overridden where it is smoother than sigma itself (VP: sigma ~ sqrt(t) at 0)."""
        return self._sigma(t) ** 2

    # -- clocks -----------------------------------------------------------------------------------------------

    def alpha(self, t: Time) -> Time:
        """Signal scale of ``x_t = alpha x_0 + sigma eps``.

        >>> import scoresolve as ss
        >>> ss.RectifiedFlow().alpha(0.25)
        0.75
        """
        return _evaluate(self._alpha, t)

    def sigma(self, t: Time) -> Time:
        """Noise scale of ``x_t = alpha x_0 + sigma eps`` (relative error below 1e-12 down to t = 1e-6)."""
        return _evaluate(self._sigma, t)

    def rho(self, t: Time) -> Time:
        """Noise-to-signal ratio ``sigma / alpha`` (the "sigma" of EDM and k-diffusion); inf where alpha = 0."""
        return _evaluate(lambda u: self._sigma(u) / self._alpha(u), t)

    def lam(self, t: Time) -> Time:
        """``log(alpha / sigma)``, half the log signal-to-noise ratio; falls with t, +inf at noise zero."""
        return _evaluate(lambda u: self._alpha(u).log() - self._sigma(u).log(), t)

    def time(self, lam: Time) -> Time:
        """The inverse of :meth:`lam`: the time at which ``log(alpha / sigma) = lam``.

        >>> import scoresolve as ss
        >>> sde = ss.VPSDE()
        >>> abs(sde.time(sde.lam(0.3)) - 0.3) < 1e-12
        True
        """
        return _evaluate(self._time, lam)

    def points(self, times: np.ndarray) -> list[Point]:
        """The times of a grid, each with alpha, sigma and lam: what the weights of a step are made of."""
        columns = (times, self.alpha(times), self.sigma(times), self.lam(times))
        return [Point(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]

    # -- dynamics ---------------------------------------------------------------------------------------------

    def alpha_rate(self, t: Time) -> Time:
        """d alpha / dt."""
        return _evaluate(lambda u: derivative(self._alpha, u), t)

    def sigma_rate(self, t: Time) -> Time:
        """d sigma / dt."""
        return _evaluate(lambda u: derivative(self._sigma, u), t)

    def drift_rate(self, t: Time) -> Time:
        """f(t) = d log alpha / dt, the scalar of the drift ``f(t) x``."""
        return _evaluate(self._drift_rate, t)

    def diffusion(self, t: Time) -> Time:
        """g(t) of ``dx = f x dt + g dw``: ``g^2 = (sigma^2)' - 2 f sigma^2``, the scalar diffusion coefficient."""
        return _evaluate(lambda u: self._squared_diffusion(u).sqrt(), t)

    def squared_diffusion(self, t: Time) -> Time:
        """g(t)^2."""
        return _evaluate(self._squared_diffusion, t)

    def drift(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``f(t) x``. Args: x of shape (batch, ...); t a float or a tensor of shape () or (batch,)."""
        return x * over_batch(self.drift_rate(t), x)

    def _drift_rate(self, t: Tensor) -> Tensor:
        return derivative(self._alpha, t) / self._alpha(t)

    def _squared_diffusion(self, t: Tensor) -> Tensor:
        return derivative(self._variance, t) - 2 * self._drift_rate(t) * self._variance(t)

    # -- marginals --------------------------------------------------------------------------------------------

    def marginal(self, x0: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``alpha x_0`` and standard deviation ``sigma`` of ``p(x_t | x_0)``.

        Args: x0 of shape (batch, ...), floating; t a float or a tensor of shape () or (batch,).
        Returns the mean, shaped as x0, and the standard deviation, shaped to broadcast against it. Raises: TypeError
        for whole numbers, such as images of bytes, or indices for times.

        >>> import torch, scoresolve as ss
        >>> mean, std = ss.VESDE().marginal(torch.ones(4, 2), torch.full((4,), 0.5))
        >>> mean.shape, std.shape
        (torch.Size([4, 2]), torch.Size([4, 1]))
        """
        if not x0.is_floating_point():
            raise TypeError(f"x0 is {x0.dtype}: make it floating, in the network's range, as x0 / 127.5 - 1")
        check_time(t, x0)
        return x0 * over_batch(self.alpha(t), x0), over_batch(self.sigma(t), x0)

    def perturb(
        self, x0: Tensor, t: float | Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw of ``x_t = alpha x_0 + sigma noise``.

        Args: x0 of shape (batch, ...); t a float or a tensor of shape () or (batch,); noise of x0's shape
        (standard normal if not given, from ``generator``, else from torch's global one).
        Raises ValueError if the noise has another shape than x0.
        """
        if noise is None:
            noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        elif noise.shape != x0.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, x0 has {tuple(x0.shape)}: give them one shape")
        mean, std = self.marginal(x0, t)
        return mean + std * noise

    # -- prior ------------------------------------------------------------------------------------------------

    def prior_std(self, t: float | None = None) -> float:
        """Standard deviation of the prior N(0, std^2 I) that stands for the marginal at time t (default t_max)."""
        return self.sigma(self.t_max if t is None else t)

    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A draw of the prior N(0, std^2 I) of the given shape (from ``generator``, else torch's global one)."""
        return self.prior_std() * torch.randn(tuple(shape), generator=generator, dtype=dtype, device=device)

    def prior_log_prob(self, x: Tensor, t: float | None = None) -> Tensor:
        """log N(x; 0, std^2 I) in nats, std that of time t (default t_max): shape (batch, ...) -> (batch,).

        Of states in half precision in float32: a sum over the pixels of an image exceeds what float16 holds.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        std, flat = self.prior_std(t), x.reshape(x.shape[0], -1).to(wide)
        constant = flat.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))
        return -0.5 * (flat / std).square().sum(dim=1) - constant

    # -- other directions -------------------------------------------------------------------------------------

    def reverse(self, model: ScoreModel | ScoreFunction, eta: float = 1.0) -> ReverseSDE:
        """The reverse-time SDE ``dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dw``; see :class:`ReverseSDE`."""
        from .dynamics import ReverseSDE

        return ReverseSDE(self, model, eta)

    def probability_flow(self, model: ScoreModel | ScoreFunction) -> ProbabilityFlow:
        """The probability-flow ODE ``dx/dt = f x - g^2/2 score``; see :class:`ProbabilityFlow`."""
        from .dynamics import ProbabilityFlow

        return ProbabilityFlow(self, model)


class VariancePreservingPrior(SDE):
    """A process whose prior is taken as N(0, I), as is the custom wherever alpha^2 + sigma^2 is at most 1."""

    def prior_std(self, t: float | None = None) -> float:
        """1: the marginal of data of unit variance at any time, and sigma(t_max) to 1e-4."""
        return 1.0


def as_float64(name: str, value: object) -> Tensor:
    """Numbers as a float64 tensor of the host. Raises: TypeError for what is none, ValueError for NaN or infinity."""
    try:
        found = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers, a tensor, an array or a list of them; got {value!r}") from error
    require(bool(torch.isfinite(found).all()), f"{name} to be finite, got NaN or infinity")
    return found


def check_time(t: float | Tensor, x: Tensor) -> None:
    """Raise TypeError for a tensor of whole numbers, which are indices of a table, not times; ValueError for one that
    is not of shape () or (batch,)."""
    if isinstance(t, Tensor):
        _check_rows(t, x)
        if not t.is_floating_point():
            raise TypeError(f"t is {t.dtype}: give times, as floating numbers; index i of a table of N is (i + 1) / N")


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """``d function / dt`` elementwise, by reverse-mode differentiation; works under no_grad and inference mode.

    The result carries a graph only if t does.
    """
    with torch.inference_mode(False), torch.enable_grad():
        point = t if t.requires_grad else t.detach().clone().requires_grad_()
        value = function(point)
        if not value.requires_grad:
            return torch.zeros_like(t)
        (rate,) = torch.autograd.grad(value.sum(), point, create_graph=t.requires_grad)
        return rate


def over_batch(coefficient: float | Tensor, x: Tensor) -> Tensor:
    """A coefficient of shape () or (batch,) shaped to multiply x of shape (batch, ...), in x's dtype and device.

    A (batch,) vector multiplied as it is would run along the *last* axis of an image: this is the one place
    where coefficients meet states.
    """
    if not isinstance(coefficient, Tensor):  # a tensor made of a number is copied from the host, which waits for that
        return x.new_ones(()) * coefficient
    value = coefficient.to(device=x.device, dtype=x.dtype)
    _check_rows(value, x)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (x.ndim - 1))


def _check_rows(value: Tensor, x: Tensor) -> None:
    if value.ndim > 0 and value.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(value.shape)} and x {tuple(x.shape)}: give t as a number, "
            f"or one time a sample, shape ({x.shape[0] if x.ndim else 1},)"
        )


def _evaluate(function: Callable[[Tensor], Tensor], t: Time) -> Time:
    """Apply a float64 formula to a float, an array or a tensor, and answer in kind."""
    if isinstance(t, Tensor):
        kind = t.dtype if t.is_floating_point() else torch.get_default_dtype()
        point = t.cpu() if t.device.type == "mps" else t  # Apple's accelerator has no float64
        return function(point.double()).to(kind).to(t.device)
    if isinstance(t, np.ndarray):  # copied: a tensor cannot share an array that is read-only or runs backwards
        return function(torch.from_numpy(np.array(t, dtype=np.float64))).detach().numpy()
    return function(torch.tensor(t, dtype=torch.float64, device="cpu")).item()
