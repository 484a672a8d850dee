r"""Multistep rules of any form: the integral of the polynomial through the outputs at past times, with a corrector.

A step from t_i to t_{i+1} of order k takes the polynomial through the outputs at t_i, ..., t_{i-k+1} (the nodes) and
integrates it against the form's kernel (``forms.py``). ``Rule`` says how:

- ``exact``: the integral itself. Local error O(h^{k+1}), order k.
- ``bh2``, ``bh1`` (UniPC): as exact, but where there are two nodes the first moment
  ``int kernel(v) (u - u_i)/h dv`` is replaced by half the kernel's whole integral, or by h/2 times its value at the
  end. Also of order 2; the systems that UniPC solves for more nodes have the exact weights as their solution.
- ``published`` (DPM-Solver and DPM-Solver++ 2M and 3M): two nodes as bh2. With three nodes the second
  difference lacks a factor 2, which leaves an error of O(h^3) a step: order 2, not 3.
- ``adams``: the weights of equal steps in u, whatever the steps are (iPNDM, PLMS): order 2 where the steps change
  smoothly from one to the next.

**Corrector** (UniC; the corrector of SA-Solver): once the output at the end of a step is there, the step is made again
with it as one more node, at no network call. Corrected minus predicted end is a combination of outputs,
``sum_j (w^c_j - w^p_j) m_j`` (the state and the noise are the same), so that the table's state may stay the predicted
one and the next commit carries the difference: ``x_{i+1} = gain (x_i + sum (w^c - w^p) m) + ...``. One order more.

**Start**: "low" lets the order ramp up 1, 2, ... as published; the first step then has local error O(h^2), which caps
the global order at 2. "high" takes the first steps by single-step rules of local error equal to the rule's own.

**End**: the step to noise zero is of first order, unless ``lower_order_final`` is False and the form knows better;
True also lets the order ramp down over the last steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from .errors import require
from .forms import Form
from .row import Row
from .sde import SDE, Point
from .single_step import BY_STAGES, Scheme, noise_weights, opening_row, single_step_rows

Rule: TypeAlias = Callable[[Form, Sequence[Point], Point, Point], np.ndarray]
"""(form, nodes, here, there) -> weights of the outputs at the nodes."""
Start = Literal["low", "high"]
ADAMS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Adams-Bashforth weights of equal steps, newest output first."""


def exact(form: Form, nodes: Sequence[Point], here: Point, there: Point) -> np.ndarray:
    """The integral of the interpolating polynomial."""
    return form.weights([form.place(node) for node in nodes], here, there)


def bh1(form: Form, nodes: Sequence[Point], here: Point, there: Point) -> np.ndarray:
    """As exact; with two nodes, h/2 times the kernel at the end as the first moment."""
    if len(nodes) != 2:
        return exact(form, nodes, here, there)
    h = form.place(there) - form.place(here)
    return _two_nodes(form, nodes, here, there, 0.5 * h * float(form.kernel(np.array([form.place(there)]), there)[0]))


def bh2(form: Form, nodes: Sequence[Point], here: Point, there: Point) -> np.ndarray:
    """As exact; with two nodes, half the kernel's integral as the first moment."""
    if len(nodes) != 2:
        return exact(form, nodes, here, there)
    return _two_nodes(form, nodes, here, there, 0.5 * form.step(here, there)[1])


def published(form: Form, nodes: Sequence[Point], here: Point, there: Point) -> np.ndarray:
    """DPM-Solver's and DPM-Solver++'s 2M and 3M, as printed and as everybody runs them."""
    if len(nodes) != 3:
        return bh2(form, nodes, here, there)
    u = np.array([form.place(node) for node in nodes])
    h = form.place(there) - u[0]
    first, second = -np.diff(u) / h  # r0, r1: the last steps in units of this one
    newest, older = np.array([1.0, -1.0, 0.0]) / first, np.array([0.0, 1.0, -1.0]) / second
    slope = newest + first / (first + second) * (newest - older)
    curvature = (newest - older) / (first + second)  # half of h^2 D''
    return taylor(form, here, there, slope, curvature)


