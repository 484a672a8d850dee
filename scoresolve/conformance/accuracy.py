"""Is it the solver that it says? Cost, order, level of the noise, the last step, the law of the output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..checks import Check
from .affine import Errors, Map, affine_maps, errors, noise_level
from .draws import NotNormalError, OfSamples
from .subject import SHAPE, Oracle, Subject

BUDGETS = range(1, 13)
ELSEWHERE = 5e-3
"""Of the standard deviation: what extrapolation does not make by itself."""
LARGE = 1e3
"""A size of samples that says that a run was not stable; data are of size 1."""
LAWS = (10, 20, 50)
CLOSING = (0.4, 0.2)
"""Lengths in log sigma of a last step that is looked at by itself."""
POINT = 1e-5
"""Of the start's noise, what may be left where all data are at one point."""


@dataclass(frozen=True)
class Study:
    """The maps of finer and finer runs, and how far they are from the truth.

    Attributes: eta, the noise level of the dynamics; None where none fits.
    """

    maps: Sequence[Map]
    errors: Sequence[Errors]
    eta: float | None

    @property
    def part(self) -> str:
        """What an order is of: the law of the output where noise is drawn (weak), else the worst of the map."""
        return "law" if self.maps[-1].noise.numel() else "worst"

    def slope(self, part: str, floor: float) -> float | None:
        """The order of a part: of the finest doublings above rounding; None if there is none."""
        values = [getattr(one, part) for one in self.errors]
        if None in values:
            return None
        steps = [one.course.steps for one in self.maps]
        last = max((i for i, value in enumerate(values) if value > 30 * floor), default=0)
        first = max(last - (2 if floor > 1e-9 else 1), 0)  # levels rounded to a table's: a doubling alone is rough
        if first == last:
            return None
        return math.log(values[first] / values[last]) / math.log(steps[last] / steps[first])

    def worst_part(self) -> str:
        """The name of the largest error of the finest run."""
        last = self.errors[-1]
        return max(("law", "gain", "offset", "noise"), key=lambda part: getattr(last, part) or 0.0)

    def limit(self) -> tuple[str, float] | None:
        """What the signed error of a part runs to, (name, value), by Aitken's extrapolation of the three finest runs.

        A wrong noise may meet the error of a coarse run half way, and fake an order: 1.02 times the noise does.
        """
        found = [
            (name, float(away - late**2 / gap))
            for name in ("gain", "noise")
            for one in zip(*(getattr(each, f"signed_{name}") for each in self.errors[-3:]), strict=True)
            for away, late, early in [(one[2], one[2] - one[1], one[1] - one[0])]
            if (gap := late - early) != 0 and abs(late) < 0.75 * abs(early)  # where it settles down
        ]
        return max(found, key=lambda pair: abs(pair[1]), default=None)


def study(subject: Subject, oracle: Oracle, finest: int) -> Study:
    """Runs of up to ``finest`` steps, three at least; one more where a claim is missed: terms may cancel on the way."""
    courses = subject.smooth()
    count = max(3, sum(course.steps <= finest for course in courses))
    maps = affine_maps(subject, courses[:count], oracle)
    found = _study(maps, oracle)
    slope = found.slope(found.part, subject.floor)
    missed = slope is not None and subject.claim is not None and slope < subject.claim - subject.slack
    if missed and count < len(courses):
        found = _study([*maps, *affine_maps(subject, courses[count : count + 1], oracle)], oracle)
    return found


def _study(maps: Sequence[Map], oracle: Oracle) -> Study:
    eta = noise_level(maps, oracle)
    return Study(maps, [errors(one, oracle, eta) for one in maps], eta)


def affine(subject: Subject, oracle: Oracle) -> Check:
    """S((x + y)/2) = (S(x) + S(y))/2, the noise likewise, and each element by itself."""
    course = subject.smooth()[0]
    scale = math.hypot(*course.start)
    generator = torch.Generator().manual_seed(1)
    pair = scale * torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64, device="cpu")
    noise = OfSamples(range(2))

    def halfway(number: int, like: torch.Tensor) -> torch.Tensor:
        two = noise(number, like[:2])
        return torch.cat([two, two.mean(dim=0, keepdim=True)])

    try:
        out, _ = subject.run(course, oracle, torch.cat([pair, pair.mean(dim=0, keepdim=True)]), halfway)
    except NotNormalError as error:
        return Check("affine", "skip", f"it draws random numbers that are not normal ({error}): its law is not known")
    gap = float((out[2] - out[:2].mean(dim=0)).abs().max()) / math.hypot(*course.end)
    if gap <= max(1e-9, 10 * subject.floor):
        return Check("affine", "ok", f"to {gap:.0e}: what it does to a Gaussian is known without sampling")
    return Check(
        "affine",
        "warn",
        f"S((x + y)/2) is {gap:.1e} from (S(x) + S(y))/2: it clips, thresholds, chooses steps or mixes samples",
        "switch it off to have its order and its law measured: clip_sample=False, thresholding=False",
    )


