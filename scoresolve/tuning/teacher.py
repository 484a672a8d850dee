r"""Where the probability flow of a network ends, converged.

A method of order 4 on ever finer grids, twice as many calls each time, until two of them agree. Halving the steps
divides an error of order 4 by 16, so that the finer one's is a fifteenth of the gap between the two (Richardson). It
starts at full order: where alpha(t_max) = 0 the first step, from pure noise to rho = 80, is as long on any grid, and
would not converge otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import ScoreModel
from ..sampling import sample
from .shooting import Features, themselves

SOLVER, GRID = "flow_abm_4", "balanced"
FIRST, LAST = 64, 1024
RICHARDSON = 15.0
"""The gap of two runs over the error of the finer one, 2^4 - 1."""


@dataclass(frozen=True)
class Converged:
    """Converged end points.

    Attributes: ends (batch, ...), gap (root mean square difference of the features of the two finest runs), calls (of
    the finest), rows (samples that the network has seen in all runs).
    """

    ends: Tensor
    gap: float
    calls: int
    rows: int


def converge(
    model: ScoreModel,
    start: Tensor,
    t_max: float,
    t_min: float,
    *,
    goal: float,
    features: Features = themselves,
    batch_size: int | None = None,
) -> Converged:
    """The ends of the probability flow from ``start`` at t_max.

    Args: start (batch, ...); goal, how far the features of the finer run may be from where they converge, by the gap to
    the coarser one, relative to their root mean square.
    Returns: the finest run; ``gap`` says what was reached. Cost: 64, 128, ... up to 1024 network calls, one run each.

    >>> import torch, scoresolve as ss
    >>> from scoresolve.tuning.teacher import converge
    >>> law, sde = ss.exact.Gaussian(torch.zeros(2), 0.25), ss.VPSDE()
    >>> start = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> found = converge(law.model(sde), start, 1.0, 1e-3, goal=1e-6)
    >>> bool((found.ends - law.flow(sde, start, 1.0, 1e-3)).abs().max() < 1e-6)
    True
    """
    calls, rows, before, gap = FIRST, 0, None, math.inf
    while True:
        try:
            run = sample(
                model, start=start, solver=SOLVER, grid=GRID, nfe=calls, t_max=t_max, t_min=t_min,
                batch_size=batch_size, solver_options={"start": "high"},
            )  # fmt: skip
        except ValueError:  # a table of betas has only so many times
            if before is None:
                raise
            return Converged(before, gap, calls // 2, rows)
        rows += run.stats["network_rows"]
        ends = run.samples
        seen = features(ends).double()
        gap = math.inf if before is None else float((seen - features(before).double()).square().mean().sqrt())
        if gap <= RICHARDSON * goal * float(seen.square().mean().sqrt()) or calls >= LAST:
            return Converged(ends, gap, calls, rows)
        before, calls = ends, 2 * calls


def relative_goal(dtype: torch.dtype) -> float:
    """How closely runs can be expected to converge, by what the network computes in."""
    return {torch.float64: 1e-7, torch.float32: 1e-5}.get(dtype, 1e-3)