def taylor(form: Form, here: Point, there: Point, slope: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Weights of ``int kernel (m_0 + r h m' + r^2/2 h^2 m'') dv``, r the place inside the step, u its clock.

    Args: ``slope`` and ``second``, the differences of outputs (newest first) that stand for h m' and h^2 m''.
    """
    first = form.place(here)
    # moments int kernel r^k dv: those of the monomials, by interpolation at three places of the step
    r = np.array([0.0, 0.5, 1.0])
    places = first + r * (form.place(there) - first)
    moments = np.vander(r, increasing=True).T @ form.weights(places.tolist(), here, there)
    weights = moments[1] * slope + 0.5 * moments[2] * second
    weights[0] += moments[0]
    return np.asarray(weights, dtype=np.float64)


def adams(form: Form, nodes: Sequence[Point], here: Point, there: Point) -> np.ndarray:
    """Adams-Bashforth's weights of equal steps."""
    return form.step(here, there)[1] * np.array(ADAMS[len(nodes)])


def _two_nodes(form: Form, nodes: Sequence[Point], here: Point, there: Point, moment: float) -> np.ndarray:
    """Weights of the line through two nodes, one of them at ``here``, for a given ``int kernel (u - u_here)/h dv``."""
    u = np.array([form.place(node) for node in nodes])
    start = form.place(here)
    other = int(np.argmax(np.abs(u - start)))
    slope = moment * (form.place(there) - start) / (u[other] - start)
    weights = np.full(2, form.step(here, there)[1] - slope)
    weights[other] = slope
    return weights


RULES: dict[str, Rule] = {"exact": exact, "bh1": bh1, "bh2": bh2, "published": published, "adams": adams}


@dataclass(frozen=True)
class Corrector:
    """The rule that makes a step again with its end as a node, and the most nodes it uses, the end included."""

    rule: Rule
    nodes: int


@dataclass(frozen=True)
class Multistep:
    """A multistep method: what its rows are made of.

    Attributes:
        form_at: the form of the step from a point (its noise level may vary).
        order: nodes of the predictor.
        rule: how it integrates.
        corrector: None for a predictor alone.
        opening: the schemes of the first steps; none for the order to ramp up.
        lower_order_final: see the module.
    """

    form_at: Callable[[Point], Form]
    order: int
    rule: Rule
    corrector: Corrector | None = None
    opening: tuple[Scheme, ...] = ()
    lower_order_final: bool | None = None

    @classmethod
    def started(
        cls,
        form_at: Callable[[Point], Form],
        order: int,
        rule: Rule,
        corrector: Corrector | None = None,
        start: Start = "low",
        lower_order_final: bool | None = None,
    ) -> Multistep:
        """With the opening of ``start``: "high" takes as many steps as the full order needs, of one order less.

        The full order is the number of nodes; a corrector with more nodes than the predictor adds one.
        """
        require(start in ("low", "high"), f'start="low" or "high", got {start!r}')
        full = order + (1 if corrector is not None and corrector.nodes > order else 0)
        opening = (BY_STAGES[min(full - 1, 4)],) * (full - 2) if start == "high" and full > 2 else ()
        return cls(form_at, order, rule, corrector, opening, lower_order_final)

    def rows(self, sde: SDE, times: np.ndarray) -> list[Row]:
        """The rows on a grid. Cost: a call a step, and up to three more for each step of a high start."""
        points = sde.points(times)
        run = _Run(self)
        for i, (here, there) in enumerate(pairwise(points)):
            run.step(here, there, remaining=len(points) - 1 - i)
        return run.rows


@dataclass
class _Run:
    """The rows so far, the outputs that may be nodes, and the step that may be corrected."""

    method: Multistep
    rows: list[Row] = field(default_factory=list)
    history: list[Point | None] = field(default_factory=list)  # newest first; None: not a node
    taken: int = 0  # steps since the history began
    last: tuple[Form, Point, Point, dict[int, float]] | None = None  # the predicted step, weights by age at its row

    def step(self, here: Point, there: Point, remaining: int) -> None:
        method = self.method
        form = method.form_at(here)
        if here.alpha == 0 and not form.finite(here):
            row = opening_row if form.predicts == "noise" else _first_order
            self.rows.append(row(form, here, there))
            self.history, self.last = [None, *self.history], None
            return
        if self.taken < len(method.opening) and there.sigma > 0 and form.within(here, there):
            rows = single_step_rows(form, method.opening[self.taken], here, there)
            self.rows += rows
            self.history = [*[None] * (len(rows) - 1), here, *self.history]
            self.taken, self.last = self.taken + 1, None
            return
        self.history = [here, *self.history]
        correction = self._correction(here)
        ages = self._ages(form, here, there, remaining)
        gain, whole, noise = form.step(here, there)
        if len(ages) == 1:
            weights = {0: whole}
        else:
            nodes = [point for point in (self.history[age] for age in ages) if point is not None]
            weights = dict(zip(ages, method.rule(form, nodes, here, there).tolist(), strict=True))
        total = {age: weights.get(age, 0.0) + gain * correction.get(age, 0.0) for age in {*weights, *correction}}
        self.rows.append(Row(here.t, there.t, (gain, *_by_age(total)), noise_weights(noise)))
        self.taken, self.last = self.taken + 1, (form, here, there, weights)

    def _ages(self, form: Form, here: Point, there: Point, remaining: int) -> list[int]:
        """Ages of the outputs that are the nodes of this step, newest first."""
        order = self.method.order
        final = self.method.lower_order_final
        if not form.within(here, there) or (there.sigma == 0 and final is not False):
            order = 1
        elif final:
            order = min(order, remaining)
        return [age for age, point in enumerate(self.history) if point is not None][:order]

    def _correction(self, here: Point) -> dict[int, float]:
        """Corrected minus predicted weights of the step that led here, by age of the outputs now."""
        corrector = self.method.corrector
        if corrector is None or self.last is None:
            return {}
        form, start, end, predicted = self.last
        count = min(corrector.nodes, len(predicted) + 1)
        ages = [age for age, point in enumerate(self.history) if point is not None][:count]
        nodes = [point for point in (self.history[age] for age in ages) if point is not None]
        if len(nodes) < 2 or not form.within(start, end):
            return {}
        difference = dict(zip(ages, corrector.rule(form, nodes, start, end).tolist(), strict=True))
        for age, weight in predicted.items():
            difference[age + 1] = difference.get(age + 1, 0.0) - weight
        return difference


def _first_order(form: Form, here: Point, there: Point) -> Row:
    gain, whole, noise = form.step(here, there)
    return Row(here.t, there.t, (gain, whole), noise_weights(noise))


def _by_age(weights: Mapping[int, float]) -> tuple[float, ...]:
    return tuple(weights.get(age, 0.0) for age in range(max(weights) + 1))
