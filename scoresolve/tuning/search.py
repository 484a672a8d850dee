"""The search for a table of a given number of calls: from published solvers, by descents, to the best held out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch

from ..errors import require
from ..exact import Gaussian
from ..sampling import sample
from ..table import Table
from .candidates import Candidate, Trial, diverse, tried
from .gauss_newton import CAUCHY, Fit, begin, descend
from .laws import clearly_closer
from .lesson import Lesson, first_share, in_two
from .lifting import lift, liftable
from .shooting import Features, Shooting, root_median, themselves
from .student import Student

ROUNDS = ((12, 6, 0.25), (6, 14, 0.25), (3, 60, 1.0))
"""(how many descents, steps at most, share of the starts to fit) of each round; the best held out go on."""
OPENED = 4
"""How many descents begin at each opening."""
TAILS = 2.0
"""Root mean square over median error beyond which a few starts are taken to have most of the error."""
DIRECT = 6
"""Calls up to which published solvers alone are where a search begins."""
PARTS = 0.5
"""The share of what may be spent beyond which no students of two parts are sought."""
PUBLISHED, *OTHERS = "published", "fewer", "parts"
"""What students begin from: published solvers, students of fewer calls, students of two parts."""
Part = Literal["train", "held_out"]


@dataclass
class Purse:
    """What may be spent: samples seen by the network, and minutes.

    Attributes: rows, seconds (limits, or None), spent (rows so far), share (of the limits, that may be spent for now).
    """

    rows: int | None = None
    seconds: float | None = None
    spent: int = 0
    share: float = 1.0
    began: float = field(default_factory=time.monotonic)
    _asked: float = math.inf
    _longest: float = 0.0

    def open(self) -> bool:
        """Whether something is left, and time enough for what took longest between two such questions."""
        now = time.monotonic()
        self._longest, self._asked = max(self._longest, now - self._asked), now
        late = self.seconds is not None and now + self._longest > self.began + self.share * self.seconds
        return not late and (self.rows is None or self.spent < self.share * self.rows)

    def between(self) -> None:
        """What took place since it was last asked is nothing that takes place at every step."""
        self._asked = math.inf


@dataclass(frozen=True, eq=False)
class Task:
    """What tables are searched for.

    Attributes:
        lesson: starts and their ends.
        features, laws: see :class:`Shooting`.
        ends: the last and the first time. labels: the lowest and the highest time the network may be told.
        candidates: published solvers to begin from.
        purse: what may be spent.
        opening: the law whose flow took the starts to the first time, where that is not the process' own.
    """

    lesson: Lesson
    features: Features
    laws: bool
    ends: tuple[float, float]
    labels: tuple[float, float]
    candidates: Sequence[Candidate]
    purse: Purse
    opening: Gaussian | None = None

    def shooting(self, part: Part, share: float = 1.0) -> Shooting:
        """From the starts to fit or those held out, or from the first share of them."""
        lesson, laws = self.lesson, self.laws
        starts, model = getattr(lesson, part), lesson.models[part == "held_out"]
        some_model, some = first_share(model, starts, share)
        return Shooting(some_model, some, self.features, laws=laws, step=lesson.step, size=lesson.size)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes: student (None where no descent beat the best published solver), error and median (held out), trials
    (the published solvers without opening, the best first), task (what it was found for: with an opening or without),
    lead (the best published solver of all, for that task where there is no student).
    """

    student: Student | None
    error: float
    median: float
    trials: Sequence[Trial]
    task: Task
    lead: Trial

    @property
    def best(self) -> Trial:
        """The best published solver without opening, on the held-out starts."""
        return self.trials[0]


