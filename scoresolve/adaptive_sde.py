r"""Adaptive steps for the reverse SDE, each sample for itself, on a Brownian path that is kept.

A pair (``sde_pair.py``) takes a step and finds its error by the same two network calls. The controller
(``controller.py``) only says how far down the tree of ``brownian.py`` a sample goes: a node is split, without asking
the network, until it is no longer than the step proposed; if the error is too large it is split again, else the walk
goes on to the next node. So no increment is ever redrawn, and the law of the path does not know of rejections; D_1 is
kept when a step is tried again, so that a retry costs one call. The roots of the trees are the longest steps: equal
parts of the intervals between the times asked for.

In one round every sample on the way is asked about once, at a time of its own: some about D_1, some about D_2. Hence
the calls of a run are those of its slowest sample, and samples that have arrived or failed are seen by the network no
more. What decides is on the host: one number a sample is read back in a round that ends a step.

Where there is no signal at the start (alpha = 0, but for rounding) the clocks are infinite: the first-order step goes
to the time at which the signal is as weak as the noise is at ``t_eps``. To noise zero: to ``t_eps``, then the denoised
estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from .brownian import DEPTH, BrownianWalk
from .draws import drawn
from .forms import sde_step
from .model import ScoreModel
from .noise import PATH, NoiseSource, PathSource
from .outcome import MAX_NFE, NONFINITE, OK, STEP_UNDERFLOW, Outcome
from .per_sample import ADAPTIVE, PerSampleRunner
from .sde import SDE
from .sde_pair import CALLS, Numbers, Pair
from .table import AfterStep, Stats, only_shown

NO_SIGNAL = -16.0
"""lam of a signal lost in float32's rounding of the noise."""
SLACK = 1 + 1e-9
"""What a step may exceed the one proposed by: twice a node's length is that of its parent, but for rounding."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveSDE(PerSampleRunner):
    """A pair, run with steps of each sample's own. Attributes: pair; nodes (whether accepted steps are noted)."""

    pair: Pair
    nodes: bool = False

    stochastic = True

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take the state from the first time to the last; ``after_step`` sees it at each time but cannot change it.

        Statistics: "outcome"; "accepted" and "rejected" steps, int64 (batch,); "nodes", if they are noted, in the order
        of acceptance, int64 (steps, 3): sample, number of the node in the tree of ``brownian.py``, its level.
        Raises: TypeError for a source of noise whose paths cannot be refined.
        """
        if not isinstance(noise, PathSource):
            raise TypeError(
                f"an adaptive SDE solver refines its Brownian path, noise={type(noise).__name__} cannot: expected "
                "draw(stream, index, like) for an int64 tensor of indices, and take(rows); leave noise= out, or use a "
                "solver of fixed steps"
            )
        return _Run(self, model, x, noise, after_step).result()


@dataclass
class _Samples:
    """The n samples still on the way. All is on the host but x, drift and low, which are (n, d)."""

    rows: Tensor  # which of the batch
    x: Tensor
    drift: Tensor  # D_1, where it is known
    low: Tensor  # what the step of lower order gave at x
    second: Tensor  # whether D_1 is known, so that D_2 is asked for
    step: Tensor  # the length that the controller proposes
    finite: Tensor  # whether the last error was

    def keep(self, chosen: Tensor) -> None:
        """Forget all samples but these."""
        for name, value in vars(self).items():
            setattr(self, name, value[chosen.to(value.device)])


class _Run:
    """One run: what became of all samples, and those on the way."""

    def __init__(
        self, runner: AdaptiveSDE, model: ScoreModel, x: Tensor, noise: PathSource, after_step: AfterStep | None
    ) -> None:
        self.pair, self.runner, self.after_step = runner.pair, runner, after_step
        self.model = self.asked = model
        self.times, self.shape, batch = runner.times.tolist(), x.shape, len(x)
        jump, self.stops, self.closing = _stops(model.sde, self.times, model.t_eps)
        self.nfe, self.accepted, self.rejected = (torch.zeros(batch, dtype=torch.int64, device="cpu") for _ in range(3))
        self.codes = torch.full((batch,), OK, device="cpu")
        self.stood = torch.full((batch,), self.times[-1], dtype=torch.float64, device="cpu")
        self.nodes: list[Tensor] = []
        start = x.reshape(batch, -1)
        if jump:
            start = self._first_signal(start, noise)
        self.final = start
        asked = self.times[1:-1] if after_step is not None else []
        self.between = {t: start if t == self.stops[0] else torch.full_like(start, math.nan) for t in asked}
        edges, at = _roots(
            self.pair.place(torch.tensor(self.stops, dtype=torch.float64, device="cpu")), self.pair.longest
        )
        self.asked_at = {at[self.stops.index(t)]: t for t in asked}  # edge -> time
        self.walk = BrownianWalk(noise, edges, self.pair.share, start, self.pair.integrals)
        step = torch.full((batch,), self.pair.first, dtype=torch.float64, device="cpu")
        no = torch.zeros(batch, dtype=torch.bool, device="cpu")
        self.way = _Samples(
            torch.arange(batch, device="cpu"), start, torch.zeros_like(start), start.detach(), no, step, ~no
        )

    def result(self) -> tuple[Tensor, Stats]:
        """Go on until no sample is on the way."""
        for number in count():
            self.model.at_step(number)
            self._retire(~self.walk.active(), OK)
            self._fit()
            needs = CALLS - self.way.second.long() + self.closing
            self._retire(self.nfe[self.way.rows] + needs > self.runner.budget, MAX_NFE)
            if not len(self.way.rows):
                break
            self._round()
        if self.closing:
            self._denoise()
        final = self.final.reshape(self.shape)
        if self.after_step is not None:
            self.between[self.times[-1]] = final
            for number, t in enumerate(self.times[1:], start=1):
                only_shown(self.after_step, number, t, self.between[t].reshape(self.shape), ADAPTIVE)
        noted = {"nodes": torch.cat(self.nodes)} if self.nodes else {}
        outcome = Outcome(self.codes, self.stood, self.nfe)
        return final, {"outcome": outcome, "accepted": self.accepted, "rejected": self.rejected, **noted}

    # -- a round --------------------------------------------------------------------------------------------------

    def _fit(self) -> None:
        """Split the nodes that are longer than the step proposed."""
        while True:
            a, b = self.walk.ends()
            deep = (b - a > self.way.step * SLACK) & (self.walk.level >= DEPTH)
            self._retire(deep, torch.where(self.way.finite, STEP_UNDERFLOW, NONFINITE))
            a, b = self.walk.ends()
            rows = (b - a > self.way.step * SLACK).nonzero().flatten()
            if not len(rows):
                return
            self.walk.split(rows)

    def _round(self) -> None:
        """Ask the network once about each sample on the way; end the steps that have both answers."""
        way, (a, b) = self.way, self.walk.ends()
        if not bool(way.second.any()):
            way.drift, way.second = self._ask(way.x, self._time(a)), ~way.second
            return
        weights, second = self.pair.weights(a, b), _column(way.second, way.x)
        t = torch.where(way.second, weights.stage.clamp(self.times[-1], self.times[0]), self._time(a))
        answer = self._ask(torch.where(second, self._combine(weights.propose), way.x), t)
        end = self._combine(weights.commit, answer)
        error = self._combine(weights.error, answer).detach()
        good, lost = self._judge(end, error, b - a)
        chosen = _column(good, end)
        way.x, way.low = torch.where(chosen, end, way.x), torch.where(chosen, end.detach() - error, way.low)
        way.drift, way.second = torch.where(second, way.drift, answer), ~good
        self._advance(good)
        self._retire(lost, NONFINITE)

    def _ask(self, y: Tensor, t: Tensor) -> Tensor:
        self.nfe[self.way.rows] += 1
        return self.asked.data(y.reshape(-1, *self.shape[1:]), t).reshape(y.shape)

    def _judge(self, end: Tensor, error: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Which samples' steps are good, and which samples are lost; sets the steps to try next."""
        way, runner = self.way, self.runner
        scaled = self.pair.scaled(error, way.x.detach(), end.detach(), way.low, runner.rtol, runner.atol)
        healthy = torch.isfinite(way.drift).all(dim=1)
        scaled = torch.where(healthy, scaled, math.nan).cpu()  # the one thing that is read from the device
        tried = way.second
        good, lost = tried & (scaled <= 1), tried & torch.isnan(scaled)
        factor = self.pair.controller.factor(scaled, torch.ones_like(scaled), self.pair.order)
        way.step = torch.where(tried, size * factor, way.step)
        way.finite = torch.where(tried, torch.isfinite(scaled), way.finite)
        self.accepted[way.rows] += good
        self.rejected[way.rows] += tried & ~good
        return good, lost

    def _advance(self, good: Tensor) -> None:
        """Go on from the nodes whose steps are good, noting them and the states at the stops."""
        rows, walk = good.nonzero().flatten(), self.walk
        if self.runner.nodes:
            self.nodes.append(torch.stack([self.way.rows[rows], walk.node[rows], walk.level[rows]], dim=1))
        walk.advance(rows)
        edge = torch.where(good, walk.at_edge(), -1)
        for number in set(edge.tolist()) & self.asked_at.keys():
            t = self.asked_at[number]
            self.between[t] = self._put(self.between[t], (edge == number).nonzero().flatten())

    def _combine(self, weights: Numbers, answer: Tensor | None = None) -> Tensor:
        """The registers times their weights."""
        noise = self.walk.increments
        registers = (self.way.x, self.way.drift, answer, noise[:, 0], noise[:, -1])
        used = [(w, r) for w, r in zip(weights, registers, strict=True) if w is not None and r is not None]
        columns = torch.stack([w for w, _ in used]).to(device=noise.device, dtype=noise.dtype)[:, :, None]
        total = columns[0] * used[0][1]
        for column, (_, register) in zip(columns[1:], used[1:], strict=True):
            total = torch.addcmul(total, column, register)
        return total

    # -- the beginning and the end --------------------------------------------------------------------------------

    def _first_signal(self, x: Tensor, noise: PathSource) -> Tensor:
        """The first-order step from a time without signal."""
        here, there = self.model.sde.points(np.array([self.times[0], self.stops[0]]))
        gain, of_data, deviation = sde_step(here, there, self.pair.eta)
        data = self.model.data(x.reshape(self.shape), here.t).reshape(x.shape)
        self.nfe += 1
        return gain * x + of_data * data + deviation * drawn(noise, PATH, 0, x)

    def _denoise(self) -> None:
        """From the last stop to noise zero, the samples that got there."""
        rows = (self.codes == OK).nonzero().flatten()
        if len(rows):
            there = rows.to(self.final.device)
            x = self.final[there].reshape(-1, *self.shape[1:])
            data = self.model.take(rows, len(self.codes)).data(x, self.stops[-1]).reshape(len(rows), -1)
            self.final = self.final.index_copy(0, there, data * self.model.sde.alpha(self.times[-1]))
            self.nfe[rows] += 1

    def _retire(self, which: Tensor, code: int | Tensor) -> None:
        """Let samples go, with the code of their end."""
        if not bool(which.any()):
            return
        gone, way = which.nonzero().flatten(), self.way
        rows = way.rows[gone]
        self.codes[rows] = torch.as_tensor(code, device="cpu").expand(len(which))[gone]
        failed = rows[self.codes[rows] != OK]
        if len(failed):
            self.stood[rows] = self._time(self.walk.ends()[0][gone])
        self.final = self._put(self.final, gone)
        way.keep(chosen := (~which).nonzero().flatten())
        self.walk.keep(chosen)
        self.asked = self.model.take(way.rows, len(self.codes))

    def _put(self, states: Tensor, chosen: Tensor) -> Tensor:
        """The states of the batch, with those of some samples on the way as they are now."""
        if not len(chosen):
            return states
        rows = self.way.rows[chosen].to(states.device)
        return states.index_copy(0, rows, self.way.x[chosen.to(states.device)])

    def _time(self, u: Tensor) -> Tensor:
        return self.pair.time(u).clamp(self.times[-1], self.times[0])


