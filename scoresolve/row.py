"""One row of a solver's table: a network call, and what is done with its output.

Registers: the base state ``x``; the outputs ``m[0]`` (newest), ``m[1]``, ...; the normals ``z[0]`` (newest), ``z[1]``,
...; and the point ``y`` at which the network is asked next. A row says

    m = [model(y, row.t), *m]                                  evaluate
    z = [a fresh standard normal, *z]                          if the row has weights on z (drawn if its own is not 0)
    x = commit . (x, m[0], m[1], ...) + noise . z              move the base state (identity inside a step)
    y = propose . (x, m[0], m[1], ...) + propose_noise . z     where to ask next (identity: y = x)

A normal drawn inside a step may be used again by the later rows: the noise of a stage and of the step's end are then
correlated, as increments of one Brownian path are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor

from .errors import require
from .predictions import Prediction
from .reading import as_number

IDENTITY = (1.0,)


@dataclass(frozen=True)
class Row:
    """One network call and what is done with it.

    Attributes:
        t: the time at which the network is asked.
        s: the time the base state stands at after ``commit``; None if it has not moved.
        commit: weights on (x, m[0], m[1], ...) of the new base state; ``(1.0,)`` leaves it.
        noise: weights on the normals (z[0], z[1], ...) added by the commit; a number is taken as that of z[0].
        propose: weights on (x, m[0], m[1], ...) of the next point to ask at; ``(1.0,)`` is x itself.
        propose_noise: weights on the normals added to that point.
        asks: what the output is where it is not the table's own prediction (at times without signal, where only the
            data prediction says anything).
    """

    t: float
    s: float | None
    commit: tuple[float, ...] = IDENTITY
    noise: tuple[float, ...] = ()
    propose: tuple[float, ...] = IDENTITY
    propose_noise: tuple[float, ...] = ()
    asks: Prediction | None = None

    def __post_init__(self) -> None:
        if isinstance(self.noise, (int, float)):
            object.__setattr__(self, "noise", (float(self.noise),) if self.noise else ())

    @property
    def draws(self) -> bool:
        """Whether a fresh normal is drawn: some weight on z[0] is not zero."""
        return any(weights and weights[0] != 0.0 for weights in (self.noise, self.propose_noise))

    @property
    def outputs(self) -> int:
        """How many outputs it uses, its own among them."""
        return max(len(self.commit), len(self.propose)) - 1

    @property
    def normals(self) -> int:
        """How many normals it uses, its own among them."""
        return max(len(self.noise), len(self.propose_noise))

    def problem(self, number: int, drawn: list[bool]) -> str:
        """What is wrong with it as row ``number`` of a table: what was expected, or "".

        ``drawn`` says of each normal so far, newest first, this row's included, whether it was drawn.
        """
        weights = (*self.commit, *self.noise, *self.propose, *self.propose_noise)
        if not all(map(math.isfinite, weights)):
            return "finite weights"
        if not all(map(math.isfinite, (self.t, self.t if self.s is None else self.s))):
            return "finite times"
        if self.asks not in (None, *get_args(Prediction)):
            return f"asks to be one of {get_args(Prediction)} or None"
        if not self.commit or not self.propose:
            return "a weight on x"
        if self.outputs - 1 > number:
            return "weights only on outputs already made"
        held = [*drawn, *[False] * self.normals]
        if any(w != 0.0 and not h for z in (self.noise, self.propose_noise) for w, h in zip(z, held, strict=False)):
            return "weights only on normals already drawn"
        return ""

    def formulas(self) -> str:
        """What it does, as it is printed."""
        parts = [f"x <- {_formula(self.commit, self.noise)}"] if self.s is not None else []
        if self.propose != IDENTITY or self.propose_noise:
            parts.append(f"y <- {_formula(self.propose, self.propose_noise)}")
        asked = f" (m0 = {self.asks})" if self.asks else ""
        return "; ".join(parts) + asked

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Row:
        """A row from parsed JSON, which has all of its fields and no others. Raises: ValueError."""
        names = ("commit", "noise", "propose", "propose_noise")
        known = {field.name for field in fields(cls)}
        require(isinstance(content, dict) and {*content} == known, f"the fields {sorted(known)} of a row")
        require(all(isinstance(content[name], list) for name in names), f"lists of {', '.join(names)}")
        reached = content["s"]
        return cls(
            t=as_number(content["t"]),
            s=None if reached is None else as_number(reached),
            asks=content["asks"],
            **{name: tuple(map(as_number, content[name])) for name in names},
        )


def combine(weights: tuple[float, ...], x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """``weights . (x, *outputs)``, one operation for each weight that is not zero."""
    if weights == IDENTITY:
        return x
    first, *rest = weights
    total = x * first if first != 1.0 else x
    return accumulate(total, rest, outputs, fresh=total is not x)


def accumulate(total: Tensor, weights: Sequence[float], terms: Sequence[Tensor | None], fresh: bool) -> Tensor:
    """``total + weights . terms``; written in place only if ``fresh``: else it may be the caller's, or kept."""
    for weight, term in zip(weights, terms, strict=False):
        if weight != 0.0 and term is not None:
            total = total.add_(term, alpha=weight) if fresh else torch.add(total, term, alpha=weight)
            fresh = True
    return total


def _formula(weights: tuple[float, ...], noise: tuple[float, ...]) -> str:
    names = ["x", *(f"m{j}" for j in range(len(weights) - 1))]
    normals = ["z"] if len(noise) == 1 else [f"z{j}" for j in range(len(noise))]
    pairs = zip((*weights, *noise), (*names, *normals), strict=True)
    return " ".join(f"{weight:+.6g} {name}" for weight, name in pairs if weight != 0.0) or "0"
