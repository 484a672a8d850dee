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
from .per_sample import PerSampleRunner
from .registry import Runner
from .solution import Callback, Solution, Step
from .table import Table
from .watch import Watch

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
    with tqdm(total=total, desc=course.stats["solver"], unit="call", disable=not view.progress) as bar:
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
    limit = None if alone or runner.nfe is not None else course.nfe  # a table cannot exceed its own length
    on_nonfinite = "ignore" if alone else view.on_error
    watch = Watch(on_nonfinite=on_nonfinite, limit=limit, on_call=bar.update, prompt=runner.nfe is None)
    session = model.session(watch)
    states = [x]

    def after_step(step: int, t: float, state: Tensor) -> Tensor:
        if view.callback is not None:
            changed = view.callback(Step(step, t, state, watch.calls, first))
            state = state if changed is None else _replacement(changed, state)
        if view.trajectory:
            states.append(state)
        return state

    observed = after_step if view.trajectory or view.callback is not None else None
    with torch.set_grad_enabled(view.grad):
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


def _replacement(changed: Tensor, state: Tensor) -> Tensor:
    if not isinstance(changed, Tensor) or changed.shape != state.shape or changed.dtype != state.dtype:
        got = f"{tuple(changed.shape)} {changed.dtype}" if isinstance(changed, Tensor) else type(changed).__name__
        raise ValueError(f"callback returned {got}; expected None, or a state of {tuple(state.shape)} {state.dtype}")
    return changed
