"""What all solvers have in common that choose a step for each sample: tolerances, a budget, and when a run is lost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor

from .errors import real_number, require
from .model import ScoreModel
from .noise import NoiseSource
from .table import AfterStep, Stats

ADAPTIVE = "a solver whose samples have steps of their own"
"""What a run of it is called in messages."""
BUDGET = 10_000
"""The most network calls of an adaptive run where nothing is said."""
FINEST = 1e-16
"""Float64 resolves no finer tolerance."""


def check_tolerances(rtol: float, atol: float) -> None:
    """Raise ValueError or TypeError unless they are finite, positive, and one of them can be met."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        require(0 < real_number(name, value) < math.inf, f"a finite {name} > 0, got {name}={value}")
    require(max(rtol, atol) >= FINEST, f"rtol or atol of at least {FINEST:g}, got rtol={rtol}, atol={atol}")


@dataclass(frozen=True)
class PerSampleRunner(ABC):
    """A solver whose samples each go through the times by steps of their own.

    Its ``run`` returns the statistic "outcome", an :class:`~scoresolve.outcome.Outcome`; it looks after answers that
    are not finite itself.

    Attributes:
        times: where it starts, where it ends, and between them the times of a trajectory.
        rtol, atol: local tolerances.
        budget: the most network calls that a sample may take part in; then its status is ``max_nfe``.
    """

    times: np.ndarray
    rtol: float
    atol: float
    budget: int = BUDGET

    nfe = None
    stochastic = False

    def __post_init__(self) -> None:
        check_tolerances(self.rtol, self.atol)

    def limited(self, nfe: int) -> Self:
        """The same with a budget of network calls."""
        return replace(self, budget=nfe)

    @abstractmethod
    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take the state from the first time to the last; ``after_step`` sees it at each time but cannot change it."""
