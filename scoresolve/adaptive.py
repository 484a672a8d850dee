r"""Adaptive steps on the probability flow, each sample for itself.

All samples of the batch attempt a step together, each from its own place with its own step; each accepts or rejects by
its own error, and those that have arrived or failed leave the batch, so that the network never works on them. Nothing
of a sample enters another's numbers. Two kinds of methods fill in the attempt: embedded pairs (``pairs.py``) and Adams'
predictor-corrector of variable order (``adams.py``). Both end an attempt with the slope at its end, which is the first
of the next: the network is asked once at the start and then only inside attempts.

Tolerances are local, on ``z = x / (alpha + sigma)``, that is in units of data of unit variance at every time: a step is
accepted if the root mean square of ``error / (atol + rtol |z|)`` over a sample's elements is at most one. With the
error estimated for the lower order and the higher one kept, the error at the end is of the size of the tolerance.

One value is read from the device at each attempt: which samples go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .coordinates import coordinates
from .dense import DenseOutput, Recorder
from .errors import require
from .flow import Flow
from .forms import sde_step
from .lanes import Lanes, Method, Trial
from .model import ScoreModel
from .noise import NoiseSource
from .outcome import MAX_NFE, NONFINITE, OK, STEP_UNDERFLOW, Outcome
from .per_sample import ADAPTIVE, PerSampleRunner
from .sde import SDE
from .table import AfterStep, Stats, only_shown

SMALLEST = 1e-10
"""The smallest step, as a share of the whole interval."""
PATIENCE = 12
"""How many attempts in a row may give NaN or infinity before a sample is given up."""
FIRST_STEP, FIRST_TOLERANCE = 0.05, 1e-3
"""The first step tried, as a share of the whole interval, and the tolerance for which it is."""
_RUNNING = -1
_READ = ("rows", "z", "u", "nfe", "accepted", "rejected")
"""What is kept of the samples that leave: their slopes are many times their states."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveFlow(PerSampleRunner):
    """An adaptive integration of the probability flow through the given times.

    A run that should end at noise zero goes to the process' ``t_eps`` and takes the denoised estimate there, one more
    call. So does one that begins at pure noise on a clock that is infinite there: its first step is of order one.

    Attributes: method; first_step (a share of the interval); dense (keep what ``Solution.at`` needs).
    """

    method: Method
    dense: bool = False

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Integrate; ``after_step`` sees the state at each time but cannot change it.

        Statistics: "outcome"; "accepted" and "rejected" steps, int64 (batch,); "dense", if that is asked for.
        """
        begin, end = self._inside(model.sde, model.t_eps)
        first, last = float(self.times[0]), float(self.times[-1])
        jumps = (first != begin) + (end != last)
        require(
            self.budget > jumps,
            f"nfe of at least {jumps + 1}, for the start and the first-order steps at the ends; got {self.budget}",
        )
        x = x if first == begin else _jump(model, x, first, begin)
        flow = Flow.of(model, self.method.clock, x, (begin, end), self.rtol, self.atol)
        between = len(self.times) > 2 and after_step is not None
        recorder = Recorder(flow) if self.dense or between else None
        z, stats = _Run(self.method, flow, (begin, end), x.device, self.budget - jumps, recorder).go(x)
        stats["outcome"].nfe.add_(jumps)
        final = (z * flow.coordinates.size(z.new_tensor(end, dtype=torch.float64)).to(z)).reshape(x.shape)
        final = final if end == last else _jump(model, final, end, last)
        dense = recorder.finished((begin, end), self.method.keeps_slope) if recorder is not None else None
        if after_step is not None:
            self._show(final, dense, after_step)
        return final, {**stats, "rtol": self.rtol, "atol": self.atol, "dense": dense if self.dense else None}

    def _inside(self, sde: SDE, t_eps: float) -> tuple[float, float]:
        """The ends of the adaptive part: away from noise zero, and where the clock asks for it from pure noise.

        At pure noise lam is infinite. From there to alpha a first-order step is off by O(alpha^2), which is left below
        the absolute tolerance. Neither step goes beyond the next of the times.
        """
        clock, times = coordinates(sde, self.method.clock), self.times.tolist()
        ends = []
        for t, following in ((times[0], times[1]), (times[-1], times[-2])):
            if sde.sigma(t) == 0:
                t = min(t_eps, following)
            elif not bool(torch.isfinite(clock.place(torch.tensor(t, dtype=torch.float64, device="cpu")))):
                t = max(sde.time(0.5 * math.log(self.atol)), following)
            ends.append(t)
        return ends[0], ends[1]

    def _show(self, final: Tensor, dense: DenseOutput | None, after_step: AfterStep) -> None:
        for step, t in enumerate(self.times[1:-1].tolist(), start=1):
            assert dense is not None
            only_shown(after_step, step, t, dense(t), ADAPTIVE)
        only_shown(after_step, len(self.times) - 1, float(self.times[-1]), final, ADAPTIVE)


def _jump(model: ScoreModel, x: Tensor, t: float, s: float) -> Tensor:
    """The first-order step from t to s; to noise zero it is the denoised estimate. One network call."""
    here, there = model.sde.points(np.array([t, s]))
    gain, of_data, _ = sde_step(here, there, 0.0)
    return gain * x + of_data * model.data(x, t)


class _Run:
    """One run of a method: the loop, and what is gathered of the samples as they leave it."""

    def __init__(
        self,
        method: Method,
        flow: Flow,
        ends: tuple[float, float],
        device: torch.device,
        budget: int,
        recorder: Recorder | None,
    ) -> None:
        self.method, self.whole, self.budget, self.recorder = method, flow, budget, recorder
        self.first, self.last = flow.coordinates.place(torch.tensor(ends, dtype=torch.float64, device=device)).unbind()
        self.span = self.last - self.first
        self.gone: list[dict[str, Tensor]] = []

    def go(self, x: Tensor) -> tuple[Tensor, Stats]:
        """The states z at the end, and how each sample ended."""
        flow, lanes, step = self.whole, self._start(x), 0
        while True:
            codes = self._codes(lanes)
            running = codes == _RUNNING
            leaving = len(running) - int(running.sum())  # the one value read from the device
            if leaving:
                first_gone = running.to(torch.uint8).argsort(stable=True)
                self._let_go(lanes, codes, first_gone[:leaving])
                lanes = lanes.take(first_gone[leaving:])
                if not len(lanes.rows):
                    return self._gathered()
                flow = self.whole.take(lanes.rows)
            flow.model.at_step(step := step + 1)
            self._move(lanes, self.method.attempt(flow, lanes))

    def _start(self, x: Tensor) -> Lanes:
        """All samples at the first place, with the network's output there and a first step."""
        flow, batch = self.whole, len(x)
        z = x.reshape(batch, -1) / flow.coordinates.size(flow.time(self.first)).to(x)
        u = self.first.expand(batch)
        count = torch.zeros(batch, dtype=torch.int64, device=x.device)
        slope = self.method.slope(flow, z, u)
        kept = self.method.history
        slopes = torch.cat([slope[:, None], z.new_zeros(batch, kept, z.shape[1])], dim=1)
        failed = ~torch.isfinite(slope).all(dim=1)
        rows = torch.arange(batch, device=x.device)
        if self.recorder is not None:
            self.recorder.add(rows, rows >= 0, u, z, slope)
        return Lanes(
            rows=rows, z=z, u=u, h=self._first_step().expand(batch), error=torch.ones_like(u), nfe=count + 1,
            bad=torch.where(failed, PATIENCE, count), accepted=count, rejected=count,
            order=count + self.method.first_order, slopes=slopes,
            slots=torch.arange(kept + 1, device=x.device).roll(1).expand(batch, kept + 1),
            places=u[:, None].expand(batch, kept), filled=count + 1,
        )  # fmt: skip

    def _first_step(self) -> Tensor:
        """A first step: a share of the interval, less for tight tolerances; if it is too long it will be rejected."""
        tightness = min(1.0, (self.whole.rtol + self.whole.atol) / FIRST_TOLERANCE)
        share = FIRST_STEP * tightness ** (1 / (self.method.first_order + 1))
        first: Tensor = self.span * share
        return first

    def _codes(self, lanes: Lanes) -> Tensor:
        """Whether each sample goes on, has arrived, or has failed and how."""
        codes = torch.full_like(lanes.bad, _RUNNING)
        codes = torch.where(lanes.nfe + self.method.calls > self.budget, MAX_NFE, codes)
        vanished = lanes.h.abs() < SMALLEST * self.span.abs()
        codes = torch.where(vanished, torch.where(lanes.bad > 0, NONFINITE, STEP_UNDERFLOW), codes)
        codes = torch.where(lanes.bad >= PATIENCE, NONFINITE, codes)
        return torch.where(lanes.u == self.last, OK, codes)

    def _move(self, lanes: Lanes, trial: Trial) -> None:
        """Take the attempt where it is accepted; set the next step."""
        with torch.no_grad():
            accept, end = trial.error <= 1, lanes.u + lanes.h
            arrived = (self.last - end).abs() <= SMALLEST * self.span.abs()
            u = torch.where(accept, torch.where(arrived, self.last, end), lanes.u)
            lanes.nfe = lanes.nfe + self.method.calls
            lanes.accepted, lanes.rejected = lanes.accepted + accept, lanes.rejected + ~accept
            lanes.bad = torch.where(torch.isfinite(trial.error), 0, lanes.bad + 1)
            lanes.error = torch.where(accept, trial.error, lanes.error)
            lanes.order, lanes.u = trial.order, u
            lanes.h = _within(lanes.h * trial.factor, self.last - u)
        lanes.z = torch.where(accept[:, None], trial.z, lanes.z)
        self.method.remember(lanes, trial.slope, accept)
        if self.recorder is not None:
            self.recorder.add(lanes.rows, accept, u, trial.z, trial.slope)

    def _let_go(self, lanes: Lanes, codes: Tensor, index: Tensor) -> None:
        """Note the samples that leave."""
        self.gone.append({name: getattr(lanes, name)[index] for name in _READ} | {"codes": codes[index]})

    def _gathered(self) -> tuple[Tensor, Stats]:
        """The samples in their order again."""
        back = torch.cat([some["rows"] for some in self.gone]).argsort()

        def whole(name: str) -> Tensor:
            return torch.cat([some[name] for some in self.gone])[back]

        times = self.whole.time(whole("u"))
        outcome = Outcome(whole("codes").cpu(), times.cpu(), whole("nfe").cpu())
        steps = {name: whole(name).cpu() for name in ("accepted", "rejected")}
        return whole("z"), {"outcome": outcome, **steps}


def _within(h: Tensor, remaining: Tensor) -> Tensor:
    """A step that ends at the end: stretched a little to reach it, or halved rather than leave a crumb."""
    share = h / torch.where(remaining == 0, 1.0, remaining)
    h = torch.where(share > 0.5, 0.5 * remaining, h)
    return torch.where(share > 0.9, remaining, h)
