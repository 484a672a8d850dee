"""A function of k-diffusion's signature: ``sampler(denoiser, x, sigmas)``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .draws import watched
from .subject import Course, Draw, Oracle

FIRST, LAST = 20.0, 0.05
"""Noise levels between which orders are seen."""
SIGMA_MAX, SIGMA_MIN = 80.0, 0.002
"""Those of a run as users have it: Karras et al. 2022."""
REFINED = (16, 32, 64, 128, 256, 512)


def smooth_levels(steps: int) -> np.ndarray:
    """Equally spaced in log sigma, (steps + 1,)."""
    return np.geomspace(FIRST, LAST, steps + 1)


def full_levels(steps: int) -> np.ndarray:
    """Karras' levels, and then zero, (steps + 1,)."""
    ramp = np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)
    high, low = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return np.append((high + ramp * (low - high)) ** 7, 0.0)


def closing_levels(step: float) -> np.ndarray:
    """Many steps, and a last one of that length in log sigma."""
    return np.append(np.geomspace(FIRST, LAST * math.exp(step), 129), LAST)


def course_of(levels: np.ndarray, plan: Any = None) -> Course:
    """The course along noise levels of ``x_0 + sigma eps``."""
    return Course(len(levels) - 1, (1.0, float(levels[0])), (1.0, float(levels[-1])), levels if plan is None else plan)


class Function:
    """``sampler(denoiser, x, sigmas)``: denoiser(x, sigma (batch,)) -> D, x = x_0 + sigma eps, sigmas decreasing.

    Where it takes them as well, it is given ``disable=True`` (no progress bar).
    """

    floor, slack, whole, fixed = 1e-12, 0.2, 200, True

    def __init__(
        self, sampler: Callable[..., Tensor], name: str, claim: float | None, calls: Callable[[int], int] | None
    ) -> None:
        self.sampler, self.name, self.claim, self._calls = sampler, name, claim, calls
        known = inspect.signature(sampler).parameters if callable(sampler) else {}
        self._extra: dict[str, Any] = {"disable": True} if "disable" in known else {}

    def smooth(self) -> Sequence[Course]:
        """Equally spaced in log sigma from 20 to 0.05."""
        return [self._course(smooth_levels(steps)) for steps in REFINED]

    def full(self, steps: int) -> Course:
        """From 80 to 0.002 and to zero."""
        return self._course(full_levels(steps))

    def closing(self, step: float) -> tuple[Course, Course] | None:
        """Down to 0.05."""
        levels = closing_levels(step)
        return self._course(levels[:-1]), self._course(levels)

    def _course(self, levels: np.ndarray) -> Course:
        return course_of(levels, torch.from_numpy(levels))

    def run(self, course: Course, oracle: Oracle, x: Tensor, draw: Draw | None) -> tuple[Tensor, int]:
        """The function as it is, its draws replaced if noise is given."""

        def denoiser(state: Tensor, sigma: Any, **extra: Any) -> Tensor:
            return oracle(state, 1.0, sigma)

        sigmas = course.plan if x.dtype == torch.float64 else course.plan.to(x.dtype)

        def called() -> Tensor:
            return self.sampler(denoiser, x, sigmas, **self._extra)

        with torch.no_grad():
            return (called(), 0) if draw is None else watched(called, draw, x)

    def calls(self, steps: int) -> int | None:
        """As the caller says."""
        return None if self._calls is None else self._calls(steps)

    def labels_off(self) -> float:
        """Nothing: it tells the level itself."""
        return math.nan
