r"""Single-step rules of any form: stages inside a step, each an integral of the polynomial through earlier stages.

With ``u`` the form's clock and ``r = (u - u_t)/(u_s - u_t)`` the place inside the step, stage k asks the network at
``r_k`` and the state there is the form's own step from t to ``r_k`` on the polynomial through some of the outputs so
far (``forms.py``). A scheme is the list of places with, for each stage and for the end, the nodes of its polynomial. A
node is a place and the mixture of outputs that stands for the value there. Where the kernel is constant (noise in rho,
velocity in t) the schemes are the classical methods of Runge and Kutta, elsewhere their exponential counterparts:

    scheme      places       kernel constant               in lam
    euler       0            Euler                         DDIM
    midpoint    0 1/2        midpoint                      DPM-Solver-2, DPM-Solver++(2S), as published
    heun        0 1          Heun                          exponential trapezoid
    two_stage   0 1/2        midpoint                      RES 2s (c2 = 1/2)
    three_stage 0 1/3 2/3    Heun's third-order method     DPM-Solver-3, DPM-Solver++(3S)
    kutta       0 1/2 1      Kutta's third-order method    ETD3RK
    bogacki     0 1/2 3/4    Bogacki and Shampine 3        -
    four_stage  0 1/2 1/2 1  the classical RK4             Krogstad's ETDRK4

Order 3 of ``three_stage``: the end uses the line through 0 and 2/3, exact for quadratics where the kernel is
constant (Radau), and the state at 2/3 has error O(h^3) by the line through 0 and 1/3. In ``kutta`` and ``four_stage``
the second stage enters the third as if at place 1/4: this doubles its slope, and the errors of the stages cancel.

At eta > 0 the state of a stage carries the noise of the path up to its place, and the later ones the same noise and
more: independent increments, each drawn once (SEEDS, DPM-Solver++ SDE).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from .forms import Form, sde_step
from .row import Row
from .sde import SDE, Point

Nodes: TypeAlias = Mapping[float, Mapping[int, float]]
"""place -> {stage: share of its output in the value there}."""


@dataclass(frozen=True)
class Scheme:
    """Places of the stages, and for each state after a stage the nodes of its polynomial (the last is the end)."""

    places: tuple[float, ...]
    nodes: tuple[Nodes, ...]

    def __len__(self) -> int:
        return len(self.places)


def _at(*pairs: tuple[float, int]) -> Nodes:
    return {place: {stage: 1.0} for place, stage in pairs}


EULER = Scheme((0.0,), (_at((0.0, 0)),))
MIDPOINT = Scheme((0.0, 0.5), (_at((0.0, 0)), _at((0.5, 1))))
HEUN = Scheme((0.0, 1.0), (_at((0.0, 0)), _at((0.0, 0), (1.0, 1))))
TWO_STAGE = Scheme((0.0, 0.5), (_at((0.0, 0)), _at((0.0, 0), (0.5, 1))))
THREE_STAGE = Scheme((0.0, 1 / 3, 2 / 3), (_at((0.0, 0)), _at((0.0, 0), (1 / 3, 1)), _at((0.0, 0), (2 / 3, 2))))
KUTTA = Scheme((0.0, 0.5, 1.0), (_at((0.0, 0)), _at((0.0, 0), (0.25, 1)), _at((0.0, 0), (0.5, 1), (1.0, 2))))
BOGACKI = Scheme((0.0, 0.5, 0.75), (_at((0.0, 0)), _at((0.5, 1)), _at((0.0, 0), (0.5, 1), (0.75, 2))))
FOUR_STAGE = Scheme(
    (0.0, 0.5, 0.5, 1.0),
    (
        _at((0.0, 0)),
        _at((0.0, 0), (0.25, 1)),
        _at((0.0, 0), (0.5, 2)),
        {0.0: {0: 1.0}, 0.5: {1: 0.5, 2: 0.5}, 1.0: {3: 1.0}},
    ),
)
BY_STAGES = {1: EULER, 2: TWO_STAGE, 3: THREE_STAGE, 4: FOUR_STAGE}
"""The schemes used where only an order is asked for: to start a multistep rule, to end on a budget."""


def single_step_rows(form: Form, scheme: Scheme, here: Point, there: Point) -> list[Row]:
    """The rows of one step. Cost: one call a stage.

    The step is of first order where the form's clock is infinite at an end, or no noise is left at the end.
    """
    if form.predicts == "noise" and here.alpha == 0:
        return [opening_row(form, here, there)]
    if len(scheme) > 1 and (there.sigma == 0 or not form.within(here, there)):
        scheme = EULER
    first, last = form.place(here), form.place(there)
    inside = [form.point(first + r * (last - first)) if 0 < r < 1 else here if r == 0 else there for r in scheme.places]
    targets = [*inside[1:], there]
    rows = []
    for k, (nodes, target) in enumerate(zip(scheme.nodes, targets, strict=True)):
        gain, _, _ = form.step(here, target)
        weights = (gain, *_weights(form, nodes, k, here, target, first, last))
        noise = _noise(form, [*inside[: k + 1], target]) if form.eta else ()
        if k == len(scheme) - 1:
            rows.append(Row(t=inside[k].t, s=there.t, commit=weights, noise=noise))
        else:
            rows.append(Row(t=inside[k].t, s=None, propose=weights, propose_noise=noise))
    return rows


def _weights(
    form: Form, nodes: Nodes, stage: int, here: Point, target: Point, first: float, last: float
) -> tuple[float, ...]:
    """Weights on the outputs, newest (that of ``stage``) first."""
    places = [first + r * (last - first) for r in nodes]
    shares = np.array([[mixture.get(stage - age, 0.0) for age in range(stage + 1)] for mixture in nodes.values()])
    weights = (form.weights(places, here, target) @ shares).tolist()
    while weights[-1] == 0.0:
        weights.pop()
    return tuple(weights)


def _noise(form: Form, passed: list[Point]) -> tuple[float, ...]:
    """Weights, at the last point, of the increments between the points passed; newest first."""
    end = passed[-1]
    carried = [form.step(point, end)[0] for point in passed[1:-1]] + [1.0]
    increments = [form.step(a, b)[2] for a, b in pairwise(passed)]
    return tuple(gain * noise for gain, noise in zip(carried[::-1], increments[::-1], strict=True))


def opening_row(form: Form, here: Point, there: Point) -> Row:
    """The first-order step from a time without signal, where only the data prediction says anything."""
    gain, weight, noise = sde_step(here, there, form.eta)
    return Row(t=here.t, s=there.t, commit=(gain, weight), noise=noise_weights(noise), asks="data")


def noise_weights(noise: float) -> tuple[float, ...]:
    """A row's weights for a single normal, or none."""
    return (noise,) if noise > 0 else ()


