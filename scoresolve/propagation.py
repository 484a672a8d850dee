r"""Exact propagation of a Gaussian through a table, without sampling.

The exact network of Gaussian data is affine in x, so a table maps its start to ``A x + c + sum_k B_k z_k``, and in the
eigenbasis of the data's covariance A and the B_k are diagonal. They are read off by running the table itself, on the
loop that everybody runs, over a batch of unit vectors and unit noises.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .model import ScoreModel
from .noise import SOLVER
from .sde import SDE
from .table import Table

if TYPE_CHECKING:
    from .exact import Gaussian, GaussianMixture


class _UnitNoise:
    """Noise whose draw k is one in row ``first + k`` of the batch and zero elsewhere."""

    def __init__(self, first: int, draws: dict[int, int]) -> None:
        self._first, self._draws = first, draws

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        if stream == SOLVER:
            z[self._first + self._draws[index]] = 1.0
        return z


def push(table: Table, law: Gaussian, sde: SDE, start: GaussianMixture | None = None) -> Gaussian:
    """The exact law of a table's output for Gaussian data: no sampling.

    Args: ``start`` is the law of the state at the table's first time, with the data's eigenbasis; default the exact
    marginal there. Returns: N(A m + c, A P A^T + sum_k B_k B_k^T).

    >>> import numpy as np, torch, scoresolve as ss
    >>> law, sde = ss.exact.Gaussian(torch.zeros(1), 0.25), ss.VPSDE()
    >>> table = ss.build_table("dpmpp_2m", sde, ss.grids.log_snr(sde, 50, 1.0, 1e-3))
    >>> abs(float(ss.exact.push(table, law, sde).covariance) / float(law.marginal(sde, 1e-3).covariance) - 1) < 5e-3
    True
    """
    start = law.marginal(sde, table.start) if start is None else start
    gain, offset, noise = affine_map(table, law, sde)
    basis = law.bases[0]
    out = copy.copy(law)
    out.means = (basis @ (gain * (basis.T @ start.means[0]) + offset))[None]
    out.variances = (gain**2 * start.variances[0] + noise.square().sum(0))[None]
    return out


def affine_map(table: Table, law: Gaussian, sde: SDE) -> tuple[Tensor, Tensor, Tensor]:
    """(A, c, B) of :func:`push` in the eigenbasis of the data: shapes (d,), (d,) and (draws, d)."""
    d, v, mean = law.means.shape[1], law.variances[0], law.bases[0].T @ law.means[0]

    def denoiser(x: Tensor, t: Tensor) -> Tensor:  # one time for the whole batch, one variance a coordinate
        alpha, sigma = sde.alpha(t[:1]), sde.sigma(t[:1])
        return mean + alpha * v / (alpha**2 * v + sigma**2) * (x - alpha * mean)

    noisy = [number for number, row in enumerate(table.rows) if row.draws]
    batch = torch.zeros(2 + len(noisy), d, dtype=torch.float64, device="cpu")
    batch[1] = 1.0
    noise = _UnitNoise(2, {number: k for k, number in enumerate(noisy)})
    with torch.no_grad():
        end, _ = table.run(ScoreModel(denoiser, sde, predicts="data"), batch, noise)
    return end[1] - end[0], end[0], end[2:] - end[0]
