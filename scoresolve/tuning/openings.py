r"""Openings to try: times to which the flow of the data's Gaussian takes the starts, before a table begins.

How much of the data is seen through the noise is ``alpha^2 v / sigma^2``, v the largest variance of the data: where it
is small the Gaussian's flow is nearly that of the data (``opening.py``), and a table that begins there has all its
calls for what is left; where it is too large the opening's own error is more than the calls gain. Which it is depends
on the data, so a few levels are tried beside none, and held-out starts decide.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from ..exact import Gaussian
from ..grids import snap_to_indices
from ..model import ScoreModel
from ..opening import check_law
from .search import Task
from .shooting import Starts

LEVELS = (0.03, 0.1, 0.3, 1.0)
"""``alpha^2 v / sigma^2`` at the times tried."""
LARGEST = 8192
"""Dimensions beyond which a covariance is not fitted unasked."""


def law_of(data: Tensor | Gaussian, shape: tuple[int, ...]) -> Gaussian:
    """The Gaussian of data (n, *shape), or itself. Raises: TypeError, ValueError for what does not fit."""
    if isinstance(data, Tensor):
        require(tuple(data.shape[1:]) == shape, f"data of shape (n, *{shape}), got {tuple(data.shape)}")
        d = math.prod(shape)
        require(
            d <= LARGEST,
            f"data of at most {LARGEST} dimensions, got {d}: their covariance would take {8 * d**2 / 2**30:.0f} GB and "
            "its eigenvectors d^3 operations; pass data=ss.exact.Gaussian.fit(data) if that is meant, or none",
        )
        return Gaussian.fit(data)
    require(
        isinstance(data, Gaussian),
        f"data= a tensor (n, *{shape}) or an ss.exact.Gaussian, got {type(data).__name__}",
    )
    check_law(data, shape)
    return data


def opening_times(model: ScoreModel, law: Gaussian, ends: tuple[float, float]) -> list[float]:
    """The times of ``LEVELS`` between the two ends, the highest first.

    >>> import torch, scoresolve as ss
    >>> from scoresolve.tuning.openings import opening_times
    >>> law, sde = ss.exact.Gaussian(torch.zeros(2), 0.25), ss.VPSDE()
    >>> times = opening_times(law.model(sde), law, (1e-3, 1.0))
    >>> [round(float(sde.alpha(t) ** 2 * 0.25 / sde.sigma(t) ** 2), 4) for t in times]
    [0.03, 0.1, 0.3, 1.0]
    """
    largest = float(law.variances.max())
    if largest == 0:
        return []
    times = [float(model.sde.time(0.5 * math.log(level / largest))) for level in LEVELS]
    if model.time == "index":  # a network told whole indices is asked at their noise levels
        count = len(model.native.betas)  # type: ignore[attr-defined]
        times = [float(snap_to_indices(np.array([t]), count)[0]) for t in times]
    return [t for t in dict.fromkeys(times) if ends[0] < t < ends[1]]


def opened_at(task: Task, law: Gaussian, t: float) -> Task:
    """The same task, its starts moved to time t by the law's flow; what they should end in stays what it is."""
    lesson, sde = task.lesson, task.lesson.models[0].sde

    def moved(starts: Starts) -> Starts:
        with torch.no_grad():
            return replace(starts, x=law.flow(sde, starts.x, task.ends[1], t))

    there = replace(lesson, train=moved(lesson.train), held_out=moved(lesson.held_out))
    return replace(task, lesson=there, ends=(task.ends[0], t), opening=law)
