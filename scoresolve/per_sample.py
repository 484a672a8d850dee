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
    budget: int = 10_000

    nfe = None
    stochastic = False

    def __post_init__(self) -> None:
        require(0 < real_number("rtol", self.rtol) < math.inf, f"a finite rtol > 0, got rtol={self.rtol}")
        require(0 < real_number("atol", self.atol) < math.inf, f"a finite atol > 0, got atol={self.atol}")

    def limited(self, nfe: int) -> Self:
        """The same with a budget of network calls."""
        return replace(self, budget=nfe)

    @abstractmethod
    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take the state from the first time to the last; ``after_step`` sees it at each time but cannot change it."""
