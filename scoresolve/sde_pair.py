r"""A pair of SDE steps of different order from the same two network calls: rows of numbers for each sample.

The numbers are weights, as a table has them for each call (``row.py``), of the registers

    x (the state), D_1 (the data prediction at x), D_2 (that at the stage y), W, I (of the path, see ``brownian.py``)

    y = propose . (x, D_1, W, I),    x' = commit . (x, D_1, D_2, W, I),    error = x' minus a step of lower order.

``adaptive_sde.py`` runs them; the pairs themselves are in ``solvers/adaptive_sde.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from .controller import Controller, scaled_error
from .sde import SDE

CALLS = 2
"""Network calls of a step."""
Numbers: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Weights of x, D_1, D_2, W and I; None stands for zero."""


@dataclass(frozen=True)
class Weights:
    """The numbers of a step for each sample, float64 (n,) on the host.

    Attributes: stage (the time of y); propose (makes y, without D_2); commit (makes x'); error.
    """

    stage: Tensor
    propose: Numbers
    commit: Numbers
    error: Numbers


class Pair(ABC):
    """Two steps of different order from the same network calls, on a clock u that grows as t falls.

    Attributes: sde; eta, the noise level; order, the power of the step with which the estimate grows; controller;
    first, the first step's length on the clock; integrals, whether I is used.
    """

    sde: SDE
    eta: float
    order: float
    controller: Controller
    first: float
    integrals: bool

    @property
    @abstractmethod
    def longest(self) -> float:
        """The longest step, on the clock, with which the estimate can be trusted."""

    @abstractmethod
    def place(self, t: Tensor) -> Tensor:
        """t -> u."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """u -> t."""

    @abstractmethod
    def share(self, a: Tensor, b: Tensor) -> Tensor:
        """The share of the Brownian clock that the first half of [a, b] has."""

    @abstractmethod
    def weights(self, a: Tensor, b: Tensor) -> Weights:
        """Of the step from a to b; float64 (n,)."""

    def scaled(self, error: Tensor, x: Tensor, end: Tensor, low: Tensor, rtol: float, atol: float) -> Tensor:
        """The size of the error in units of the tolerance, float64 (n,), for matrices (n, d).

        Args: x, the state before; end, after; low, what the step of lower order gave at x.
        """
        return scaled_error(error, x, end, rtol, atol)
