"""Forward processes made from what a user brings: a table of betas, or two functions of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from .copies import on_device
from .errors import require
from .processes import IntegratedBeta
from .sde import SDE, as_float64, derivative


class MonotoneCubic:
    """A rising function through nodes at the places 0, 1, ..., N, its slope continuous, in float64.

    Source: Fritsch and Butland 1984.
    """

    def __init__(self, nodes: np.ndarray) -> None:
        self.count = len(nodes) - 1
        self._nodes = torch.from_numpy(nodes)
        # (4, N): the cubic on each interval, highest power first
        cubics = PchipInterpolator(np.arange(self.count + 1.0), nodes).c  # of two nodes a straight line
        self._cubics = torch.from_numpy(np.array(cubics))

    def __call__(self, place: Tensor) -> Tensor:
        """The values at places, the nodes themselves at whole ones."""
        left = place.detach().floor().clamp(0, self.count - 1).long()
        return _cubic(self._pieces(left), place - left)

    def place(self, value: Tensor) -> Tensor:
        """The inverse: the places at which it has the given values."""
        nodes = on_device(self._nodes, value.device)
        left = (torch.searchsorted(nodes, value.detach().contiguous(), right=True) - 1).clamp(0, self.count - 1)
        pieces = self._pieces(left)
        return left + rising_root(lambda part: _cubic(pieces, part), value, 1.0)

    def _pieces(self, left: Tensor) -> Tensor:
        """The cubics that begin at whole places, (4, *left.shape)."""
        return on_device(self._cubics, left.device)[:, left]


def _cubic(pieces: Tensor, part: Tensor) -> Tensor:
    third, second, first, value = pieces.unbind()
    return value + part * (first + part * (second + part * third))


class DiscreteVPSDE(IntegratedBeta):
    """A DDPM table of betas, seen as a VP process on [0, 1]: index i is the time ``t = (i + 1) / N``.

    ``B = -log alphas_cumprod`` is interpolated between the indices, from B(0) = 0, by a monotone cubic: beta is then
    continuous, so that adaptive and high-order solvers do not trip over the indices. At the indices it is the
    table, to rounding. Sampling ends at noise zero.

    Args:
        betas: N numbers in (0, 1), index 0 first, as DDPM counts them.

    Raises: ValueError if they are empty, leave (0, 1), or look like alphas_cumprod, for which there is
    :meth:`from_alphas_cumprod`.

    Source: Ho et al. 2020, arXiv:2006.11239.

    >>> import scoresolve as ss
    >>> sde = ss.DiscreteVPSDE.linear()
    >>> round(sde.alpha(1.0) ** 2, 9)  # alphas_cumprod[-1]
    4.0358e-05
    """

    t_min = 0.0

    def __init__(self, betas: Sequence[float] | np.ndarray | Tensor) -> None:
        table = as_float64("betas", betas).numpy().copy()
        require(table.ndim == 1 and table.size > 0, f"a vector of betas, got shape {table.shape}")
        falls = table.size > 1 and table[0] > 0.5 and bool(np.all(np.diff(table) < 0))
        require(
            not falls,
            f"betas, got numbers that fall from {table[0]:.6g} to {table[-1]:.6g}: of alphas_cumprod make it by "
            "ss.DiscreteVPSDE.from_alphas_cumprod(...), of alphas by ss.DiscreteVPSDE(1 - alphas)",
        )
        inside = bool(np.all((table > 0) & (table < 1)))
        require(inside, f"betas strictly between 0 and 1, got the range {table.min()} to {table.max()}")
        self.betas = table
        self.N = table.size
        self.t_eps = 1 / self.N
        self._curve = MonotoneCubic(np.concatenate([[0.0], -np.cumsum(np.log1p(-table))]))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Sequence[float] | np.ndarray | Tensor) -> DiscreteVPSDE:
        """The table of the products of 1 - beta up to each index: ``beta_i = 1 - abar_i / abar_{i-1}``.

        Raises: ValueError unless they fall strictly within (0, 1).

        >>> import scoresolve as ss
        >>> ss.DiscreteVPSDE.from_alphas_cumprod([0.75, 0.375]).betas.tolist()
        [0.25, 0.5]
        """
        table = as_float64("alphas_cumprod", alphas_cumprod).numpy()
        require(table.ndim == 1 and table.size > 0, f"a vector of alphas_cumprod, got shape {table.shape}")
        before = np.append(1.0, table[:-1])
        require(
            bool(np.all((table > 0) & (table < before))),
            f"alphas_cumprod that fall strictly within (0, 1), got them from {table[0]:.6g} to {table[-1]:.6g} "
            "(those that end at 0 are rescaled: ss.ZeroTerminalVPSDE makes them of the betas from before)",
        )
        return cls((before - table) / before)

    @classmethod
    def linear(cls, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> DiscreteVPSDE:
        """DDPM's table: betas equally spaced from beta_start to beta_end."""
        return cls(np.linspace(beta_start, beta_end, steps))

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> DiscreteVPSDE:
        """Latent diffusion's table: square roots of the betas equally spaced."""
        return cls(np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2)

    @classmethod
    def squared_cosine(cls, steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> DiscreteVPSDE:
        """iDDPM's table: ``1 - alpha_bar((i+1)/N) / alpha_bar(i/N)``, capped at max_beta."""
        alpha_bar = np.cos(0.5 * np.pi * (np.arange(steps + 1) / steps + s) / (1 + s)) ** 2
        return cls(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))

    def _integral(self, t: Tensor) -> Tensor:
        return self._curve(t * self.N)

    def _inverse_integral(self, integral: Tensor) -> Tensor:
        return self._curve.place(integral) / self.N

    def __repr__(self) -> str:
        # the mean tells tables of equal ends apart
        first, last, mean = self.betas[0], self.betas[-1], self.betas.mean()
        return f"DiscreteVPSDE(<{self.N} betas, {first:.6g} to {last:.6g}, mean {mean:.6g}>)"