class _Lane:
    """One task on its way: what published solvers make of it, and the shootings that its students are fitted by."""

    def __init__(self, task: Task, nfe: int, more: Sequence[Student]) -> None:
        lesson = task.lesson
        self.task = task
        self.trials = tried(
            lesson.models[1], task.candidates, nfe, lesson.held_out, task.features,
            laws=task.laws, ends=task.ends, batch_size=lesson.size,
        )  # fmt: skip
        self.held_out = task.shooting("held_out")
        self.fitted = [task.shooting("train", share) for _, _, share in ROUNDS]
        self._tried = len(self.trials) * nfe * len(lesson.held_out.x)
        count = ROUNDS[0][0] if task.opening is None else OPENED
        self.students = {"fewer": list(more), PUBLISHED: _lifted(task, self.trials, count)}

    @property
    def spent(self) -> int:
        """Samples the network has seen."""
        return self._tried + self.held_out.spent + sum(train.spent for train in self.fitted)


class _Run(NamedTuple):
    """A descent on its way, and what it began from."""

    lane: _Lane
    fit: Fit
    origin: str


def search(
    task: Task,
    nfe: int,
    more: Sequence[Student],
    tick: Callable[[], object],
    opened: Mapping[Task, Sequence[Student]] | None = None,
    *,
    parts: bool = True,
) -> Found:
    """A student of ``nfe`` calls.

    Every published solver is run from the held-out starts; the best of each grid begin a descent, and the best few of
    them finish it. So does the best of the students given, ``more``, which lead early: for the same places they would
    crowd out descents that end lower; and for the same reason the best of those of two parts. ``tick`` is called after
    each step. ``opened``: the same task from later times, with more students for each: they take part, and the best of
    all is found. ``parts``: whether students of two parts may.
    Raises: ValueError if no published solver can be run with that many calls.
    """
    lanes = [_Lane(task, nfe, more)]
    require(bool(lanes[0].trials), f"a published solver that takes nfe={nfe} calls on this process")
    lanes += [_Lane(later, nfe, students) for later, students in (opened or {}).items()]
    lanes = [lane for lane in lanes if lane.trials]
    settled = 0

    def go_on() -> bool:
        nonlocal settled
        spent = sum(lane.spent for lane in lanes)
        task.purse.spent, settled = task.purse.spent + spent - settled, spent
        tick()
        return task.purse.open()

    go_on()
    if parts and nfe > DIRECT and _tailed(lanes[0].trials[0]) and not task.laws:
        lanes[0].students["parts"] = _of_two_parts(task, nfe, lanes[0].trials[0].table, tick)
    runs = [
        _Run(lane, begin(lane.held_out, student, width), origin)
        for lane in lanes for width in _widths(lane.trials[0])
        for origin, students in lane.students.items() for student in students
    ]  # fmt: skip
    for number, (count, steps, _) in enumerate(ROUNDS):
        chosen = _most_promising(runs, count) if number else runs
        runs = []
        for lane, fit, origin in chosen:
            fit = begin(lane.held_out, fit.best, fit.width)
            runs.append(_Run(lane, descend(lane.fitted[number], lane.held_out, fit, steps, go_on), origin))
    leading = min(lanes, key=lambda lane: lane.trials[0].error)
    lead = leading.trials[0]
    nothing = Found(None, lead.error, lead.median, lanes[0].trials, leading.task, lead)
    if not runs:
        return nothing
    lane, best, _ = min(runs, key=_promise)
    for width in _widths(lane.trials[0])[1:]:  # the other cost may see a way on
        other = math.inf if best.width < math.inf else width
        best = descend(lane.fitted[-1], lane.held_out, begin(lane.held_out, best.best, other), ROUNDS[1][1], go_on)
    go_on()
    if best.held_out >= lead.error or not _sure(lane, best, leading):
        return nothing
    median = root_median(lane.held_out.squares(best.best))
    return Found(best.best, best.held_out, median, lanes[0].trials, lane.task, lead)


def _widths(trial: Trial) -> list[float]:
    """The costs to descend by: that of Cauchy too where a few starts have most of the error."""
    return [math.inf, CAUCHY] if _tailed(trial) else [math.inf]


def _tailed(trial: Trial) -> bool:
    """Whether a few starts have most of the error."""
    return trial.error > TAILS * trial.median


