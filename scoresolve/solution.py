"""What a run gives back, and what a callback sees on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from .augmented import Density
from .dense import DenseOutput
from .outcome import Ended, Outcome
from .sde import SDE
from .table import Table


@dataclass(frozen=True)
class Step:
    """What a callback sees after each step.

    Attributes: index (1 for the first), time (the state stands at), x (the state), nfe (network calls so far), first
    (which sample of the batch x begins with: with ``batch_size=`` each chunk is shown by itself, from its own step 1),
    sde (the process that is sampled along, or None).
    """

    index: int
    time: float
    x: Tensor
    nfe: int
    first: int = 0
    sde: SDE | None = None


@dataclass(frozen=True)
class Solution(Ended):
    """The result of a run.

    Attributes:
        samples: the final state, shape (batch, ...).
        nfe: network calls, counted where they were made: of all chunks, with ``batch_size=``.
        times: where the state stood, float64, first to last: the grid, and the levels that a solver goes back up to.
        outcome: how each sample ended: see ``ok``, ``status``, ``failures`` and ``nfe_per_sample``.
        trajectory: the states at ``times``, shape (len(times), batch, ...), or None if it was not asked for.
        table: the table that was run, or None for a solver that is not one.
        dense: the state at any time of an adaptive run, if ``dense=True`` was asked for: see ``at``.
        density: log p along the run, if ``log_prob=`` was given: see ``log_prob``, ``log_det`` and ``standard_error``.
        stats: "seed", "network_rows" (samples seen by the network; guidance counts twice) and the solver's own.
    """

    samples: Tensor
    nfe: int
    times: np.ndarray
    outcome: Outcome
    trajectory: Tensor | None = None
    table: Table | None = None
    dense: DenseOutput | None = None
    density: Density | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)

    def at(self, t: float | Tensor) -> Tensor:
        """The state at time t of an adaptive run, between its steps as well: shape (batch, ...).

        Args: t a number or one for each sample, shape (batch,), between the first and the last time that a step began
        or ended at, or the number ``times[-1]``. A sample that failed is NaN beyond the time it reached. Cost: no
        network call; accurate to the order of the steps.
        Raises: ValueError unless the run was asked for ``dense=True``, or for times outside it.

        >>> import torch, scoresolve as ss
        >>> law, sde = ss.exact.Gaussian(torch.zeros(2), 0.25), ss.VPSDE()
        >>> start = torch.ones(1, 2, dtype=torch.float64)
        >>> solution = ss.sample(law.model(sde), start=start, solver="adaptive_abm", rtol=1e-7, atol=1e-7, dense=True)
        >>> bool((solution.at(0.3) - law.flow(sde, start, 1.0, 0.3)).abs().max() < 1e-5)
        True
        """
        if self.dense is None:
            raise ValueError("this solution was not kept between its steps: use an adaptive_* solver and dense=True")
        if not isinstance(t, Tensor) and t == self.times[-1]:  # after the steps may come a jump to noise zero
            return self.samples
        return self.dense(t)

    @property
    def log_prob(self) -> Tensor:
        """log p in nats of each sample, or of the data that was encoded, float64 (batch,), if it was asked for."""
        return self._density.log_prob

    @property
    def log_det(self) -> Tensor:
        """``log |det d(last state) / d(first state)|`` of each sample, float64 (batch,); if log p was asked for."""
        return self._density.log_det

    @property
    def standard_error(self) -> Tensor:
        """Of ``log_prob`` and ``log_det`` over the probes, float64 (batch,): zero if exact, NaN for a single probe."""
        return self._density.standard_error

    @property
    def _density(self) -> Density:
        if self.density is None:
            raise ValueError('this run had no log p: ask for it with log_prob="exact" or log_prob="hutchinson"')
        return self.density

    def __repr__(self) -> str:
        shape = tuple(self.samples.shape)
        name = self.table.solver if self.table is not None else self.stats.get("solver", "")
        ends = f"t {self.times[0]:g} -> {self.times[-1]:g}"
        lost = f", {len(self.failures)} failed" if self.failures else ""
        return f"Solution(samples {shape} {self.samples.dtype}, nfe={self.nfe}, {name}, {ends}{lost})"


Callback: TypeAlias = Callable[[Step], Tensor | None]
