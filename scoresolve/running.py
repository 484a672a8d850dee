"""One run of a solver: the network watched, the states on the way gathered, the samples that fail told apart.

With a batch size it is a run of each chunk (``chunks.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .augmented import AugmentedRunner
from .chunks import chunks_of, divisible, join
from .correctors import PredictorCorrector
from .errors import ScoreSolveError, unknown, whole_number
from .graphs import CapturedRunner
from .guidance import Rowwise
from .model import ScoreModel
from .noise import NoiseSource
from .outcome import Outcome
from .parallel import ParallelRunner
from .per_sample import BUDGET, PerSampleRunner
from .registry import Runner
from .solution import Callback, Solution, Step
from .table import Table
from .watch import Watch, autocast_of, lent, version_of, without_autocast

OnError = Literal["raise", "mask"]


@dataclass(frozen=True)
class View:
    """What is shown and kept of a run."""

    trajectory: bool
    callback: Callback | None
    progress: bool
    grad: bool
    on_error: OnError = "raise"
    denoise: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise ValueError(unknown("on_error", self.on_error, get_args(OnError)))
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback must be a function of a Step, got {type(self.callback).__name__}")
        if self.batch_size is not None:
            whole_number("batch_size", self.batch_size)

    def take(self, rows: Tensor, batch: int) -> View:
        """That of some samples of a batch: a callback with a row for each sample keeps these rows only."""
        divided = isinstance(self.callback, Rowwise)
        return replace(self, callback=self.callback.take(rows, batch)) if divided else self  # type: ignore[union-attr]


@dataclass(frozen=True)
class Course:
    """What is run: a runner between times, with a budget of network calls for those that have no number of their own;
    stats, what is known of it beforehand, "solver" among it."""

    runner: Runner
    times: np.ndarray
    nfe: int | None
    stats: dict[str, Any]


def solve(model: ScoreModel, x: Tensor, noise: NoiseSource, course: Course, view: View) -> Solution:
    """Run, one chunk of the samples after the other. Raises: as the runs do, with a note of which chunk it was."""
    chunks, calls = chunks_of(len(x), view.batch_size), course.runner.nfe
    total = None if calls is None else len(chunks) * (calls + view.denoise)
    bar = tqdm(total=total, desc=course.stats["solver"], unit="call", disable=not view.progress)
    with torch.set_grad_enabled(view.grad), bar:
        if len(chunks) == 1:
            return _run(model, x, noise, course, view, bar)
        parts, source = [], divisible(noise)
        for chunk in chunks:
            rows = torch.arange(chunk.start, chunk.stop, device=x.device)
            seen, asked, own = view.take(rows, len(x)), model.take(rows, len(x)), source.take(rows)
            try:
                part = _run(asked, x[chunk.start : chunk.stop], own, course, seen, bar, chunk.start)
            except ScoreSolveError as error:
                error.add_note(f"samples {chunk.start} to {chunk.stop - 1} went together, and are counted from 0 here")
                raise
            parts.append(part)
        return join(parts, chunks)


def _run(
    model: ScoreModel, x: Tensor, noise: NoiseSource, course: Course, view: View, bar: tqdm[Any], first: int = 0
) -> Solution:
    """Run, watching the network; gather the states on the way. first: where in the batch the samples begin."""
    runner, times = course.runner, course.times
    inner = runner.inner if isinstance(runner, AugmentedRunner) else runner
    alone = isinstance(inner, PerSampleRunner | ParallelRunner)  # looks after budget and failures of each sample itself
    shared = runner.nfe is None and not alone  # one step size for all samples: nothing is left of any without one
    limit = (course.nfe or BUDGET) if shared else None  # a table cannot exceed its own length
    on_nonfinite = "ignore" if alone else "raise" if shared else view.on_error
    watch = Watch(on_nonfinite=on_nonfinite, limit=limit, on_call=bar.update, prompt=runner.nfe is None)
    session = model.session(watch)
    watch.casts = autocast_of(x.device.type)
    states = [x]

    def after_step(step: int, t: float, state: Tensor) -> Tensor:
        if view.callback is not None:
            seen = _shown(view.callback, Step(step, t, lent(state), watch.calls, first, model.sde), state)
            if seen is not state:
                watch.check_finite(seen, t, "the callback returned")
            state = seen
        if view.trajectory:
            states.append(state)
        return state

    observed = after_step if view.trajectory or view.callback is not None else None
    with without_autocast(x.device.type):
        final, own = runner.run(session, x, noise, observed)
        if view.denoise:
            final = session.data(final, float(times[-1])).clone()  # a network may write its next answer over this one
        outcome = own.pop("outcome", None)
        if outcome is None:
            outcome = _ended(watch, final, float(times[-1]), view)
        elif view.denoise:
            outcome.nfe.add_(1)
        outcome = outcome.with_end(final, float(times[-1]))  # the last call of the network may be beyond all steps
        density = own.pop("density", None)
        if view.on_error == "raise":
            outcome.require_ok()
        elif outcome.failures:
            final = torch.where(outcome.ok.to(final.device).reshape(-1, *[1] * (final.ndim - 1)), final, math.nan)
            density = density and density.where(outcome.ok)
    table = inner.table if isinstance(inner, PredictorCorrector | ParallelRunner | CapturedRunner) else inner
    return Solution(
        samples=final,
        nfe=watch.calls,
        times=table.times if isinstance(table, Table) else times,
        trajectory=torch.stack(states) if view.trajectory else None,
        table=table if isinstance(table, Table) else None,
        outcome=outcome,
        dense=own.pop("dense", None),
        density=density,
        stats={**course.stats, "network_rows": watch.rows, **own},
    )


def _ended(watch: Watch, final: Tensor, end: float, view: View) -> Outcome:
    """The outcome of samples that went together. Raises NonFiniteError if they are not to be masked."""
    if view.on_error == "raise":
        watch.close(final.detach())
    return Outcome.of_calls(len(final), watch.calls, end, watch.failed_at(len(final)))


def _shown(callback: Callback, step: Step, state: Tensor) -> Tensor:
    """The state after the callback has seen it. Raises: ValueError if it gives back or does what it must not."""
    version = version_of(step.x)
    try:
        changed = callback(step)
    except BaseException as error:
        error.add_note(f"raised by the callback at step {step.index}, t = {step.time:.6g}")
        raise
    if version_of(step.x) != version:
        raise ValueError(
            f"the callback wrote into the state it was shown (step {step.index}, t = {step.time:.6g}): "
            "have it return a changed one, such as step.x.clamp(-1, 1)"
        )
    return state if changed is None or changed is step.x else _replacement(changed, state)


def _replacement(changed: Tensor, state: Tensor) -> Tensor:
    """What a callback gave back in place of the state; a copy, as it may write over it later."""
    if not isinstance(changed, Tensor) or _kind(changed) != _kind(state):
        got = type(changed).__name__ if not isinstance(changed, Tensor) else "{} {} on {}".format(*_kind(changed))
        expected = "{} {} on {}".format(*_kind(state))
        raise ValueError(f"callback returned {got}; expected None, or a state of {expected}")
    return changed.clone()


def _kind(x: Tensor) -> tuple[object, ...]:
    return tuple(x.shape), x.dtype, x.device, x.layout
