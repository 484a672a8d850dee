"""A solver of scoresolve, through ``ss.sample``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..model import ScoreModel
from ..presets import resolve
from ..processes import EDM
from ..registry import build_table, get_solver
from ..sampling import sample
from .draws import OfSamples
from .functions import REFINED, SIGMA_MAX, closing_levels, course_of, full_levels, smooth_levels
from .subject import Course, Draw, Oracle


class Solver:
    """A name of ``ss.solvers()``, or one that others use, on ``ss.EDM``, where the time is the noise level.

    Orders are declared for a history that is seeded: ``start="high"`` while they are measured, unless it is given.
    """

    floor, slack, whole = 1e-12, 0.2, 200

    def __init__(self, name: str, options: dict[str, Any], claim: float | None) -> None:
        preset = resolve(name)
        self.info = get_solver(preset.solver)
        self.name, self.fixed = name, not self.info.adaptive and self.info.order > 0
        self.options = {**preset.options, **options}
        self.claim = claim if claim is not None or not self.fixed else self.info.order
        self.sde = EDM(1e-3, SIGMA_MAX)

    def smooth(self) -> Sequence[Course]:
        """Equally spaced in log sigma from 20 to 0.05."""
        steps = REFINED if self.fixed else (16,)
        return [course_of(smooth_levels(n), (smooth_levels(n), self._seeded())) for n in steps]

    def full(self, steps: int) -> Course:
        """From 80 to 0.002 and to zero."""
        levels = full_levels(steps)
        return course_of(levels, (levels, self.options))

    def closing(self, step: float) -> tuple[Course, Course] | None:
        """Down to 0.05."""
        levels, seeded = closing_levels(step), self._seeded()
        return course_of(levels[:-1], (levels[:-1], seeded)), course_of(levels, (levels, seeded))

    def _seeded(self) -> dict[str, Any]:
        start = self.info.options.get("start")
        if start not in ("low", "high") or "start" in self.options:
            return self.options
        return {**self.options, "start": "high"}

    def run(self, course: Course, oracle: Oracle, x: Tensor, draw: Draw | None) -> tuple[Tensor, int]:
        """``ss.sample`` with a source of noise, or with a seed."""
        levels, options = course.plan
        model = ScoreModel(lambda state, sigma: oracle(state, 1.0, sigma), self.sde, predicts="data", time="sigma")
        options = {"solver_options": options} if options else {}
        if draw is None or self.info.adaptive:  # a Brownian path is refined, its draws are not counted
            ids = draw.ids if isinstance(draw, OfSamples) else None
            found = sample(model, start=x, solver=self.info.name, grid=levels, seed=0, indices=ids, **options)
            return found.samples, 0
        source = _Source(draw)
        found = sample(model, start=x, solver=self.info.name, grid=levels, noise=source, **options)
        return found.samples, source.count

    def calls(self, steps: int) -> int | None:
        """The rows of its table."""
        if not self.fixed:
            return None
        return build_table(self.info.name, self.sde, full_levels(steps), **self.options).nfe

    def labels_off(self) -> float:
        """Nothing: it tells the level itself."""
        return math.nan


class _Source:
    """Noise from the checks, numbered in the order in which it is first asked for."""

    def __init__(self, draw: Draw) -> None:
        self._draw, self._known = draw, dict[tuple[int, int], int]()

    @property
    def count(self) -> int:
        """Draws so far."""
        return len(self._known)

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """The noise of a draw."""
        return self._draw(self._known.setdefault((stream, int(index)), len(self._known)), like)
