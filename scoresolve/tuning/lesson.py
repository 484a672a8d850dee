"""What students are taught and judged by: starts, and where the converged flow takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import require, whole_number
from ..model import ScoreModel
from ..noise import SampleStreams
from ..starting import check_batch, start_state
from ..watch import dtype_of
from .shooting import Features, Starts, themselves
from .smoothness import accepted_dtype, difference_step
from .teacher import Converged, converge, relative_goal

APART, OTHERS = 2**40, 2**41
"""The indices of the first starts, so that no seed's own samples are those that a table is fitted to: those of the
teacher, and those of students that are to meet its law, not its ends."""
RESIDUALS = 2**16
"""How many numbers a table is fitted to, at least, by default."""
FEWEST = 128
"""Starts to fit, however small the share."""
CHUNK = 2**25
"""How many numbers the derivatives of one chunk may be, by default."""


@dataclass(frozen=True)
class Lesson:
    """Starts to fit, and starts to choose by.

    Attributes: train, held_out, models (the network for each of the two), taught (what the teacher found), step (of
    finite differences), size (how many starts the network sees at once).
    """

    train: Starts
    held_out: Starts
    models: tuple[ScoreModel, ScoreModel]
    taught: Converged
    step: float
    size: int


@dataclass(frozen=True)
class Asked:
    """What ``tune`` was asked about starts; see there."""

    shape: tuple[int, ...]
    seed: int
    starts: int | Tensor | None
    held_out: int | None
    ends: tuple[float, float]
    batch_size: int | None
    dtype: torch.dtype | None
    device: torch.device | str | None
    stochastic: bool = False

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("starts", 1), ("held_out", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Tensor):  # numpy's integers become Python's, for JSON
                object.__setattr__(self, name, whole_number(name, value, least))

    def counts(self) -> tuple[int, int]:
        """How many starts there are to fit, and how many are held out. Raises: ValueError."""
        held_out = self.held_out
        if isinstance(self.starts, Tensor):
            require(not self.stochastic, "starts= a number with stochastic=True, whose targets have other starts")
            check_batch(self.starts, "starts")
            shape, all_of_them = tuple(self.starts.shape[1:]), len(self.starts)
            require(shape == self.shape, f"starts of shape (count, *{self.shape}), got {tuple(self.starts.shape)}")
            held_out = held_out or min(max(all_of_them // 5, 256), all_of_them // 2)
            require(0 < held_out < all_of_them, f"more starts than the {held_out} held out, got {all_of_them}")
            return all_of_them - held_out, held_out
        size = torch.Size(self.shape).numel()
        count = self.starts or min(max(RESIDUALS // size, 256), 4096)
        return count, held_out or max(count, 256)


def prepare(
    model: ScoreModel, asked: Asked, calls: int, features: Features = themselves, taught: Converged | None = None
) -> Lesson:
    """The starts and their converged ends.

    Args: calls, the most that a student will make; features, in which the ends must have converged; taught, the ends
    where they are known. Cost: the teacher's.
    """
    (count, held_out), (t_min, t_max) = asked.counts(), asked.ends
    x = _states(model, asked, count + held_out, APART)
    _check_features(features, x[:2])
    size = asked.batch_size or max(16, CHUNK // (x[0].numel() * (calls + 3) * calls))
    few = model.take(torch.arange(min(len(x), 16), device=x.device), len(x))
    if asked.dtype is None and not isinstance(asked.starts, Tensor):
        x = x.to(accepted_dtype(few, x[:16]))
    if taught is not None and taught.ends.shape == x.shape and bool(taught.ends.isfinite().all()):
        taught = replace(taught, ends=taught.ends.to(x))  # from a file, on the host
    else:
        taught = converge(model, x, t_max, t_min, goal=_goal(model, x), features=features, batch_size=size)
    begun = _states(model, asked, len(x), OTHERS).to(x) if asked.stochastic else x
    middle = float(model.sde.time(0.0)) if model.sde.lam(t_max) < 0 < model.sde.lam(t_min) else 0.5 * (t_min + t_max)
    return Lesson(
        Starts(begun[:count], taught.ends[:count], _noise(asked, 0, count)),
        Starts(begun[count:], taught.ends[count:], _noise(asked, count, len(x))),
        (_part(model, x, 0, count), _part(model, x, count, len(x))),
        taught,
        difference_step(few, x[:16] / model.sde.prior_std(t_max), middle),
        size,
    )


def in_two(lesson: Lesson, ends: tuple[float, float], middle: float, share: float) -> tuple[Lesson, Lesson]:
    """What there is to learn from the first time to the middle, and from there to the last, on a share of the starts.

    Args: ends, the last and the first time; middle, a time between; share, of the starts, 128 at least if there are.
    Returns: both lessons; ``taught`` of the first is of those to fit, its rows those of the held-out starts too.
    Cost: the teacher's, on that share, from the first time to the middle.
    """
    early, late, taught = [], [], []
    for model, starts in zip(lesson.models, (lesson.train, lesson.held_out), strict=True):
        part, some = first_share(model, starts, share)
        taught.append(converge(part, some.x, ends[1], middle, goal=_goal(part, some.x), batch_size=lesson.size))
        early.append((part, Starts(some.x, taught[-1].ends)))
        late.append((part, Starts(taught[-1].ends, some.targets)))
    whole = replace(taught[0], rows=sum(one.rows for one in taught))
    first, rest = (
        replace(lesson, train=train, held_out=held_out, models=(model, other), taught=whole)
        for (model, train), (other, held_out) in (early, late)
    )
    return first, rest


def first_share(model: ScoreModel, starts: Starts, share: float) -> tuple[ScoreModel, Starts]:
    """The first share of the starts, 128 at least if there are as many, and the network for them."""
    count = max(math.ceil(share * len(starts.x)), min(len(starts.x), FEWEST))
    rows = torch.arange(count, device=starts.x.device)
    return model.take(rows, len(starts.x)), starts.take(rows)


def _goal(model: ScoreModel, x: Tensor) -> float:
    return relative_goal(dtype_of(model.net) or x.dtype)


def _check_features(features: Features, x: Tensor) -> None:
    """Raise TypeError or ValueError for what gives no row of numbers for each sample."""
    if not callable(features):
        raise TypeError(f"features must be a function (batch, ...) -> (batch, ...), got {features!r}")
    seen = features(x)
    if not isinstance(seen, Tensor) or not seen.is_floating_point():
        got = seen.dtype if isinstance(seen, Tensor) else type(seen).__name__
        raise TypeError(f"features must give a tensor of floating-point numbers, got {got}")
    rows = seen.ndim > 1 and len(seen) == len(x)
    require(rows, f"features of {len(x)} samples with a row for each, ({len(x)}, ...), got {tuple(seen.shape)}")


def _states(model: ScoreModel, asked: Asked, count: int, first: int) -> Tensor:
    if isinstance(asked.starts, Tensor):
        return asked.starts.to(device=asked.device, dtype=asked.dtype)
    unit, _, _ = start_state(
        model, (count, *asked.shape), None, asked.seed, range(first, first + count), None, SampleStreams,
        asked.dtype or torch.float64, asked.device,
    )  # fmt: skip
    return unit * model.sde.prior_std(asked.ends[1])


def _noise(asked: Asked, first: int, last: int) -> SampleStreams | None:
    """The noise of stochastic students: always the same for a start, so that two students differ by their numbers."""
    return SampleStreams(asked.seed, range(OTHERS + first, OTHERS + last)) if asked.stochastic else None


def _part(model: ScoreModel, x: Tensor, first: int, last: int) -> ScoreModel:
    return model.take(torch.arange(first, last, device=x.device), len(x))
