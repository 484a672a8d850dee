r"""Parallel in time: a table solved for many of its rows at once, in few calls of large batches.

**A table is a triangular system.** Row r asks the network at ``y_r`` and gets ``m_r = F_r(y_r)``; everything else is
linear: with the noise given, the base states and the points asked at are

    y_r = L_r(m_0, ..., m_(r-1)) + (what start and noise give),

where L_r is what the rows above r do: commits and proposals, whether of steps, stages or older outputs. A run of the
table solves ``y = T(y)``, ``T(y)_r = L_r(F_0(y_0), ..., F_(r-1)(y_(r-1)))``, from top to bottom. Picard's iteration
solves it all at once: one *sweep* asks the network at all the points y, in one call of rows that each have a time of
their own, and then goes through the rows with these outputs, exactly. That works for every table, stochastic ones
included, since the noise of a row is a function of (seed, sample, row) and so is known before it is needed.

**It ends, and where it should.** ``T(y)_r`` depends on the points above r only. If ``y_0 ... y_r`` are the table's
own, so is ``T(y)_(r+1)``: a sweep gains at least a row, and n rows take at most n sweeps, whatever the network. Where
the outputs change little from row to row it gains many.

**When a row is done.** Its output was asked at y_r; the outputs above it now put it at T(y)_r. It is kept if, for all
rows above it and for itself,

    |T(y)_r - y_r| / sqrt(d)  <=  tolerance sigma(t_r),

that is if the point is off by a small part of the noise in it, on which scale the network's answer varies (and on
every path the same). This *front* is each sample's own: the rows above it are left as they are and not asked again,
and the window is the rows that follow it. So a sample does not depend on its batch. A row that enters the window is
asked at where it would be if the network's output no longer changed. tolerance=0 asks that the two agree to the last
bit: the samples are then the table's own, to rounding. (ParaDiGMS slides one window for all, tests the states of DDIM
and DDPM in units of the noise that a step adds, of which a deterministic solver has none, and starts new rows at the
last state.)

**Anderson's acceleration** (``anderson.py``) takes the points of the next sweep from several sweeps, each row looking
at the rows above it only, so that the system stays triangular. The front is never accelerated: n sweeps still do.

Source: Shih et al. 2023, arXiv:2305.16317 (ParaDiGMS); Tang et al. 2024, arXiv:2402.09970 (ParaTAA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .anderson import Anderson
from .draws import drawn
from .errors import real_number, require, whole_number
from .model import ScoreModel
from .noise import SOLVER, NoiseSource
from .outcome import NONFINITE, OK, Outcome
from .predictions import Prediction
from .registry import Runner
from .row import accumulate, combine
from .table import AfterStep, Stats, Table, only_shown


@dataclass(frozen=True)
class Picard:
    """Parallel in time, for ``sample(..., parallel=)``: far fewer calls, one after the other, of larger batches.

    Args:
        window: how many rows of the table are asked at once, at least 1; None for all. The network sees up to ``batch
            * window`` rows a call.
        tolerance: how far a point may be from where the outputs before it put it, in units of its noise
            (root mean square), at least 0.
        anderson: how many differences of earlier sweeps Anderson's acceleration uses; 0 for none, 1 does well.

    ``solution.nfe`` is the number of calls, one after the other (at most the table's); ``solution.stats["depth"]`` is
    the same without ``denoise=``, ``stats["evaluations"]`` int64 (batch,) how many rows of the network a sample took.
    Source: Shih et al. 2023, arXiv:2305.16317, alg. 1; Tang et al. 2024, arXiv:2402.09970, sec. 3. Raises: ValueError.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.04], [0.04]])
    >>> asked = {"start": torch.ones(4, 1, dtype=torch.float64), "solver": "ddim", "nfe": 100}
    >>> plain = ss.sample(law.model(ss.VPSDE()), **asked)
    >>> solution = ss.sample(law.model(ss.VPSDE()), **asked, parallel=ss.Picard(tolerance=1e-3, anderson=1))
    >>> solution.nfe < 30, bool((solution.samples - plain.samples).abs().max() < 1e-3)
    (True, True)
    """

    window: int | None = None
    tolerance: float = 1e-3
    anderson: int = 0

    def __post_init__(self) -> None:
        if self.window is not None:
            whole_number("window", self.window)
        whole_number("anderson", self.anderson, least=0)
        finite = 0 <= real_number("tolerance", self.tolerance) < math.inf
        require(finite, f"a finite tolerance of at least 0, got {self.tolerance}")


@dataclass(frozen=True)
class ParallelRunner:
    """A table solved by sweeps. It looks after samples that fail itself: its ``run`` returns an outcome."""

    table: Table
    picard: Picard

    nfe = None

    @classmethod
    def of(cls, runner: Runner, picard: Picard, *, grad: bool, log_prob: bool) -> ParallelRunner:
        """Raises: TypeError unless it is an ss.Picard; ValueError for what cannot be solved so."""
        if not isinstance(picard, Picard):
            raise TypeError(f"parallel must be an ss.Picard(), got {type(picard).__name__}")
        if not isinstance(runner, Table):
            raise ValueError(
                "parallel= solves for the rows of a table at once, and this run has steps that depend on the state "
                "(an adaptive solver, another library's, a corrector, Langevin): leave parallel= out, or use a solver "
                "of fixed steps without corrector="
            )
        require(not grad, "grad=True without parallel=, whose graph would hold every sweep")
        require(not log_prob, "log_prob= without parallel=; ss.log_likelihood(model, samples) gives log p afterwards")
        return cls(runner, picard)

    @property
    def stochastic(self) -> bool:
        """Whether a run uses noise."""
        return self.table.stochastic

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take the state from the first time to the last; ``after_step`` sees it at each time but cannot change it.

        Statistics: "outcome", "depth" (calls) and "evaluations" (int64 (batch,): rows of the network a sample took).
        """
        # raises where a prediction cannot be had, as the table's own run does
        model.prepare_each([row.t for row in self.table.rows], self.table.asked)
        return _Run(self, model, x, noise, after_step).result()


