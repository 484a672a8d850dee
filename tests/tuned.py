"""What the tests of tuned tables share: a law, starts, and shots from them."""

from __future__ import annotations

import torch

import scoresolve as ss
from scoresolve.tuning.shooting import Shooting, Starts

PROCESSES = (ss.VPSDE(), ss.EDM(), ss.RectifiedFlow())
FEW = [("ddim", "karras"), ("dpmpp_2m", "balanced"), ("ipndm_2", "quadratic"), ("heun", "uniform")]


def mixture(d: int = 2) -> ss.exact.GaussianMixture:
    means = torch.zeros(3, d, dtype=torch.float64)
    means[:, 0] = torch.tensor([-1.5, 0.2, 1.0])
    means[:, -1] += torch.tensor([0.3, -0.8, 0.5])
    widths = torch.tensor([0.1, 0.05, 0.02], dtype=torch.float64)[:, None, None]
    return ss.exact.GaussianMixture([0.5, 0.2, 0.3], means, widths * torch.eye(d, dtype=torch.float64))


def starts(model: ss.ScoreModel, count: int, d: int, seed: int = 0) -> torch.Tensor:
    normal = torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normal * model.sde.prior_std(model.t_max)


def shooting(model: ss.ScoreModel, x: torch.Tensor, targets: torch.Tensor, **more: object) -> Shooting:
    given = {"features": lambda x: x, "laws": False, "step": 1e-6, "size": 16, **more}
    return Shooting(model, Starts(x, targets), **given)  # type: ignore[arg-type]
