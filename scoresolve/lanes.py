"""The samples of an adaptive run that are still on their way, and what a method says of an attempted step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

from torch import Tensor

from .coordinates import Clock
from .flow import Flow


@dataclass
class Lanes:
    """Each field has a row for each sample on its way.

    Attributes: rows (which sample of the batch), z (state), u (place), h (step), error (scaled, of the last accepted
    step), nfe, bad (attempts in a row that were not finite), accepted and rejected (steps), order (of the next step);
    slopes (n, k, d), what is kept of the network; slots (n, k), where in it: the newest last step's end first, after
    the one that is free; places (n, k - 1) of those kept, newest first; filled, how many of them there are.
    """

    rows: Tensor
    z: Tensor
    u: Tensor
    h: Tensor
    error: Tensor
    nfe: Tensor
    bad: Tensor
    accepted: Tensor
    rejected: Tensor
    order: Tensor
    slopes: Tensor
    slots: Tensor
    places: Tensor
    filled: Tensor

    def take(self, index: Tensor) -> Lanes:
        """Some of them."""
        return Lanes(*(getattr(self, each.name)[index] for each in fields(self)))


@dataclass(frozen=True)
class Trial:
    """An attempted step: state and slope at its end, scaled error, what to multiply the step by, the order then."""

    z: Tensor
    slope: Tensor
    error: Tensor
    factor: Tensor
    order: Tensor


class Method(ABC):
    """How a step is attempted.

    Attributes: clock (of the coordinates it works in), calls (network calls of an attempt), first_order (of the first
    step), history (how many slopes of steps done are kept), keeps_slope (dz/du; else the network's output).
    """

    clock: Clock
    calls: int
    first_order: int
    history: int
    keeps_slope: bool = True

    @abstractmethod
    def attempt(self, flow: Flow, lanes: Lanes) -> Trial:
        """One step of every sample. Cost: ``calls`` network calls."""

    def slope(self, flow: Flow, z: Tensor, u: Tensor) -> Tensor:
        """What is kept of the network at a state. One network call."""
        return flow.slope(z, u) if self.keeps_slope else flow.output(z, u)

    @abstractmethod
    def remember(self, lanes: Lanes, slope: Tensor, accept: Tensor) -> None:
        """Keep the slope at the end of the attempts that were accepted; ``lanes.u`` is that end."""