def _stops(sde: SDE, times: list[float], t_eps: float) -> tuple[bool, list[float], bool]:
    """Whether the run starts without signal, where its steps begin and end, and whether it goes on to noise zero."""
    jump, closing = sde.lam(times[0]) < NO_SIGNAL, sde.sigma(times[-1]) == 0
    stops = times[:-1] if closing else list(times)
    if closing and stops[-1] > t_eps:
        stops.append(t_eps)
    if jump:
        weak = sde.time(-abs(sde.lam(t_eps)))
        stops = stops[1:] if stops[1] >= weak else [weak, *stops[1:]]
    return jump, stops, closing


def _roots(places: Tensor, longest: float) -> tuple[Tensor, list[int]]:
    """The edges of the trees: each interval between two places in equal parts; and which edges the places are."""
    counts = (places.diff() / longest).ceil().clamp(min=1).long().tolist()
    shares = [torch.arange(count, dtype=torch.float64, device="cpu") / count for count in counts]
    parts = [torch.lerp(a, b, share) for a, b, share in zip(places[:-1], places[1:], shares, strict=True)]
    return torch.cat([*parts, places[-1:]]), [0, *np.cumsum(counts).tolist()]


def _column(mask: Tensor, beside: Tensor) -> Tensor:
    """A mask of the host as a column (n, 1) beside a state."""
    return mask.to(beside.device)[:, None]
