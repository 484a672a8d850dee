"""DPM-Solver-23 with adaptive steps as it is published, for ``work_precision.py``: one step for the whole batch.

In the coordinates ``x / alpha`` and the clock lam, with the noise prediction. A step of order 3 (stages at 1/3 and 2/3)
is compared with the one of order 2 from the first two outputs. Of their difference over
``max(atol, rtol max(|x_low|, |x_low of the last step|))`` the root mean square is taken over the batch. The step is
multiplied by ``1 + atan(1/error^(1/3) - 1)`` and the attempt accepted where that is at least 0.81. Each attempt makes
three calls, the first of them again after a rejection.

Source: Lu et al. 2022, arXiv:2206.00927, app. C; the controller and the constants are k-diffusion's ``dpm_adaptive``
(rtol = 0.05, atol = 0.0078, first step 0.05).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

import scoresolve as ss

ACCEPT, FIRST_STEP, END = 0.81, 0.05, 1e-5


@dataclass
class DpmAdaptive:
    """One run. Attributes: model, rtol, atol; calls, counted."""

    model: ss.ScoreModel
    rtol: float = 0.05
    atol: float = 0.0078
    calls: int = field(default=0, init=False)

    def run(self, x: Tensor, t_max: float, t_min: float, most_calls: int = 20_000) -> Tensor:
        """The state at t_min of the flow that is at x at time t_max. Raises: BudgetError beyond ``most_calls``."""
        sde = self.model.sde
        place, last, h = sde.lam(t_max), sde.lam(t_min), FIRST_STEP
        y = x / sde.alpha(t_max)
        before = y
        while place < last - END:
            if self.calls + 3 > most_calls:
                raise ss.BudgetError(f"more than {most_calls} network calls")
            there = min(last, place + h)
            low, high = self._attempt(y, place, there)
            tolerance = (self.rtol * torch.maximum(low.abs(), before.abs())).clamp(min=self.atol)
            error = float(((low - high) / tolerance).square().mean().sqrt())
            factor = 1 + math.atan((error + 1e-8) ** (-1 / 3) - 1)
            h *= factor
            if factor >= ACCEPT:
                y, before, place = high, low, there
        return y * sde.alpha(t_min)

    def _attempt(self, y: Tensor, here: float, there: float) -> tuple[Tensor, Tensor]:
        h, rho = there - here, math.exp(-there)
        first = self._noise(y, here)
        second = self._noise(y - math.exp(-here - h / 3) * math.expm1(h / 3) * first, here + h / 3)
        bend = 2 * math.exp(-here - 2 * h / 3) * (math.expm1(2 * h / 3) / (2 * h / 3) - 1)
        third = self._noise(
            y - math.exp(-here - 2 * h / 3) * math.expm1(2 * h / 3) * first - bend * (second - first), here + 2 * h / 3
        )
        straight = y - rho * math.expm1(h) * first
        low = straight - 1.5 * rho * math.expm1(h) * (second - first)
        high = straight - 1.5 * rho * (math.expm1(h) / h - 1) * (third - first)
        return low, high

    def _noise(self, y: Tensor, lam: float) -> Tensor:
        self.calls += 1
        t = min(max(self.model.sde.time(lam), self.model.t_min), self.model.t_max)
        return self.model.noise(y * self.model.sde.alpha(t), t)
