"""What a run gives back, and what a callback sees on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from .table import Table


@dataclass(frozen=True)
class Step:
    """What a callback sees after each step.

    Attributes: index (1 for the first), time (the state stands at), x (the state), nfe (network calls so far).
    """

    index: int
    time: float
    x: Tensor
    nfe: int


@dataclass(frozen=True)
class Solution:
    """The result of a run.

    Attributes:
        samples: the final state, shape (batch, ...).
        nfe: network calls, counted where they were made.
        times: where the state stood, float64, first to last: the grid, and the levels that a solver goes back up to.
        trajectory: the states at ``times``, shape (len(times), batch, ...), or None if it was not asked for.
        table: the table that was run, or None for a solver that is not one.
        stats: "seed", "network_rows" (samples seen by the network; guidance counts twice) and the solver's own.
    """

    samples: Tensor
    nfe: int
    times: np.ndarray
    trajectory: Tensor | None = None
    table: Table | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = tuple(self.samples.shape)
        name = self.table.solver if self.table is not None else self.stats.get("solver", "")
        ends = f"t {self.times[0]:g} -> {self.times[-1]:g}"
        return f"Solution(samples {shape} {self.samples.dtype}, nfe={self.nfe}, {name}, {ends})"


Callback: TypeAlias = Callable[[Step], Tensor | None]
