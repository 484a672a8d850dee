"""Exact references that the tests share: laws, processes, the flow of a one-dimensional mixture, orders."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import scoresolve as ss

PROCESSES: dict[str, ss.SDE] = {
    "ve": ss.VESDE(),
    "vp": ss.VPSDE(),
    "subvp": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(),
    "edm": ss.EDM(),
    "flow": ss.RectifiedFlow(),
    "ddpm_table": ss.DiscreteVPSDE.linear(),
    "user": ss.GaussianPath(alpha=lambda t: torch.cos(1.55 * t), sigma=lambda t: torch.sin(1.55 * t)),
}
SMOOTH = [name for name in PROCESSES if name != "ddpm_table"]  # beta is piecewise constant in a table
TABLES = [info for info in ss.solvers() if not info.adaptive and info.order > 0]
ONE_STEP = ["ddim", "ddpm", "reverse_diffusion", "euler_maruyama", "euler", "heun"]


def mixture_1d() -> ss.exact.GaussianMixture:
    """Two modes, of weights 0.7 and 0.3."""
    return ss.exact.GaussianMixture([0.7, 0.3], [[-1.0], [1.2]], [[0.09], [0.25]])


def mixture_2d() -> ss.exact.GaussianMixture:
    """Three modes with full covariances."""
    covariances = [[[0.2, 0.1], [0.1, 0.3]], [[0.1, -0.05], [-0.05, 0.2]], [[0.3, 0.0], [0.0, 0.05]]]
    return ss.exact.GaussianMixture([0.5, 0.3, 0.2], [[-1.0, 0.5], [1.5, 0.0], [0.0, -1.0]], covariances)


def gaussian(seed: int = 0, d: int = 3) -> ss.exact.Gaussian:
    """A Gaussian with a rotated covariance and a mean."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    variances = torch.logspace(-1.5, 0.3, d, dtype=torch.float64)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    return ss.exact.Gaussian(mean, basis @ torch.diag(variances) @ basis.T)


def interval(sde: ss.SDE, first: float = -3.0, last: float = 2.5) -> tuple[float, float]:
    """(t_max, t_min) at which lam takes the given values: one interval of noise levels for every process."""
    return sde.time(first), sde.time(last)


def slopes(errors: list[float]) -> np.ndarray:
    """Orders observed between successive halvings of the step."""
    values = np.array(errors)
    return np.asarray(np.log2(values[:-1] / values[1:]))


class CountingNet:
    """Wraps a network, counting the calls it sees and the rows of each."""

    def __init__(self, net: object) -> None:
        self.net, self.rows = net, []

    def __call__(self, x: Tensor, time: Tensor, **conditioning: object) -> Tensor:
        self.rows.append(x.shape[0])
        return self.net(x, time, **conditioning)
