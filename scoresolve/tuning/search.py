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

ROUNDS = ((12, 6, 0.25), (6, 14, 0.25), (3, 60, 1.0))
"""(how many descents, steps at most, share of the starts to fit) of each round; the best held out go on."""
FEWEST = 128
"""Starts to fit, however small the share."""
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
    _asked: float = math.inf
    _longest: float = 0.0

    def open(self) -> bool:
        """Whether something is left, and time enough for what took longest between two such questions."""
        now = time.monotonic()
        self._longest, self._asked = max(self._longest, now - self._asked), now
        late = self.seconds is not None and now + self._longest > self.began + self.seconds
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


def search(task: Task, nfe: int, more: Sequence[Student], tick: Callable[[], object]) -> Found:
    """A student of ``nfe`` calls.

    Every published solver is run from the held-out starts; the best of each grid, and whatever students are given
    ``more``, begin a descent; the best few of them finish it. ``tick`` is called after each step.
    Raises: ValueError if no published solver can be run with that many calls.
    """
    lesson = task.lesson
    trials = tried(
        lesson.models[1], task.candidates, nfe, lesson.held_out, task.features,
        laws=task.laws, ends=task.ends, batch_size=lesson.size,
    )  # fmt: skip
    require(bool(trials), f"a published solver that takes nfe={nfe} calls on this process")
    before = task.purse.spent + len(trials) * nfe * len(lesson.held_out.x)
    held_out = task.shooting("held_out")
    fitted = [task.shooting("train", share) for _, _, share in ROUNDS]

    def go_on() -> bool:
        task.purse.spent = before + held_out.spent + sum(train.spent for train in fitted)
        tick()
        return task.purse.open()

    students = [*more, *_lifted(task, trials)]
    go_on()
    for train, (count, steps, _) in zip(fitted, ROUNDS, strict=True):
        fits = [descend(train, held_out, begin(train, held_out, student), steps, go_on) for student in students[:count]]
        students = [fit.best for fit in sorted(fits, key=_promise)]
    best = min(fits, key=_promise)
    go_on()
    if best.held_out >= trials[0].error:
        return Found(None, trials[0].error, trials[0].median, trials)
    error, median = held_out.errors(best.best)
    return Found(best.best, error, median, trials)


def _promise(fit: Fit) -> float:
    return fit.held_out


def _lifted(task: Task, trials: Sequence[Trial]) -> list[Student]:
    scouts = diverse([trial for trial in trials if math.isfinite(trial.error)], ROUNDS[0][0])
    return [lift(trial.table, task.lesson.models[0].sde, task.labels) for trial in scouts]


def grown(shorter: Student, count: int = 2) -> list[Student]:
    """Students of one call more, with the new one in the widest gaps between the times told: as good to begin with."""
    gaps = -torch.diff(torch.tensor([*shorter.places, shorter.last_place]))
    return [shorter.grown(int(call)) for call in gaps.topk(min(count, len(gaps))).indices]
