"""What a training objective draws: a time and a noise for each sample, with the weights that make it unbiased.

The same draw serves any objective; ``losses.py`` says which, ``time_laws.py`` from what laws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor

from .errors import require
from .model import ScoreModel
from .noise import TRAINING, SampleStreams, fresh_seed, spread_places
from .starting import check_batch, check_model, check_noisy_ends
from .time_laws import Adaptive, TimeLaw, Times, levels, uniform

Measure = Literal["times", "lam", "level"]


class Drawing(TypedDict, total=False):
    """The keyword arguments of :func:`draw`, which all objectives take."""

    times: TimeLaw
    proposal: TimeLaw
    adaptive: Adaptive
    spread: bool
    t_min: float
    t_max: float
    seed: int
    indices: Sequence[int]
    generator: torch.Generator


@dataclass(frozen=True)
class Draw:
    """Times and noise for a batch; made by :func:`draw`, or by hand from the first two.

    Attributes:
        t: (batch,), float64. noise: shaped as x0.
        times: the law that an objective averages over. proposal: the one that t was drawn from.
        place, boost: what :class:`Adaptive` drew, and how much denser it is there than without.
    """

    t: Tensor
    noise: Tensor
    times: Times | None = None
    proposal: Times | None = None
    place: Tensor | None = None
    boost: Tensor | float = 1.0

    def weight(self, measure: Measure = "times") -> Tensor:
        """The density of the measure over that of the draw, (batch,), float64: makes the estimate unbiased."""
        drawn, one = self.proposal, torch.ones_like(self.t) / self.boost
        if measure == "times":
            if self.times is None or drawn is None or drawn is self.times:
                return one
            return one * self.times.density(self.t) / drawn.density(self.t)
        if drawn is None or drawn.discrete != (measure == "level"):
            needs = "an integral over lam, of a law such as uniform_lam() (a table has ddpm_bound)"
            if measure == "level":
                needs = "a sum over the levels of a table, of levels()"
            raise ValueError(
                f"the objective is {needs}; got times {'made by hand' if drawn is None else f'of {drawn.law.name}'}"
            )
        return one / drawn.density(self.t)

    def teach(self, adaptive: Adaptive, loss: Tensor) -> None:
        """Tell ``adaptive``, with which this was drawn, what losses (batch,) came of it."""
        if self.place is None:
            raise ValueError("the draw was not made with an Adaptive: use ss.losses.draw(..., adaptive=adaptive)")
        adaptive.learn(self.place, loss.detach() * self.boost)


def draw(
    model: ScoreModel,
    x0: Tensor,
    *,
    times: TimeLaw | None = None,
    proposal: TimeLaw | None = None,
    adaptive: Adaptive | None = None,
    spread: bool = True,
    t_min: float | None = None,
    t_max: float | None = None,
    seed: int | None = None,
    indices: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Draw:
    """Times and noise for an objective.

    Args:
        model, x0: the network with its process, and the data, (batch, ...), float32 or float64.
        times: the law that the objective averages over, and so a part of it; default ``uniform()``, or ``levels()`` for
            a network that is told whole indices.
        proposal: the law to draw from, if another: the expected loss stays as it is, its variance changes.
        adaptive: draws more often where the losses have been large, and leaves the expected loss, too.
        spread: evenly spread times (Kingma et al. 2021, app. I.1), each of them of the law, or independent ones.
        t_min, t_max: the ends; default those of the process, ``t_eps`` where that is noise zero.
        seed, indices: sample i of a seed has the same time and noise in any batch. Take another seed each step.
        generator: makes the seed, if none is given; without either it is the operating system's.

    Raises: TypeError, ValueError.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian([0.0], 1.0).model(ss.RectifiedFlow())
    >>> drawn = ss.losses.draw(model, torch.zeros(4, 1), seed=0)
    >>> (drawn.t * 4).floor().sort().values.tolist()  # one in each quarter
    [0.0, 1.0, 2.0, 3.0]
    """
    check_model(model)
    check_batch(x0, "x0")
    law = times or (levels() if model.time == "index" else uniform())
    ends = check_noisy_ends(model, t_min, t_max)
    target = law.on(model.sde, *ends)
    source = target if proposal is None else proposal.on(model.sde, *ends)
    require(
        target.discrete == source.discrete,
        f"times and proposal both of levels or both not, got {law.name} and {source.law.name}",
    )
    if model.time == "index" and not (target.discrete and model.sde is model.native):
        raise ValueError(
            f"the network is told whole indices, {law.name} on {model.sde!r} asks between them: use "
            "times=ss.losses.levels() on its own process, or time='fractional_index' if it takes fractions"
        )
    seed = fresh_seed(generator) if seed is None else seed
    numbers = list(range(len(x0)) if indices is None else indices)
    require(len(numbers) == len(x0), f"one of indices= for each of {len(x0)} samples, got {len(numbers)}")
    streams = SampleStreams(seed, numbers)
    if spread:
        place = spread_places(seed, numbers).to(x0.device)
    else:
        one = x0.new_empty(len(x0), 1, dtype=torch.float64)
        place = torch.special.ndtr(streams.draw(TRAINING, 1, one))[:, 0]
    noise = streams.draw(TRAINING, 2, x0)
    if adaptive is None:
        return Draw(source.at(place), noise, target, source)
    place, boost = adaptive.warp(place)
    return Draw(source.at(place), noise, target, source, place, boost)
