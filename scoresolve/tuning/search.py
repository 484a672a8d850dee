"""The search for a table of a given number of calls: from published solvers, by descents, to the best held out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import torch

from ..errors import require
from .candidates import Candidate, Trial, diverse, tried
from .gauss_newton import CAUCHY, Fit, begin, descend
from .lesson import Lesson
from .lifting import lift
from .shooting import Features, Shooting, root_median
from .student import Student

ROUNDS = ((12, 6, 0.25), (6, 14, 0.25), (3, 60, 1.0))
"""(how many descents, steps at most, share of the starts to fit) of each round; the best held out go on."""
TAILS = 2.0
"""Root mean square over median error beyond which a few starts are taken to have most of the error."""
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

    go_on()
    students = [*more, *_lifted(task, trials)][: ROUNDS[0][0]]
    fits = [begin(held_out, student, width) for width in _widths(trials[0]) for student in students]
    for train, (count, steps, _) in zip(fitted, ROUNDS, strict=True):
        chosen = sorted(fits, key=_promise)[:count] if train is not fitted[0] else fits
        fits = [descend(train, held_out, begin(held_out, fit.best, fit.width), steps, go_on) for fit in chosen]
    best = min(fits, key=_promise)
    for width in _widths(trials[0])[1:]:  # the other cost may see a way on
        other = math.inf if best.width < math.inf else width
        best = descend(fitted[-1], held_out, begin(held_out, best.best, other), ROUNDS[1][1], go_on)
    go_on()
    if best.held_out >= trials[0].error:
        return Found(None, trials[0].error, trials[0].median, trials)
    return Found(best.best, best.held_out, root_median(held_out.squares(best.best)), trials)


def _widths(trial: Trial) -> list[float]:
    """The costs to descend by: that of Cauchy too where a few starts have most of the error."""
    return [math.inf, CAUCHY] if trial.error > TAILS * trial.median else [math.inf]


def _promise(fit: Fit) -> float:
    return fit.held_out


def _lifted(task: Task, trials: Sequence[Trial]) -> list[Student]:
    scouts = diverse([trial for trial in trials if math.isfinite(trial.error)], ROUNDS[0][0])
    found = []
    for trial in scouts:
        with suppress(ValueError):  # a point that its start hardly reaches, in a solution that runs away
            found.append(lift(trial.table, task.lesson.models[0].sde, task.labels))
    return found


def grown(shorter: Student, count: int = 2) -> list[Student]:
    """Students of one call more, with the new one in the widest gaps between the times told: as good to begin with."""
    gaps = -torch.diff(torch.tensor([*shorter.places, shorter.last_place]))
    return [shorter.grown(int(call)) for call in gaps.topk(min(count, len(gaps))).indices]
