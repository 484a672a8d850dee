"""Is it a good neighbour? Batches, inputs, buffers, generators, exceptions, NaN, dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..checks import Check
from .draws import OfSamples
from .subject import SHAPE, BrokenOffError, Course, Oracle, Subject

STEPS, BATCH = 6, 16
LABELS = 0.01
"""A relative error of the level told that a network does not see."""


class Behaviour:
    """The checks, on one short run.

    Args: random, whether the sampler draws noise that can be replaced.
    """

    def __init__(self, subject: Subject, oracle: Oracle) -> None:
        self.subject, self.oracle = subject, oracle
        self.course = subject.full(STEPS)
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(BATCH, *SHAPE, generator=generator, dtype=torch.float64, device="cpu")
        self.x = x * math.hypot(*self.course.start)
        self.usual = self.run(self.x, range(BATCH))

    def run(self, x: Tensor, ids: Sequence[int] | None, oracle: Oracle | None = None) -> Tensor:
        """The end of a run with the noise of these samples, or with the sampler's own."""
        oracle = oracle or Oracle()
        out, _ = self.subject.run(self.course, oracle, x, None if ids is None else OfSamples(ids))
        self.oracle.calls += oracle.calls
        return out

    def checks(self) -> Iterator[Check]:
        """All of them."""
        for check in (
            self.shape, self.input, self.again, self.apart, self.buffer, self.generator, self.nan, self.precision,
            self.levels,
        ):  # fmt: skip
            try:
                yield check()
            except Exception as error:
                yield Check(_name(check), "fail", f"{type(error).__name__}: {str(error)[:160]}")

    def shape(self) -> Check:
        """shape and dtype: as they came in."""
        name, kept, wanted = "shape and dtype", self.usual, self.x
        if kept.shape != wanted.shape or kept.device != wanted.device:
            return Check(name, "fail", f"{tuple(wanted.shape)} came out as {tuple(kept.shape)}")
        if kept.dtype != wanted.dtype:
            return Check(
                "shape and dtype", "warn", f"a {wanted.dtype} state came out as {kept.dtype}", "return x.dtype"
            )
        return Check(name, "ok", f"{tuple(kept.shape)} {kept.dtype}")

    def input(self) -> Check:
        """input left alone: what was handed over is as it was."""
        name, plan = "input left alone", self.course.plan
        levels = plan.clone() if isinstance(plan, Tensor) else None
        x = self.x.clone()
        self.run(x, range(BATCH))
        if not torch.equal(x, self.x):
            return Check(name, "fail", "it writes into the state that it is given", "begin with x = x.clone()")
        if levels is not None and not torch.equal(levels, plan):
            return Check(name, "fail", "it writes into the noise levels that it is given", "sigmas = sigmas.clone()")
        return Check(name, "ok", "state and levels are as they were")

    def again(self) -> Check:
        """state left behind: a second run, and one after a run that broke off, give what the first gave."""
        name = "state left behind"
        second = self.run(self.x, range(BATCH))
        if not torch.equal(second, self.usual):
            return Check(
                name, "fail", f"a second run of the same object is {self._gap(second, self.usual):.1e} away",
                "reset everything at the start of a run: history, counters, generators",
            )  # fmt: skip
        try:
            self.run(self.x, range(BATCH), Oracle(stop=2))
        except BrokenOffError:
            pass
        except Exception as error:
            return Check(name, "warn", f"an exception of the network becomes {type(error).__name__}", "let it through")
        third = self.run(self.x, range(BATCH))
        if torch.equal(third, self.usual):
            return Check(name, "ok", "a second run, and one after an exception, are the same to the bit")
        found = f"after a run that an exception ended, the next is {self._gap(third, self.usual):.1e} away"
        return Check(name, "fail", found, "reset everything at the start of a run")

    def apart(self) -> Check:
        """samples apart: whatever batch, order and memory a sample is in."""
        name, usual, order = (
            "samples apart",
            self.usual,
            torch.randperm(BATCH, generator=_generator(4), device="cpu").tolist(),
        )
        wild = 50 * self.x
        wild[0] = self.x[0]
        strided = self.x.transpose(0, -1).contiguous().transpose(0, -1)
        gaps = {
            "alone": self._gap(self.run(self.x[:1], [0]), usual[:1]),
            "among 2": self._gap(self.run(self.x[:2], [0, 1]), usual[:2]),
            "among 3": self._gap(self.run(self.x[:3], range(3)), usual[:3]),
            "shuffled": self._gap(self.run(self.x[order], order), usual[order]),
            "in other memory": self._gap(self.run(strided, range(BATCH)), usual),
            "beside wild ones": self._gap(self.run(wild, range(BATCH))[:1], usual[:1]),
        }
        worst = max(gaps, key=lambda key: gaps[key])
        if gaps[worst] == 0:
            return Check(name, "ok", "to the bit: alone, among 2, 3 and 16, shuffled, strided, beside wild ones")
        found = f"a sample {worst} is {gaps[worst]:.1e} from itself"
        if gaps[worst] < 1e-5:
            return Check(name, "warn", f"{found}: rounding")
        return Check(name, "fail", found, "no mean, norm or maximum over the batch")

    def buffer(self) -> Check:
        """kept answers: a network may return the same buffer each time."""
        gap = self._gap(self.run(self.x, range(BATCH), Oracle(reuse=True)), self.usual)
        if gap == 0:
            return Check("kept answers", "ok", "a network that answers in one buffer each time changes nothing")
        return Check(
            "kept answers",
            "warn",
            f"a network that answers in one buffer each time makes it {gap:.1e} wrong",
            "keep copies of what is kept, or have the network return one: net(x, t).clone()",
        )

    def generator(self) -> Check:
        """generators: torch's global ones are neither read nor moved; one seed, one result, whatever the batch."""
        name = "generators"

        def seeded(seed: int, rows: int) -> tuple[Tensor, Tensor]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self.run(self.x[:rows], None), torch.get_rng_state()

        (one, after), (two, later), (few, _) = seeded(5, BATCH), seeded(6, BATCH), seeded(5, 3)
        untouched = torch.Generator().manual_seed(5).get_state()
        moved, random = not torch.equal(after, untouched), not self._still()
        if torch.equal(after, later):
            return Check(name, "fail", "it seeds torch's global generator", "take generator=, and leave the global one")
        if moved and not random:
            return Check(name, "fail", "it moves torch's global generator without need", "take generator=")
        again, _ = seeded(5, BATCH)
        if not torch.equal(again, one):
            return Check(name, "fail", "one seed, two results", "draw from torch's generators only, and seed them")
        apart = torch.equal(few, one[:3])
        if moved:
            said = "" if apart else ", and a sample's noise depends on the size of its batch"
            return Check(
                name, "warn", f"it draws from torch's global generator{said}: a choice of design", "take generator="
            )  # fmt: skip
        if random and not apart:
            return Check(name, "warn", "a sample's noise depends on the size of its batch: a choice of design")
        if random and torch.equal(one, two):
            return Check(name, "ok", "the global one is left alone; a sample's noise is its own")
        return Check(name, "ok", "the global one is left alone" + ("" if random else "; nothing is drawn"))

    def nan(self) -> Check:
        """NaN: of the network, in one sample."""
        name, row = "NaN", 3
        try:
            out = self.run(self.x, range(BATCH), Oracle(bad=(2, row)))
        except Exception as error:
            return Check(name, "ok", f"raised: {type(error).__name__}: {str(error)[:90]}")
        bad = out.flatten(1).isfinite().all(dim=1).logical_not().nonzero().flatten().tolist()
        if not bad and self._gap(out, self.usual) < 0.01:
            return Check(name, "ok", "the step is made again: the result is right")
        if not bad:
            return Check(name, "fail", "a NaN of the network is hidden: the result is wrong", "let it through")
        if bad != [row]:
            return Check(
                name, "fail", f"a NaN in one sample spreads to {len(bad)} of {BATCH}", "no sums over the batch"
            )
        return Check(name, "ok", "passed through in its own sample, without a word: a choice of design")

    def precision(self) -> Check:
        """float64 state: what is given in float64 is computed in it."""
        small, ids = 1e-9, range(1)
        base, far, near = (self.run(self.x[:1] * (1 + change), ids) for change in (0.0, 1e-3, small))
        moved, wanted = (near - base).double(), (far - base).double() * (small / 1e-3)
        gap = float((moved - wanted).norm() / wanted.norm().clamp(min=1e-300))
        if gap < 0.05:
            return Check("float64 state", "ok", "kept in float64")
        return Check("float64 state", "warn", "it is rounded to float32 on the way: a choice of design", "keep x.dtype")

    def levels(self) -> Check:
        """levels: the network is asked at the levels of the run, the first one first."""
        oracle = Oracle()
        self.run(self.x[:1], [0], oracle)
        first, last = (sigma / max(alpha, 1e-300) for alpha, sigma in (self.course.start, self.course.end))
        name, asked = "levels", oracle.asked
        if not math.isclose(asked[0], first, rel_tol=0.05) and first < 1e6:
            found = f"it first asks at sigma/alpha = {asked[0]:.4g}; the state is at {first:.4g}"
            return Check(name, "fail" if self.subject.fixed else "warn", found, "ask at the level of the state")
        if min(asked) < 0.9 * last or min(asked) <= 0:
            return Check(name, "fail", f"it asks at sigma/alpha = {min(asked):.2g}", "no network knows that level")
        off = self.subject.labels_off()
        if off > LABELS:
            found = f"the labels that are passed on are up to {off:.0%} off the level of the state"
            return Check(name, "warn", found, "labels that are not rounded, or levels at whole ones")
        return Check(name, "ok", f"asked at sigma/alpha from {asked[0]:.4g} to {min(asked):.2g}")

    def _still(self) -> bool:
        """Whether nothing is drawn: other noise, same result."""
        return torch.equal(self.run(self.x, range(1, BATCH + 1)), self.usual) and torch.equal(
            self.run(self.x, None), self.usual
        )

    def _gap(self, found: Tensor, wanted: Tensor) -> float:
        """Largest difference over the root mean square; infinite where it is not a number."""
        size = float(wanted.double().square().mean().sqrt())
        gap = float((found.double() - wanted.double()).abs().max()) / max(size, 1e-300)
        return gap if math.isfinite(gap) else math.inf


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _name(check: Callable[[], Check]) -> str:
    """The first words of its docstring."""
    return (check.__doc__ or "").split(":")[0]


__all__ = ["Behaviour", "Course"]
