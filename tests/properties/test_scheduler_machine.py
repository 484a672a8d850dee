"""A state machine on the stepping interface: whatever is done to schedulers, they give ss.sample's numbers.

Runs are begun, stepped in turns, copied and pickled half way, edited, disturbed by errors, begun anew in the middle and
with other batches; the reference model of a run is what it takes to ask ``ss.sample`` for the same.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule
from oracles import TABLES
from strategies import normal, pointwise
from torch import Tensor

import scoresolve as ss

pytest.importorskip("diffusers")
from scoresolve.integrations.diffusers import ScoreSolveScheduler

SDE = ss.DiscreteVPSDE.linear()
NAMES = [info.name for info in TABLES]
HISTORY = ["dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "er_sde_3", "sosra", "seeds_3"]
"""Those of the most state: outputs of earlier steps beside noise."""
solvers = st.one_of(st.sampled_from(HISTORY), st.sampled_from(NAMES))


def net(x: Tensor, label: Tensor) -> Tensor:
    return pointwise(x, label.expand(len(x)) / 1000)


def generator(number: int) -> torch.Generator:
    """What a pipeline draws call ``number`` from."""
    return torch.Generator().manual_seed(number)


class Drawn:
    """The same as a source of noise."""

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """Draw ``index``."""
        return torch.randn(like.shape, generator=generator(index), dtype=like.dtype)


@dataclass
class Run:
    """A scheduler, where its loop stands, and what ss.sample must be asked for the same."""

    scheduler: ScoreSolveScheduler
    solver: str
    steps: int
    start: Tensor
    x: Tensor
    number: int = 0
    edits: dict[int, float] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether all calls have been made."""
        return self.number == len(self.scheduler.timesteps)

    @property
    def finished_steps(self) -> int | None:
        """How many steps are done; None within one."""
        rows = self.scheduler.table.rows[: self.number]
        return sum(row.s is not None for row in rows) if not rows or rows[-1].s is not None else None

    def answer(self) -> Tensor:
        """What the network says."""
        return net(self.x, self.scheduler.timesteps[self.number])

    def step(self, **how: Any) -> None:
        """One call further."""
        asked = {"generator": generator(self.number), **how}
        self.x = self.scheduler.step(self.answer(), self.scheduler.timesteps[self.number], self.x, **asked).prev_sample
        self.number += 1

    def check(self) -> None:
        """Go to the end, and compare."""
        while not self.done:
            self.step()
        model = ss.ScoreModel(net, SDE, predicts="noise", time="fractional_index")

        def edit(step: ss.Step) -> Tensor | None:
            return step.x + self.edits[step.index] if step.index in self.edits else None

        how = {"start": self.start, "solver": self.solver, "steps": self.steps, "noise": Drawn(), "callback": edit}
        expected = ss.sample(model, **how).samples
        assert float((self.x - expected).abs().max()) < 1e-5 * (1 + float(expected.abs().max()))  # labels are float32


class SchedulerMachine(RuleBasedStateMachine):
    """Rules on schedulers; every run is taken to its end when the machine stops."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Run] = []

    def begun(self, scheduler: ScoreSolveScheduler, solver: str, steps: int, batch: int) -> Run:
        scheduler.set_timesteps(steps)
        start = normal(batch, 3, seed=batch)
        self.all.append(Run(scheduler, solver, steps, start, start.clone()))
        return self.all[-1]

    @rule(target=runs, solver=solvers, steps=st.integers(1, 6), batch=st.integers(1, 3))
    def begin(self, solver: str, steps: int, batch: int) -> Run:
        return self.begun(ScoreSolveScheduler(solver=solver), solver, steps, batch)

    @rule(run=runs, calls=st.integers(1, 3))
    def step(self, run: Run, calls: int) -> None:
        for _ in range(calls):
            if not run.done:
                run.step()

    @rule(target=runs, run=runs, copied=st.sampled_from([copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]))
    def fork(self, run: Run, copied: Callable[[Any], Any]) -> Any:
        other = replace(run, scheduler=copied(run.scheduler), x=run.x.clone(), edits=dict(run.edits))
        self.all.append(other)
        return multiple(other)

    @rule(target=runs, run=runs, batch=st.integers(1, 3))
    def saved_and_loaded(self, run: Run, batch: int) -> Run:
        config = json.loads(run.scheduler.to_json_string())
        return self.begun(ScoreSolveScheduler.from_config(config), run.solver, run.steps, batch)

    @rule(run=runs, shift=st.sampled_from([0.25, -1.0]))
    def edit(self, run: Run, shift: float) -> None:
        """What a pipeline does to the sample between two steps, in place or not."""
        at = run.finished_steps
        if at and not run.done:
            run.x = run.x.add_(shift) if shift > 0 else run.x + shift
            run.edits[at] = run.edits.get(at, 0.0) + shift

    @rule(run=runs)
    def fail(self, run: Run) -> None:
        """Errors at a step, one after the other: the same step can be taken again."""
        if run.done:
            return
        t, x, out, own = run.scheduler.timesteps[run.number], run.x, run.answer(), generator(run.number)
        wrong: list[tuple[Any, Any, Any, Any]] = [(out[:, :2], t, x, own), (None, t, x, own)]
        if run.number:
            wrong += [(torch.cat([out, out]), t, torch.cat([x, x]), own)]
        if float((t - run.scheduler.timesteps[0]).abs()) > 100:
            wrong += [(out, run.scheduler.timesteps[0], x, own)]
        for output, timestep, sample, source in wrong:
            with pytest.raises((ss.NetworkOutputError, ValueError)):
                run.scheduler.step(output, timestep, sample, generator=source)
        if run.scheduler.table.rows[run.number].draws:
            with pytest.raises(AttributeError):  # torch's, of what is no generator
                run.scheduler.step(out, t, x, generator="none")
        self.step(run, 1)

    @rule(target=runs, run=runs, steps=st.integers(1, 5), batch=st.integers(1, 3))
    def begin_anew(self, run: Run, steps: int, batch: int) -> Run:
        """A second loop in the middle of the first, on the same scheduler; the first is over."""
        self.all.remove(run) if run in self.all else None
        scheduler, solver = run.scheduler, run.solver
        run.scheduler = ScoreSolveScheduler(solver=solver)
        run.scheduler.set_timesteps(run.steps)
        run.x, run.number, run.edits = run.start.clone(), 0, {}
        self.all.append(run)
        return self.begun(scheduler, solver, steps, batch)

    @rule(run=runs)
    def over(self, run: Run) -> None:
        if run.done:
            with pytest.raises(ValueError, match="the run is over"):
                run.scheduler.step(run.x, 0, run.x)

    def teardown(self) -> None:
        for run in self.all:
            run.check()


SchedulerMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=12)
TestScheduler = SchedulerMachine.TestCase