def calls(subject: Subject, oracle: Oracle) -> Check:
    """The same number in every run, and the one that is declared."""
    counts: dict[int, int] = {}
    x = torch.zeros(2, *SHAPE, dtype=torch.float64, device="cpu")
    for steps in (5, 10, 10, 20):
        before = oracle.calls
        subject.run(subject.full(steps), oracle, x, None)
        made = oracle.calls - before
        if counts.setdefault(steps, made) != made:
            return Check("calls", "fail", f"{counts[steps]} and then {made} calls for {steps} steps")
    said = {steps: subject.calls(steps) for steps in counts}
    told = ", ".join(f"{made} for {steps}" for steps, made in counts.items())
    if all(one is None for one in said.values()):
        return Check("calls", "ok", f"{told} steps, counted; none is declared")
    wrong = [steps for steps, made in counts.items() if said[steps] != made]
    if wrong:
        return Check("calls", "fail", f"{told} steps; declared {', '.join(str(said[n]) for n in counts)}")
    return Check("calls", "ok", f"{told} steps, as declared")


def budgets(subject: Subject, oracle: Oracle) -> Check:
    """Every small number of steps, and the largest."""
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64, device="cpu")
    troubles, wide = [], []
    tried = (*BUDGETS, subject.whole) if subject.fixed else (1, BUDGETS[-1])  # an adaptive one makes its own
    for steps in tried:
        try:
            course = subject.full(steps)
            out, _ = subject.run(course, oracle, x * math.hypot(*course.start), None)
        except Exception as error:
            troubles.append(f"{steps} steps: {type(error).__name__}: {str(error)[:80]}")
            continue
        size = float(out.abs().max())
        if not math.isfinite(size):
            troubles.append(f"{steps} steps: not finite")
        elif size > LARGE:
            wide.append(f"|x| = {size:.0e} with {steps}")
    if troubles:
        return Check("budgets", "fail", "; ".join(troubles[:3]), "ask for other numbers of steps until that is mended")
    if wide:
        return Check("budgets", "warn", f"finite, but {', '.join(wide[:3])} steps", "more steps")
    told = f"{BUDGETS[0]} ... {BUDGETS[-1]} and {subject.whole}" if subject.fixed else " and ".join(map(str, tried))
    return Check("budgets", "ok", f"finite with {told} steps")


def order(subject: Subject, found: Study) -> Iterator[Check]:
    """The measured order away from sigma = 0 beside the claim; deviation and noise by themselves."""
    slope, claim = found.slope(found.part, subject.floor), subject.claim
    finest, error = found.maps[-1].course.steps, getattr(found.errors[-1], found.part)
    if slope is None:
        yield Check("order", "ok", f"exact to rounding ({error:.0e}) at {finest} steps")
        return
    parts, slowest = "", slope
    if found.eta:
        gain, noise = (found.slope(part, subject.floor) for part in ("gain", "noise"))
        parts = f"; deviation {_told(gain)}, noise {_told(noise)}"
        slowest = min(one for one in (slope, gain, noise) if one is not None)
    said = f"{slope:.2f}, error {error:.1e} at {finest} steps{parts}"
    name, limit = "order" if found.maps[-1].noise.numel() == 0 else "weak order", found.limit()
    if limit is not None and abs(limit[1]) > max(2 * found.errors[-1].worst, ELSEWHERE):
        said = f"{said}, but on the way to {limit[1]:+.2g}: it converges, to something else"
        yield Check(name, "fail", said, _why(limit[0]))
        return
    if slowest < 0.5:
        steps = zip((one.course.steps for one in found.maps), (one.worst for one in found.errors), strict=True)
        said = f"{slope:.2f}, errors {', '.join(f'{value:.1e} at {n}' for n, value in steps)} steps{parts}"
        yield Check(name, "fail", f"{said}: it does not converge to the law of the data", _why(found.worst_part()))
    elif claim is None:
        yield Check(name, "ok", f"{said}; none is claimed")
    elif slope < claim - subject.slack:
        yield Check(name, "fail", f"{said}, claimed {claim:g}", "claim what is measured, or find the stage that is off")
    elif slope > claim + subject.slack:
        yield Check(name, "warn", f"{said}, claimed {claim:g}", "better than claimed: another method, or a wrong claim")
    else:
        yield Check(name, "ok", f"{said}, claimed {claim:g}")


