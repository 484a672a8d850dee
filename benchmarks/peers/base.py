"""What a peer is: a solver of another library, with its settings, asked to run on one of our problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

import scoresolve as ss

from ..problems import Problem
from . import grids
from .noise import Drawn, Noise


class TooFewCallsError(ValueError):
    """The budget is below the cost of the peer's shortest run."""


class Network:
    """The problem's network as a peer sees it; every call is counted, and none is made beyond the budget.

    A peer that thinks in noise-to-signal ratios asks at ``rho``; it is answered at exactly the time of our process
    where ``sigma / alpha = rho``, whatever number the peer would have told a network as its time.
    """

    def __init__(self, model: ss.ScoreModel, limit: int | None) -> None:
        self.model, self.sde, self.limit, self.calls = model, model.sde, limit, 0

    def __call__(self, x: Tensor, t: float, target: Literal["noise", "data", "v", "velocity"]) -> Tensor:
        """The prediction at a state of our own process."""
        if self.limit is not None and self.calls >= self.limit:
            raise ss.BudgetError(f"more than {self.limit} network calls")
        self.calls += 1
        output = self.model.evaluate(x, t, target)
        if not bool(torch.isfinite(output).all()):
            raise ss.NonFiniteError(f"the network's answer at t = {t:g} is not finite")
        return output

    def at_rho(self, x: Tensor, rho: float, target: Literal["noise", "data", "v"]) -> Tensor:
        """The prediction at a state of unit variance, ``x = (x_0 + rho eps) / sqrt(1 + rho^2)``."""
        t = self.time(rho)
        scale = (1 + rho**2) ** 0.5 * self.sde.alpha(t)
        if target == "v":  # v is told from noise and data by the process' own alpha and sigma
            data = self(x * scale, t, "data")
            v: Tensor = (x - data * (1 + rho**2) ** 0.5) / rho
            return v
        return self(x * scale, t, target)

    def time(self, rho: float) -> float:
        """The time of our process at that noise-to-signal ratio."""
        if rho == 0:
            return 0.0
        return min(max(float(self.sde.time(-np.log(rho))), self.model.t_eps), self.model.t_max)


@dataclass(frozen=True)
class Task:
    """One run: the network, the states at the first time, the times (of an adaptive peer: its ends), the tolerance."""

    network: Network
    start: Tensor
    times: np.ndarray
    seed: int
    nfe: int | None = None
    tolerance: float | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    @property
    def rho(self) -> Tensor:
        """The noise-to-signal ratios of the times."""
        return torch.as_tensor(self.network.sde.rho(self.times), dtype=torch.float64)


@dataclass(frozen=True)
class Peer:
    """A solver of another library with its settings.

    Attributes:
        library, solver, grid: what it is called, by parts.
        kind: "ode" or "sde".
        solve: runs a task.
        steps_for: the number of steps that a budget allows; below 1 if none.
        adaptive: whether it takes a tolerance in place of a budget.
        reaches_zero: whether it can step to noise zero. Where the process ends there, one that cannot stops at
            ``t_eps`` and spends one more call on the denoised estimate.
    """

    library: str
    solver: str
    grid: str
    kind: Literal["ode", "sde"]
    solve: Callable[[Task], Tensor]
    steps_for: Callable[[int], int] = int
    adaptive: bool = False
    reaches_zero: bool = True

    @property
    def name(self) -> str:
        """As it is asked for: ``diffusers dpmpp_2m karras``."""
        return f"{self.library} {self.solver} {self.grid}"

    def run(
        self,
        problem: Problem,
        nfe: int | None,
        start: Tensor,
        seed: int,
        tolerance: float | None = None,
        noise: Noise | None = None,
    ) -> tuple[Tensor, int]:
        """The states at the problem's last time, and the network calls made, counted where they are made.

        Raises: TooFewCallsError if not even one step fits the budget.
        """
        model, sde = problem.model, problem.model.sde
        closing = sde.sigma(model.t_min) == 0 and not self.reaches_zero
        steps = 1 if nfe is None else self.steps_for(nfe - closing)
        if steps < 1:
            raise TooFewCallsError(f"{nfe} calls are below the cost of {self.name}")
        grid = "uniform" if self.adaptive else self.grid
        times = grids.GRIDS[grid](sde, steps, model.t_max, model.t_eps if closing else model.t_min)
        network = Network(model, nfe)
        task = Task(network, start, times, seed, None if nfe is None else nfe - closing, tolerance)
        # noise is drawn by some deterministic ones, too, and multiplied by zero
        with torch.no_grad(), Drawn(seed) if noise is None else noise:
            samples = self.solve(task)
            if closing:
                samples = network(samples, model.t_eps, "data") * sde.alpha(model.t_min)
        if not bool(torch.isfinite(samples).all()):
            raise ss.NonFiniteError("the end points are not finite")
        return samples.to(start.dtype), network.calls
