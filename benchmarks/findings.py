"""What the papers let one expect of the classical systems, and whether it is so here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .classical import SYSTEMS
from .samplers import CALLS
from .systems_results import GUIDED, TITLES, Results


@dataclass(frozen=True)
class Finding:
    """Something that the papers let one expect, and whether it is so here."""

    statement: str
    figures: str
    holds: bool


def findings(results: Results) -> list[Finding]:
    """Those of which both sides were measured."""
    return [found for check in CHECKS for found in check(results)]


def _ddim(results: Results) -> Iterator[Finding]:
    few, many = (results.mean("ddpm", name, "frechet") for name in ("ddim-50-0", "ancestral-1000"))
    if few and many:
        noise = 2 * math.hypot(few.error, many.error)
        figures = f"Frechet distance {few.text(3)} and {many.text(3)}, noise of the difference {noise:.3f}"
        holds = not few.value - many.value > noise
        yield Finding("DDIM with 50 steps is as good as DDPM with 1000, within the noise", figures, holds)


def _likelihood(results: Results) -> Iterator[Finding]:
    for kind in ("flow", "bound"):
        sub, vp = (results.mean_bits(system, kind) for system in ("subvp", "vp"))
        if sub and vp:
            noise = 2 * math.hypot(sub.error, vp.error)
            name = "likelihood" if kind == "flow" else "variational bound"
            figures = f"bits/dim {sub.text(4)} and {vp.text(4)}"
            holds = not sub.value - vp.value > noise
            yield Finding(f"sub-VP's {name} is at least as good as VP's", figures, holds)


def _bound(results: Results) -> Iterator[Finding]:
    for system in SYSTEMS:
        flow, bound = (results.mean_bits(system, kind) for kind in ("flow", "bound"))
        if flow and bound:
            figures = f"bits/dim {bound.text(4)} above {flow.text(4)}"
            yield Finding(
                f"{TITLES[system]}: the variational bound is above the flow's bits", figures, bound.value > flow.value
            )


def _pairs(results: Results) -> Iterator[Finding]:
    for calls in CALLS:
        pair, predictor = (results.mean("ve", f"{name}-{calls}", "frechet") for name in ("pair", "predictor"))
        if pair and predictor:
            figures = f"Frechet distance {pair.text(3)} and {predictor.text(3)}"
            statement = f"VE, {calls} calls: predictor and corrector in turn are better than the predictor alone"
            yield Finding(statement, figures, pair.value < predictor.value)


def _guidance(results: Results) -> Iterator[Finding]:
    for kind, how in (("free", "without a classifier"), ("class", "by a classifier")):
        for metric, rises in (("precision", True), ("recall", False)):
            low, high = (results.mean(GUIDED, f"{kind}-{scale}", metric) for scale in (1, 4))
            if low and high:
                figures = f"{low.text(3)} at scale 1, {high.text(3)} at 4"
                holds = (high.value > low.value) is rises
                yield Finding(f"guidance {how} {'raises' if rises else 'lowers'} {metric}", figures, holds)


def _recognised(results: Results) -> Iterator[Finding]:
    for kind, how in (("free", "without a classifier"), ("class", "by a classifier")):
        for scale in (1, 2, 4):
            if found := results.mean(GUIDED, f"{kind}-{scale}", "recognised"):
                statement = f"guided {how}, scale {scale}: at least 95 % are seen as the class asked for"
                yield Finding(statement, found.text(3), found.value >= 0.95)


CHECKS: tuple[Callable[[Results], Iterator[Finding]], ...] = (
    _ddim, _likelihood, _bound, _pairs, _guidance, _recognised,
)  # fmt: skip
