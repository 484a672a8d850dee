r"""Gauss and Newton's method with Levenberg and Marquardt's damping, for the numbers of a student.

The change d of a step solves ``(S + mu I) D d = -D^{-1} J^T W r`` with ``S = D^{-1} J^T W J D^{-1}`` and D the norms of
the columns of J: units of the numbers do not matter. mu falls by 3 after a step that lowered the cost and grows by 4
until one does. Of all the students on the way the best on *held-out* starts is kept, by root mean square.

The cost is the mean square of the starts' errors e_i, or that of Cauchy, ``mean c^2 log(1 + e_i^2 / c^2)``, whose W
weighs each start by ``1 / (1 + e_i^2 / c^2)``: a few starts near the border of two modes end in the other one, and
their errors and derivatives are so large that a sum of squares sees little else. c is 5 times the median error, taken
anew in each step. Which of the two leads further depends on the problem: with more calls Cauchy's, as the borders are
then few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .shooting import Normal, Shooting, root_mean, root_median
from .student import Student

CAUCHY = 5.0
"""c, in median errors."""
TRIALS = 8
"""How often mu grows in one step."""


@dataclass(frozen=True)
class Fit:
    """A student on its way: the best so far on held-out starts, and where the descent stands.

    Attributes: best, held_out (its root mean square error there), student (where the descent goes on), width (c in
    median errors; inf for the mean square), damping (mu), done (whether nothing is to be gained from going on).
    """

    best: Student
    held_out: float
    student: Student
    width: float = math.inf
    damping: float = 1e-3
    done: bool = False


def begin(held_out: Shooting, student: Student, width: float = math.inf) -> Fit:
    """A fit that has not moved yet."""
    return Fit(student, root_mean(held_out.squares(student)), student, width)


def descend(
    train: Shooting, held_out: Shooting, fit: Fit, steps: int, go_on: Callable[[], bool], rest: float = 0.01
) -> Fit:
    """Up to ``steps`` steps further; fewer where two in a row lower the cost by less than a share ``rest`` each.

    ``go_on`` is asked before each step.
    """
    idle = 0
    for _ in range(steps):
        if fit.done or not go_on():
            break
        fit, gain = _step(train, held_out, fit)
        idle = 0 if gain > 2 * rest else idle + 1
        fit = replace(fit, done=fit.done or idle == 2)
    return fit


def _step(train: Shooting, held_out: Shooting, fit: Fit) -> tuple[Fit, float]:
    """The fit after a step, and the share of the cost that it took away."""
    squares = train.squares(fit.student)
    width = max(fit.width * root_median(squares), 1e-30)
    before = _cost(squares, width)
    normal = train.normal(fit.student, width)
    for mu, change in _changes(normal, fit.damping):
        student = fit.student.moved(change)
        after = _cost(train.squares(student), width)
        if after < before:
            held = root_mean(held_out.squares(student))
            best, lowest = (student, held) if held < fit.held_out else (fit.best, fit.held_out)
            return replace(
                fit, best=best, held_out=lowest, student=student, damping=max(mu / 3, 1e-12)
            ), 1 - after / before
    return replace(fit, done=True), 0.0


def _cost(squares: np.ndarray, width: float) -> float:
    """From the squared error of each start; inf if a solution ran away."""
    with np.errstate(all="ignore"):
        cost = float(np.mean(squares if width == math.inf else np.log1p(squares / width**2) * width**2))
    return cost if math.isfinite(cost) else math.inf


def _changes(normal: Normal, damping: float) -> Iterator[tuple[float, np.ndarray]]:
    """Changes of ever heavier damping."""
    scale = np.sqrt(np.diag(normal.gram))
    scale[~(scale > 1e-14 * scale.max(initial=1e-300))] = math.inf  # a number without effect stays as it is
    gram = normal.gram / np.outer(scale, scale)
    for trial in range(TRIALS):
        mu = damping * 4.0**trial
        yield mu, -np.linalg.solve(gram + mu * np.eye(len(scale)), normal.gradient / scale) / scale