def raised(row: Row, here: Point, there: Point, scale: float = 1.0) -> Row:
    """The row that commits a step, its end taken on from ``here`` up to the noise level of ``there``.

    ``x -> (alpha'/alpha) x + sqrt(sigma'^2 - (alpha'/alpha)^2 sigma^2) z`` is the forward process, or any change of
    noise level that keeps the signal: no network call. Both noises are one normal. ``scale`` multiplies the new one.
    """
    gain = there.alpha / here.alpha
    added = math.sqrt(max(there.sigma**2 - (gain * here.sigma) ** 2, 0.0)) * scale
    old = math.hypot(*(gain * weight for weight in row.noise)) if row.noise else 0.0
    return Row(
        t=row.t,
        s=there.t,
        commit=tuple(gain * weight for weight in row.commit),
        noise=noise_weights(math.hypot(old, added)),
        asks=row.asks,
    )


def first_free(points: Sequence[Point], form: Form | None = None) -> int:
    """The number of the first step whose scheme is free: one from a time without signal may take a single stage."""
    return 0 if points[0].alpha > 0 or (form is not None and form.finite(points[0])) else 1


def step_table_rows(sde: SDE, times: np.ndarray, form: Form, schemes: list[Scheme]) -> list[Row]:
    """The rows of one scheme after another, one for each step of a grid."""
    points = sde.points(times)
    steps = zip(points, points[1:], schemes, strict=False)
    return [row for here, there, scheme in steps for row in single_step_rows(form, scheme, here, there)]
