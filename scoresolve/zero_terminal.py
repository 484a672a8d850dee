r"""A table of betas whose last signal is rescaled to zero, as some latent diffusion models are trained.

Customary tables end with a little signal left, alpha_T > 0, though sampling starts from noise alone. Lin et al. move
and stretch alpha so that the last one vanishes and the first one stays:

    alpha'_i = (alpha_i - alpha_T) alpha_1 / (alpha_1 - alpha_T).

``B = -2 log alpha'`` is then infinite at t = 1, so not B is interpolated but alpha' itself: the signal counted from
t = 1, where it vanishes, and the loss ``u = 1 - alpha'`` counted from t = 0, where that does (the two are one function,
each exact where it is small). With v = 1 - alpha,

    u_i = (alpha_1 v_i - alpha_T v_1) / (alpha_1 - alpha_T),        sigma'^2 = u (2 - u).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .custom import DiscreteVPSDE, MonotoneCubic
from .errors import require
from .rounding import sigmoid


class ZeroTerminalVPSDE(DiscreteVPSDE):
    """A DDPM table of betas rescaled to zero signal at its last index; index i is the time ``t = (i + 1) / N``.

    Args:
        betas: the N >= 2 betas of the table *before* it is rescaled, in (0, 1); ``.betas`` are those after it, the
            last of them 1. In diffusers' configurations: ``rescale_betas_zero_snr``.

    At t = 1 a noise or score prediction says nothing about the data: such a network needs ``t_max=``; networks of v
    or of the data start at noise alone. Raises: ValueError.

    Source: Lin et al. 2023, arXiv:2305.08891, algorithm 1.

    >>> import scoresolve as ss
    >>> sde = ss.ZeroTerminalVPSDE(ss.DiscreteVPSDE.scaled_linear().betas)
    >>> sde.alpha(1.0), round(sde.alpha(0.001) - ss.DiscreteVPSDE.scaled_linear().alpha(0.001), 15)
    (0.0, 0.0)
    """

    def __init__(self, betas: Sequence[float] | np.ndarray | Tensor) -> None:
        super().__init__(betas)
        require(self.N >= 2, f"at least two betas, got {self.N}")
        lost = -np.expm1(0.5 * np.cumsum(np.log1p(-self.betas)))  # v
        first, last = 1 - lost[0], 1 - lost[-1]
        lost = (first * lost - last * lost[0]) / (first - last)
        kept = 1 - lost
        lost[-1], kept[-1] = 1.0, 0.0
        self.betas = 1 - (kept / np.append(1.0, kept[:-1])) ** 2
        self._lost = MonotoneCubic(np.append(0.0, lost))
        self._kept = MonotoneCubic(np.append(1.0, kept)[::-1].copy())

    def _alpha(self, t: Tensor) -> Tensor:
        return self._kept((1 - t) * self.N)

    def _variance(self, t: Tensor) -> Tensor:
        lost = self._lost(t * self.N)
        return lost * (2 - lost)

    def _integral(self, t: Tensor) -> Tensor:
        return -2 * self._alpha(t).log()

    def _time(self, lam: Tensor) -> Tensor:
        lost = sigmoid(-2 * lam) / (1 + sigmoid(2 * lam).sqrt())  # u = sigma^2 / (1 + alpha)
        return self._lost.place(lost) / self.N

    def __repr__(self) -> str:
        first, last, mean = self.betas[0], self.betas[-2], self.betas.mean()
        return f"ZeroTerminalVPSDE(<{self.N} betas, {first:.6g} to {last:.6g} and 1, mean {mean:.6g}>)"
