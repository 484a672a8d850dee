r"""What is asked of a sampler, whoever wrote it, and the network whose answers are exact.

Data are Gaussian, each element by itself: ``x_0 ~ N(m, v)``. Then ``x_t ~ N(alpha m, P)``, ``P = alpha^2 v + sigma^2``,
and ``D(x) = m + alpha v / P (x - alpha m)`` is affine in x, and so is every sampler on a fixed grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..sde import over_batch

SHAPE = (1, 2, 2)
"""Of one sample: four directions, in an image, as some samplers want."""
MEAN = (0.3, -0.2, 0.1, 0.4)
VARIANCE = (0.03, 0.12, 0.5, 2.0)
Draw = Callable[[int, Tensor], Tensor]
"""The noise in place of the k-th draw of a run: ``draw(k, like)``, shaped as ``like``."""
Level = tuple[float, float]
"""(alpha, sigma)."""


@dataclass(frozen=True)
class Course:
    """A run that a sampler can be asked for.

    Attributes: steps, their number; start, end, the levels of the first and the last state; plan, the sampler's own.
    """

    steps: int
    start: Level
    end: Level
    plan: Any = field(default=None, repr=False)


class Oracle:
    """The exact network of N(m, v) at any level; it counts its calls, and can be told to misbehave.

    Args: point, whether all data are at m; reuse, answer in one buffer; bad, (call, row) that is NaN; stop, the call
    that raises :class:`BrokenOffError`.
    """

    def __init__(
        self,
        *,
        point: bool = False,
        reuse: bool = False,
        bad: tuple[int, int] | None = None,
        stop: int | None = None,
    ) -> None:
        self.mean = torch.tensor(MEAN, dtype=torch.float64, device="cpu").reshape(SHAPE)
        self.variance = torch.tensor(VARIANCE, dtype=torch.float64, device="cpu").reshape(SHAPE) * (
            0.0 if point else 1.0
        )
        self.reuse, self.bad, self.stop = reuse, bad, stop
        self.calls = 0
        self.asked: list[float] = []
        self._buffer: Tensor | None = None

    def __call__(
        self,
        x: Tensor,
        alpha: float | Tensor,
        sigma: float | Tensor,
        read: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The answer at x of level (alpha, sigma), numbers or (batch,): D, or ``read(D, x)`` of it."""
        number, self.calls = self.calls, self.calls + 1
        if number == self.stop:
            raise BrokenOffError
        wide = x.detach().double()
        a, s = (over_batch(level, wide) for level in (alpha, sigma))
        self.asked.append(float((s / a).flatten()[0]))
        mean, variance = self.mean.to(x.device), self.variance.to(x.device)
        data = mean + a * variance / (a**2 * variance + s**2).clamp(min=1e-300) * (wide - a * mean)
        answer = (data if read is None else read(data, wide)).to(x.dtype)
        if self.bad is not None and self.bad[0] == number:
            answer[self.bad[1]] = torch.nan
        if not self.reuse:
            return answer
        if self._buffer is None or self._buffer.shape != answer.shape:
            self._buffer = torch.empty_like(answer)
        return self._buffer.copy_(answer)

    def spread(self, level: Level) -> tuple[Tensor, Tensor]:
        """(mean, variance) of x at a level, flat."""
        alpha, sigma = level
        return alpha * self.mean.flatten(), alpha**2 * self.variance.flatten() + sigma**2


class BrokenOffError(Exception):
    """What the oracle raises in the middle of a run."""


class Subject(Protocol):
    """A sampler under test: this is all that the checks know of it.

    Attributes: name; floor, below which its errors are rounding; whole, the most steps it has (a table of betas), or a
    number that is large for it; claim, its order if it says so; fixed, whether it walks the levels it is given; slack,
    how far a slope may be from the claim: more where levels are rounded to those of a table, and steps uneven.
    """

    name: str
    floor: float
    slack: float
    whole: int
    claim: float | None
    fixed: bool

    def smooth(self) -> Sequence[Course]:
        """Runs of more and more steps between two levels away from sigma = 0: here orders are seen."""
        ...

    def full(self, steps: int) -> Course:
        """A run as its users have it, down to the end."""
        ...

    def closing(self, step: float) -> tuple[Course, Course] | None:
        """A run of many steps without and with a last one of that length in log sigma, if levels can be given."""
        ...

    def run(self, course: Course, oracle: Oracle, x: Tensor, draw: Draw | None) -> tuple[Tensor, int]:
        """The state at the end, and the number of draws; ``draw`` stands for its noise, None for its own."""
        ...

    def calls(self, steps: int) -> int | None:
        """Calls of the network that a run of so many steps is said to cost, if it says so."""
        ...

    def labels_off(self) -> float:
        """How far from the level of its state the last run told the network to be: largest ``|log rho|`` apart."""
        ...