def level(found: Study) -> Check:
    """eta of what it follows."""
    if found.eta is None:
        return Check("noise level", "ok", "no single eta: the noise varies along the way, so only its law is compared")
    if found.eta == 0.0 and found.maps[-1].noise.numel() == 0:
        return Check("noise level", "ok", "eta = 0: the probability flow, no noise is drawn")
    return Check("noise level", "ok", f"eta = {found.eta:.3g}, {len(found.maps[-1].noise)} draws")


def last_step(subject: Subject, oracle: Oracle) -> Check:
    """A point mass must come out as that point, or as it is at the level where the run is said to end."""
    point = Oracle(point=True)
    courses = [subject.full(steps) for steps in (10, 40)]
    left = []
    for found in affine_maps(subject, courses, point):
        (_, variance_u), (mean_t, variance_t) = point.spread(found.course.start), point.spread(found.course.end)
        away = (found.gain @ point.spread(found.course.start)[0] + found.offset - mean_t).square()
        total = (found.gain.square() @ variance_u + found.variance + away).sqrt()
        left.append((float(total.max()), float(variance_t.max().sqrt()), float(variance_u.max().sqrt())))
    oracle.calls += point.calls
    (coarse, _, _), (fine, wanted, start) = left
    ends = "sigma = 0" if wanted == 0 else f"sigma = {wanted:.3g}"
    if abs(fine - wanted) <= POINT * start and abs(fine - wanted) <= max(1e-4, 0.05 * wanted):
        return Check("last step", "ok", f"a point mass ends as it should at {ends}, to {abs(fine - wanted):.0e}")
    if not math.isfinite(fine):
        return Check("last step", "fail", "not finite where all data are at one point")
    if abs(fine - wanted) < 0.5 * abs(coarse - wanted):
        return Check("last step", "ok", f"a point mass ends {fine:.1e} wide at 40 steps, {coarse:.1e} at 10")
    return Check(
        "last step",
        "fail",
        f"a point mass ends {fine:.3g} wide, and not as at {ends}: the run ends at another level",
        "take the last step to the last level that was given",
    )


def closing(subject: Subject, found: Study) -> Iterator[Check]:
    """The order of the very last step: one of a low order goes unseen in that of a long run."""
    pairs = [subject.closing(step) for step in CLOSING]
    slope = found.slope("worst", subject.floor)
    if found.maps[-1].noise.numel() or slope is None or slope < 0.5 or None in pairs:
        return
    oracle, off = Oracle(), []
    for before, whole in (pair for pair in pairs if pair is not None):
        first, last = affine_maps(subject, (before, whole), oracle)
        (_, variance), (_, ends) = oracle.spread(before.end), oracle.spread(whole.end)
        carried = (ends / variance).sqrt()[:, None] * first.gain
        off.append(float(((last.gain - carried) * oracle.spread(whole.start)[1].sqrt()).abs().max()))
    if off[-1] < 100 * subject.floor:
        return
    own = math.log(off[-2] / off[-1]) / math.log(CLOSING[-2] / CLOSING[-1]) - 1
    if own > slope - 0.6:
        yield Check("end of a run", "ok", f"its last step is of order {own:.1f}")
    else:
        yield Check(
            "end of a run",
            "warn",
            f"its last step, to a level above 0, is of order {own:.0f}, the run of {slope:.1f}",
            "it costs no order, but part of the error: a low order only where the last level is 0",
        )


def laws(subject: Subject, oracle: Oracle) -> Check:
    """Standard deviation of the output over the exact one, few steps, down to the end."""
    off = []
    for found in affine_maps(subject, [subject.full(steps) for steps in LAWS], oracle):
        (_, variance_u), (_, variance_t) = oracle.spread(found.course.start), oracle.spread(found.course.end)
        ratio = ((found.gain.square() @ variance_u + found.variance) / variance_t.clamp(min=1e-300)).sqrt()
        off.append(float(ratio[(ratio - 1).abs().argmax()] - 1))
    told = ", ".join(f"{100 * value:+.2g}% at {steps}" for steps, value in zip(LAWS, off, strict=True))
    if abs(off[-1]) > 0.1 and abs(off[-1]) > 0.7 * abs(off[0]):
        return Check(
            "law", "fail", f"standard deviation off by {told} steps", "more steps do not help: look at the noise"
        )
    return Check("law", "ok", f"standard deviation off by {told} steps")


def _told(slope: float | None) -> str:
    return "exact" if slope is None else f"{slope:.2f}"


def _why(part: str) -> str:
    """What of it does not converge."""
    return {
        "noise": "the deviation is right, the variance of the noise is not: look at its coefficient",
        "gain": "the deviation itself is off: look at the levels it steps to, and at the weights",
        "offset": "the mean is off: look at the levels it steps to, and at the weights",
    }.get(part, "look at the coefficient of the noise, and at the levels it steps to")
