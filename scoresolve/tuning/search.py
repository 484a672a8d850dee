"""The search for a table of a given number of calls: from published solvers, by descents, to the best held out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from ..errors import require
from .candidates import Candidate, Trial, diverse, tried
from .gauss_newton import Fit, begin, descend
from .lesson import Lesson
from .lifting import lift
from .shooting import Features, Shooting
from .student import Student

SCOUTS, FINALISTS = 8, 3
"""How many descents begin, and how many of them go on."""
SCOUTING, DESCENT = 6, 60
"""Steps of the first round, and of the second at most."""
SHARE, FEWEST = 0.25, 128
"""Of the starts that the first round is fitted to, and the fewest."""
Part = Literal["train", "held_out"]


@dataclass
class Purse:
    """What may be spent: samples seen by the network, and minutes.

    Attributes: rows, seconds (limits, or None), spent (rows so far).
    """

    rows: int | None = None
    seconds: float | None = None
    spent: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def open(self) -> bool:
        """Whether something is left."""
        late = self.seconds is not None and time.monotonic() - self.began > self.seconds
        return not late and (self.rows is None or self.spent < self.rows)


@dataclass(frozen=True)
class Task:
    """What tables are searched for.

    Attributes:
        lesson: starts and their ends.
        features, laws: see :class:`Shooting`.
        ends: the last and the first time. labels: the lowest and the highest time the network may be told.
        candidates: published solvers to begin from.
        purse: what may be spent.
    """

    lesson: Lesson
    features: Features
    laws: bool
    ends: tuple[float, float]
    labels: tuple[float, float]
    candidates: Sequence[Candidate]
    purse: Purse

    def shooting(self, part: Part, share: float = 1.0) -> Shooting:
        """From the starts to fit or those held out, or from the first share of them."""
        lesson, laws = self.lesson, self.laws
        starts, model = getattr(lesson, part), lesson.models[part == "held_out"]
        count = max(math.ceil(share * len(starts.x)), min(len(starts.x), FEWEST))
        rows = torch.arange(count, device=starts.x.device)
        some = starts.take(rows)
        return Shooting(
            model.take(rows, len(starts.x)), some, self.features, laws=laws, step=lesson.step, size=lesson.size
        )


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes: student (None where no descent beat the best published solver), error and median (held out), trials
    (the published solvers, the best first).
    """

    student: Student | None
    error: float
    median: float
    trials: Sequence[Trial]

    @property
    def best(self) -> Trial:
        """The best published solver, on the held-out starts."""
        return self.trials[0]


def search(task: Task, nfe: int, shorter: Student | None, tick: Callable[[], object]) -> Found:
    """A student of ``nfe`` calls.

    Every published solver is run from the held-out starts; the best of each grid, and students grown from one of a
    call less, begin a descent; the best few of them finish it. Args: ``tick`` is called after each step.
    Raises: ValueError if no published solver can be run with that many calls.
    """
    lesson = task.lesson
    trials = tried(
        lesson.models[1], task.candidates, nfe, lesson.held_out, task.features,
        laws=task.laws, ends=task.ends, batch_size=lesson.size,
    )  # fmt: skip
    require(bool(trials), f"a published solver that takes nfe={nfe} calls on this process")
    before = task.purse.spent + len(trials) * nfe * len(lesson.held_out.x)
    few, train, held_out = task.shooting("train", SHARE), task.shooting("train"), task.shooting("held_out")

    def go_on() -> bool:
        task.purse.spent = before + few.spent + train.spent + held_out.spent
        tick()
        return task.purse.open

    scouts = [begin(few, held_out, student) for student in _beginnings(task, trials, shorter)]
    scouts = [descend(few, held_out, scout, SCOUTING, go_on) for scout in scouts]
    finalists = [begin(train, held_out, scout.best) for scout in sorted(scouts, key=_promise)[:FINALISTS]]
    finished = [descend(train, held_out, fit, DESCENT, go_on) for fit in finalists]
    best = min(finished, key=_promise)
    go_on()
    if best.held_out >= trials[0].error:
        return Found(None, trials[0].error, trials[0].median, trials)
    error, median = held_out.errors(best.best)
    return Found(best.best, error, median, trials)


def _promise(fit: Fit) -> float:
    return fit.held_out


def _beginnings(task: Task, trials: Sequence[Trial], shorter: Student | None) -> list[Student]:
    sde = task.lesson.models[0].sde
    scouts = diverse([trial for trial in trials if trial.error < float("inf")], SCOUTS)
    students = [lift(trial.table, sde, task.labels) for trial in scouts]
    if shorter is not None:
        gaps = -torch.diff(torch.tensor([*shorter.places, shorter.last_place]))
        students += [shorter.grown(int(call)) for call in gaps.topk(min(2, len(gaps))).indices]
    return students