def _sure(lane: _Lane, fit: Fit, leading: _Lane) -> bool:
    """Whether the student is better than the best published solver, not only by the noise of two sets of samples."""
    task, held_out = leading.task, leading.task.lesson.held_out
    if not task.laws:
        return True
    run = sample(
        task.lesson.models[1], start=held_out.x, solver=leading.trials[0].table, noise=held_out.noise,
        batch_size=task.lesson.size,
    )  # fmt: skip
    ends = lane.held_out.ends(fit.best)
    return clearly_closer(*(task.features(x) for x in (ends, run.samples, held_out.targets)))


def _most_promising(runs: Sequence[_Run], count: int) -> list[_Run]:
    """The best ``count`` of those that began from published solvers, and the best of each other origin."""
    ranked = sorted(runs, key=_promise)
    chosen = [run for run in ranked if run.origin == PUBLISHED][:count]
    for origin in OTHERS:
        chosen += [run for run in ranked if run.origin == origin][:1]
    return chosen


def _promise(run: _Run) -> float:
    return run.fit.held_out


def _lifted(task: Task, trials: Sequence[Trial], count: int) -> list[Student]:
    able = [trial for trial in trials if math.isfinite(trial.error) and liftable(trial.table)]
    found = []
    for trial in diverse(able, count):
        with suppress(ValueError):  # a point that its start hardly reaches, in a solution that runs away
            found.append(lift(trial.table, task.lesson.models[0].sde, task.labels))
    return found


def _of_two_parts(task: Task, calls: int, published: Table, tick: Callable[[], object]) -> list[Student]:
    """Students that were sought as two, of few calls each, on a quarter of the starts: to a time between, and on.

    Where the data have modes, ends tell little of the way there: near its mode a path forgets how far it had strayed,
    all but the few that chose another one, and a descent on the ends sees these alone. States at a time before the
    modes part do tell. The times are those of a published solver's calls, about half way and two thirds of it, with as
    many calls before them as it makes or one more.
    """
    whole, found = task.purse.share, []
    task.purse.share = min(whole, PARTS)
    (last, begun), lessons = task.ends, dict[float, tuple[Lesson, Lesson]]()
    for first, index in [(k, k - back) for k in (calls // 2 + 1, calls - calls // 3) for back in (1, 0)]:
        middle = published.rows[index].t
        if not (last < middle < begun and task.purse.open()):
            continue
        if middle not in lessons:
            lessons[middle] = in_two(task.lesson, task.ends, middle, ROUNDS[0][2])
            task.purse.spent += lessons[middle][0].taught.rows
            task.purse.between()
        low, high = task.labels
        early = replace(
            task, lesson=lessons[middle][0], features=themselves, ends=(middle, begun), labels=(middle, high)
        )
        late = replace(task, lesson=lessons[middle][1], ends=(last, middle), labels=(low, middle))
        with suppress(ValueError):  # no candidate takes so few calls
            found.append(_sought(early, first, tick).then(_sought(late, calls - first, tick)))
    task.purse.share = whole
    return found


def _sought(task: Task, calls: int, tick: Callable[[], object]) -> Student:
    """What a search finds, or the published solver that it does not beat."""
    found = search(task, calls, [], tick, parts=False)
    return found.student or lift(found.lead.table, found.task.lesson.models[0].sde, found.task.labels)


def grown(shorter: Student, calls: int, count: int = 2) -> list[Student]:
    """Students of more calls, as good to begin with: new ones stand in the widest gaps between the times told.

    The first of them in each of the ``count`` widest, which leads to students that differ.
    """
    gaps = -torch.diff(torch.tensor([*shorter.places, shorter.last_place], device="cpu"))
    first = [shorter.grown(int(call)) for call in gaps.topk(min(count, len(gaps))).indices]
    return first if calls == shorter.calls + 1 else [grown(student, calls, 1)[0] for student in first]
