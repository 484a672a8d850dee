"""What is found of the classical systems: rows of their table, bits per dimension, means and spreads over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .classical import SYSTEMS
from .data import Images
from .fidelity import Fidelity

GUIDED, REAL = "guided", "real"
TITLES = {name: one.title for name, one in SYSTEMS.items()} | {GUIDED: "DDPM, guided", REAL: "for scale"}
"""Of the systems, of DDPM that is guided, and of what the numbers are held against; in the order of the table."""
SHOWN = 100
"""Samples in a picture."""


@dataclass(frozen=True)
class Row:
    """One system, sampler and seed.

    Attributes: nfe, network calls that a sample took part in, on average; seconds for 1000 samples; frechet and kernel
    (times 1000), distances to the training images; precision and recall; recognised, the share of samples in which
    the judge sees the class that was asked for, None where none was.
    """

    system: str
    sampler: str
    title: str
    seed: int
    nfe: float | None
    seconds: float | None
    frechet: float
    kernel: float
    precision: float
    recall: float
    recognised: float | None = None

    @classmethod
    def of(cls, system: str, sampler: str, title: str, seed: int, found: Fidelity, **work: float) -> Row:
        """Of what the samples got."""
        good = found.frechet, 1000 * found.kernel, found.precision, found.recall, found.recognised
        return cls(system, sampler, title, seed, work.get("nfe"), work.get("seconds"), *good)


@dataclass(frozen=True)
class Bits:
    """Bits per dimension of a system and seed: of the probability flow, and the variational bound."""

    system: str
    seed: int
    flow: float
    bound: float


@dataclass(frozen=True)
class Mean:
    """Over seeds: the mean and the spread (standard deviation of one seed, NaN of a single one)."""

    value: float
    spread: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of the seeds' values."""
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), spread, len(values))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.spread / math.sqrt(self.count)

    def text(self, digits: int) -> str:
        """For people."""
        spread = "" if math.isnan(self.spread) else f" ± {self.spread:.{digits}f}"
        return f"{self.value:.{digits}f}{spread}"


@dataclass
class Results:
    """All that was found. ``shown``: some samples of each system and sampler."""

    images: Images
    count: int
    rows: list[Row] = field(default_factory=list)
    bits: list[Bits] = field(default_factory=list)
    shown: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def add(self, row: Row, samples: Tensor) -> None:
        """A row, and the samples that it is of; those of the first seed are shown."""
        self.rows.append(row)
        self.shown.setdefault((row.system, row.sampler), samples[:SHOWN])

    def pairs(self) -> list[tuple[str, str, str]]:
        """Systems, samplers and their titles, in order."""
        found = dict.fromkeys((row.system, row.sampler, row.title) for row in self.rows)
        return sorted(found, key=lambda pair: list(TITLES).index(pair[0]))

    def values(self, system: str, sampler: str, metric: str) -> list[float]:
        """Of a metric, for each seed; none where it was not measured."""
        own = [getattr(row, metric) for row in self.rows if (row.system, row.sampler) == (system, sampler)]
        return [value for value in own if value is not None]

    def mean(self, system: str, sampler: str, metric: str) -> Mean | None:
        """Of a metric over the seeds; None if it was not measured."""
        values = self.values(system, sampler, metric)
        return Mean.of(values) if values else None

    def mean_bits(self, system: str, kind: str) -> Mean | None:
        """Of bits per dimension, "flow" or "bound"."""
        values = [getattr(one, kind) for one in self.bits if one.system == system]
        return Mean.of(values) if values else None