class GaussianPath(SDE):
    """Any path: two functions ``alpha(t)`` and ``sigma(t)``; drift, diffusion and the inverse clock are derived.

    Args:
        alpha, sigma: functions of a float64 tensor of times, of torch operations so that they can be
            differentiated; a constant may be returned as a number.
        t_min, t_max: where sampling ends and starts, ``0 <= t_min < t_max``.
        t_eps: the last positive time before a jump to noise zero (default t_min, or 1e-3 t_max if that is 0).

    ``time(lam)`` is found by bisection (to rounding). Raises: ValueError if the path is not positive or if
    alpha / sigma does not fall on (t_min, t_max); TypeError if it cannot be differentiated.

    >>> import torch, scoresolve as ss
    >>> sde = ss.GaussianPath(alpha=lambda t: torch.cos(1.5 * t), sigma=lambda t: torch.sin(1.5 * t))
    >>> abs(sde.time(sde.lam(0.4)) - 0.4) < 1e-12
    True
    """

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor | float],
        sigma: Callable[[Tensor], Tensor | float],
        *,
        t_min: float = 1e-3,
        t_max: float = 1.0,
        t_eps: float | None = None,
    ) -> None:
        if not (callable(alpha) and callable(sigma)):
            raise TypeError(f"alpha and sigma must be functions of t, got {alpha!r} and {sigma!r}")
        require(0 <= t_min < t_max, f"0 <= t_min < t_max, got {t_min} and {t_max}")
        self.t_min, self.t_max = float(t_min), float(t_max)
        self.t_eps = float(t_eps) if t_eps is not None else (self.t_min or 1e-3 * self.t_max)
        self._functions = {"alpha": alpha, "sigma": sigma}
        self._check()

    def _call(self, name: str, t: Tensor) -> Tensor:
        return torch.as_tensor(self._functions[name](t), dtype=torch.float64, device=t.device).expand(t.shape)

    def _alpha(self, t: Tensor) -> Tensor:
        return self._call("alpha", t)

    def _sigma(self, t: Tensor) -> Tensor:
        return self._call("sigma", t)

    def _time(self, lam: Tensor) -> Tensor:
        return rising_root(lambda t: self._sigma(t).log() - self._alpha(t).log(), -lam, self.t_max)

    def _check(self) -> None:
        times = torch.linspace(self.t_min, self.t_max, 257, dtype=torch.float64, device="cpu")[1:-1]
        for name in ("alpha", "sigma"):
            values = self._call(name, times.clone().requires_grad_())
            require(bool((values > 0).all()), f"{name}(t) > 0 for t between t_min and t_max")
            if not values.requires_grad and bool((values != values[0]).any()):
                raise TypeError(
                    f"{name} varies with t but cannot be differentiated: write it with torch operations on t, "
                    "such as torch.exp(-t), not with math or numpy"
                )
        falling = bool((self.lam(times).diff() < 0).all())
        require(falling, "a path whose alpha / sigma falls strictly with t (noise grows with t)")

    def __repr__(self) -> str:
        return f"GaussianPath(alpha={_name(self._functions['alpha'])}, sigma={_name(self._functions['sigma'])})"


def rising_root(function: Callable[[Tensor], Tensor], value: Tensor, high: float) -> Tensor:
    """The u in [0, high] at which a rising function takes the given values, by bisection to rounding.

    A last step of Newton's method carries the gradient with respect to the values.
    """
    target = value.detach()
    low, top = torch.zeros_like(target), torch.full_like(target, high)
    with torch.no_grad():
        for _ in range(70):
            middle = 0.5 * (low + top)
            above = function(middle) > target
            low, top = torch.where(above, low, middle), torch.where(above, middle, top)
        root = 0.5 * (low + top)
    if not value.requires_grad:
        return root
    return root - (function(root).detach() - value) / derivative(function, root)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))