@dataclass(frozen=True)
class _Registers:
    """What a table's loop holds before a row; see ``row.py``."""

    x: Tensor
    y: Tensor
    outputs: tuple[Tensor, ...] = ()
    normals: tuple[Tensor | None, ...] = ()


class _Run:
    """One run. Integers and masks are on the host; lists with an entry a row begin with row ``low``.

    Attributes: front (batch,), the first row of each sample that is not done; low, the first such row of all samples;
    states, the registers before each row; points, where the network is asked; outputs, its answers; known (batch,) of
    each row, whose answers these are.
    """

    def __init__(
        self, runner: ParallelRunner, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None
    ) -> None:
        self.table, self.picard, self.model, self.noise = runner.table, runner.picard, model, noise
        self.after_step, self.x, self.batch, self.rows = after_step, x, len(x), len(runner.table.rows)
        self.kinds = self.table.asked
        first = np.array([n == 0 or self.kinds[n] != self.kinds[n - 1] for n in range(self.rows)])
        starts = np.append(np.flatnonzero(first), self.rows)
        self.ends = starts[np.searchsorted(starts, np.arange(self.rows), side="right")]  # of each row's stretch
        # of a kind of which nothing is known yet one row is asked alone: the others start from its answer
        self.reach = np.where(first, 1, self.picard.window or self.rows)
        t = np.array([row.t for row in self.table.rows])
        self.t = torch.from_numpy(t).to(x.device)
        self.sigma = torch.from_numpy(model.sde.sigma(t)).to(x)
        self.anderson = Anderson(self.picard.anderson) if self.picard.anderson else None
        self.front, self.calls, self.evaluations = (np.zeros(self.batch, dtype=np.int64) for _ in range(3))
        self.failed = np.zeros(self.batch, dtype=bool)
        self.low = self.step = self.depth = 0
        self.states = [_Registers(x, x)]
        self.points, self.outputs, self.known = [x], list[Tensor](), list[np.ndarray]()
        self.normals: dict[int, Tensor] = {}

    def result(self) -> tuple[Tensor, Stats]:
        """Sweep until every sample is done or has failed."""
        while self._running().any():
            stop = self._stop()
            rows = np.arange(self.low, stop.max())[:, None]
            asked = np.asarray((rows >= self.front) & (rows < stop))
            self._ask(asked)
            self.states = self.states[:1]
            self._follow(self.low + len(asked))
            self._move(asked, stop)
        codes = torch.from_numpy(np.where(self.failed, NONFINITE, OK))
        reached = np.where(self.failed, self.front, self.rows - 1)
        times = np.where(self.failed, self.t.cpu().numpy()[reached], self.table.times[-1])
        outcome = Outcome(codes, torch.from_numpy(times), torch.from_numpy(self.calls))
        stats = {"outcome": outcome, "depth": self.depth, "evaluations": torch.from_numpy(self.evaluations)}
        return (torch.full_like(self.x, math.nan) if self.failed.all() else self.states[-1].x), stats

    def _running(self) -> np.ndarray:
        return (self.front < self.rows) & ~self.failed

    def _stop(self) -> np.ndarray:
        """The row at which each sample's window ends; 0 for those that are done or have failed."""
        front = np.minimum(self.front, self.rows - 1)
        return np.where(self._running(), np.minimum(front + self.reach[front], self.ends[front]), 0)

    def _ask(self, asked: np.ndarray) -> None:
        """One network call (for each kind of output) at the points of these rows and samples."""
        self.model.at_step(self.step)
        while len(self.outputs) < len(asked):
            self.outputs.append(torch.zeros_like(self.x))
            self.known.append(np.zeros(self.batch, dtype=bool))
        kinds = self.kinds[self.low : self.low + len(asked)]
        for kind in dict.fromkeys(kinds):
            here = asked & np.array([[kind == each] for each in kinds])
            if here.any():
                self._call(here, kind)

    def _call(self, asked: np.ndarray, kind: Prediction) -> None:
        rows, samples = asked.nonzero()
        numbers = np.unique(rows)
        where = torch.from_numpy(np.stack([samples, rows + self.low])).to(self.x.device)
        counts = asked.sum(1)[numbers].tolist()
        which = torch.split(where[0], counts)
        y = torch.cat([self._some(self.points[n], index) for n, index in zip(numbers, which, strict=True)])
        answer = self.model.take(where[0], self.batch).evaluate(y, self.t[where[1]], kind)
        for number, index, part in zip(numbers, which, torch.split(answer, counts), strict=True):
            whole = len(index) == self.batch
            self.outputs[number] = part if whole else self.outputs[number].index_copy(0, index, part)
            self.known[number] = self.known[number] | asked[number]
        self.depth += 1
        self.calls += asked.any(axis=0)
        self.evaluations += asked.sum(axis=0)

    def _some(self, x: Tensor, index: Tensor) -> Tensor:
        return x if len(index) == self.batch else x[index]

    # -- the rows, with the outputs given -------------------------------------------------------------------------

    def _follow(self, end: int) -> None:
        """Go through the rows up to ``end``: the registers before each of them."""
        table, kept = self.table, max(row.normals for row in self.table.rows)
        while self.low + len(self.states) <= end:
            at, number = self.states[-1], self.low + len(self.states) - 1
            row = table.rows[number]
            outputs = (self._output(number, at), *at.outputs)[: table.history]
            normals = (self._normal(number), *at.normals)[:kept] if row.normals else at.normals
            moved = combine(row.commit, at.x, outputs)
            x = accumulate(moved, row.noise, normals, fresh=moved is not at.x)
            y = combine(row.propose, x, outputs)
            y = accumulate(y, row.propose_noise, normals, fresh=y is not x)
            self.states.append(_Registers(x, y, outputs, normals))

    def _output(self, number: int, at: _Registers) -> Tensor:
        """The output of a row; of samples that were not asked about it yet, that of the row before."""
        place = number - self.low
        if place >= len(self.outputs):
            return at.outputs[0]
        known = self.known[place]
        if known.all():
            return self.outputs[place]
        mask = torch.from_numpy(known).to(self.x.device).reshape(-1, *[1] * (self.x.ndim - 1))
        return torch.where(mask, self.outputs[place], at.outputs[0])

    def _normal(self, number: int) -> Tensor | None:
        if self.table.rows[number].draws and number not in self.normals:
            self.normals[number] = drawn(self.noise, SOLVER, number, self.x)
        return self.normals.get(number)

    # -- the front ------------------------------------------------------------------------------------------------

    def _move(self, asked: np.ndarray, stop: np.ndarray) -> None:
        """Move each sample's front over the rows that are done, and the window with it."""
        count, flat = len(asked), (self.batch, -1)
        images = [state.y for state in self.states[:count]]
        residuals = [image - point for image, point in zip(images, self.points, strict=True)]
        sizes = torch.stack([residual.reshape(flat).square().mean(1) for residual in residuals]).sqrt()
        limits = self.picard.tolerance * self.sigma[self.low : self.low + count, None]
        finite = torch.stack([torch.isfinite(m.reshape(flat).sum(1)) for m in self.outputs[:count]])
        met, sound = torch.stack([sizes <= limits, finite]).cpu().numpy()  # the one thing read from the device
        rows = np.arange(self.low, self.low + count)[:, None]
        at_front = asked & (rows == self.front)
        self.failed |= (at_front & ~sound).any(axis=0)
        done = (rows <= self.front) | (met & sound & (rows < stop))
        reached = self.low + np.logical_and.accumulate(done, axis=0).sum(axis=0)
        self.front = np.where(self._running(), reached, self.front)
        running = self._running()
        ends = (self.front[running].min(), self._stop().max()) if running.any() else (self.rows, self.rows)
        low, end = map(int, ends)
        self._follow(end)
        if self.anderson is not None and running.any():
            ahead = asked & (rows > self.front)
            images = self.anderson.improved(self.low, images, residuals, self.sigma[self.low :], asked, ahead)
        self.points = [*images[: end - self.low], *(state.y for state in self.states[count : end - self.low])]
        self._drop(low)

    def _drop(self, low: int) -> None:
        """Forget the rows that all samples are done with, once they have been shown."""
        gone = low - self.low
        for row, state in zip(self.table.rows[self.low : low], self.states[1:], strict=False):
            if row.s is not None:
                self.step += 1
                if self.after_step is not None:
                    only_shown(self.after_step, self.step, row.s, state.x, "a run that is parallel in time")
        for each in (self.points, self.outputs, self.known, self.states):
            del each[:gone]
        self.normals = {number: z for number, z in self.normals.items() if number >= low}
        self.low = low
