"""A law of data whose denoiser is known at every noise level: what it must state, and what follows."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Self, TypeAlias

import torch
from torch import Tensor

from .copies import on_device
from .errors import require, whole_number
from .model import ScoreModel
from .sde import SDE, over_batch

Scale: TypeAlias = float | Tensor


class Law(ABC):
    """A law of data with exact denoisers. ``shape`` is the shape of one sample."""

    shape: torch.Size

    @abstractmethod
    def _denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x], for float64 x (batch, d) and alpha, sigma (batch, 1)."""

    @abstractmethod
    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Log-density of x_t, (batch,), in nats."""

    @abstractmethod
    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n samples, float64 (n, d)."""

    @abstractmethod
    def _has_density(self) -> bool:
        """Whether it has one: not if it lies on points or in planes."""

    @abstractmethod
    def marginal(self, sde: SDE, t: float) -> Law:
        """The law of x_t, again a law."""

    def model(self, sde: SDE, *, dtype: torch.dtype = torch.float64) -> ScoreModel:
        """The exact network: a ``ScoreModel`` that predicts the data, on any process, dtype and device.

        Args: sde; dtype to compute in, whatever that of the states. float32 is two or more times as fast, as much less
        exact, and what accelerators without float64 can do. Raises: TypeError for another dtype.

        >>> import torch, scoresolve as ss
        >>> law, x = ss.exact.Gaussian([0.0], 0.25), torch.tensor([[1.0]], dtype=torch.float64)
        >>> exact, single = (law.model(ss.VPSDE(), dtype=d).data(x, 0.5) for d in (torch.float64, torch.float32))
        >>> 0 < float((exact - single).abs()) < 1e-6
        True
        """
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating-point dtype of torch, like torch.float32, got {dtype!r}")
        there: dict[torch.device, Law] = {}  # the law's tensors are copied to a device once

        def denoiser(x: Tensor, t: Tensor) -> Tensor:
            if x.device not in there:
                there[x.device] = self.to(x.device, dtype)
            law, t = there[x.device], t.double()
            alpha, sigma = (scale[:, None].to(dtype) for scale in (sde.alpha(t), sde.sigma(t)))
            return law._denoise(x.flatten(1).to(dtype), alpha, sigma).reshape(x.shape).to(x.dtype)

        return ScoreModel(denoiser, sde, predicts="data")

    def denoise(self, x: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """E[x_0 | alpha x_0 + sigma eps = x]; x (batch, ...), alpha and sigma numbers or of shape (batch,)."""
        flat = x.flatten(1).double()
        a, s = (over_batch(scale, flat).expand(len(flat), 1) for scale in (alpha, sigma))
        return self.to(x.device)._denoise(flat, a, s).reshape(x.shape).to(x.dtype)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n samples, float64, shape (n, *shape); from ``generator``, else from torch's global one."""
        return self._sample(whole_number("n", n), generator).reshape(n, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, shape (batch, ...) -> (batch,). Raises: ValueError where a variance is 0."""
        require(self._has_density(), "a law with a density: variances, or a bandwidth, above 0, got one that is 0")
        flat = x.flatten(1).double()
        one = flat.new_ones(len(flat), 1)
        return self.to(x.device)._log_prob(flat, one, 0 * one).to(x.dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float64) -> Self:
        """The law with its tensors on a device, in float64 unless said otherwise."""
        law = copy.copy(self)
        vars(law).update({n: on_device(v, device, dtype) for n, v in vars(self).items() if isinstance(v, Tensor)})
        return law
