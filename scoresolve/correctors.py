r"""Langevin correctors: steps of a Markov chain that leaves the marginal at one time in place.

At a fixed time t the unadjusted Langevin step of a constant size e,

    x <- x + e score(x, t) + sqrt(2 e) z,

has the marginal p_t as its stationary law up to O(e) (on a Gaussian of variance P: P / (1 - e / (2P)) exactly). The
two correctors differ in e. With a = (alpha_t / alpha_t')^2 of the step t' <- t just taken (1 in VE; 1 - beta on a
table of betas), d the number of elements of a sample, and ``snr`` their unit:

    annealed Langevin   e = 2 a (snr sigma_t)^2,              the same for all samples
    Langevin            e = 2 a (snr sqrt(d) / |score|)^2,    by the norm of each sample's own score

score_sde takes the norms of z and of the score, averaged over the batch, which makes a sample depend on its batch
mates. Here nothing does: |z| is replaced by sqrt(d), to which its average tends, so that the step does not depend on
the noise it scales. A step e(x) that depends on the state has the stationary law p / e, here p |score|^2: in many
dimensions |score| hardly varies and this is p (on a Gaussian the variance is high by 2/d), in few dimensions it is not,
and annealed Langevin is the one to use.

Source: Song et al. 2021, arXiv:2011.13456, alg. 4 and 5; Song and Ermon 2019, arXiv:1907.05600, alg. 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .ahead import ahead
from .draws import drawn
from .errors import real_number, require, unknown, whole_number
from .model import ScoreModel
from .noise import CORRECTOR, NoiseSource
from .sde import over_batch
from .table import AfterStep, Stats, Table


@dataclass(frozen=True)
class Corrector(ABC):
    """Langevin steps at a fixed time.

    Args:
        snr: the step's size relative to the noise, above 0.
        steps: steps at each time, at least 1; each costs one network call.
    """

    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        require(0 < real_number("snr", self.snr) < math.inf, f"a finite snr > 0, got {self.snr}")
        whole_number("steps", self.steps)

    @abstractmethod
    def _step_size(self, score: Tensor, sigma: float) -> float | Tensor:
        """The step's size e / a: a number, or one for each sample."""

    def draws(self, visits: range) -> range:
        """The numbers of the draws that :meth:`correct` asks for, called with each of ``visits`` for ``draw``."""
        return range(visits.start * self.steps, visits.stop * self.steps)

    def correct(self, model: ScoreModel, x: Tensor, t: float, ratio: float, noise: NoiseSource, draw: int) -> Tensor:
        """``steps`` Langevin steps at time t.

        Args: x (batch, ...) at time t; ratio the ``a`` above; noise is asked for draws ``draw * steps + k``.
        Cost: ``steps`` network calls.
        """
        sigma = model.sde.sigma(t)
        for k in range(self.steps):
            score = model.score(x, t)
            z = drawn(noise, CORRECTOR, draw * self.steps + k, x)
            size = over_batch(ratio * self._step_size(score, sigma), x)
            x = x + size * score + (2 * size).sqrt() * z
        return x


@dataclass(frozen=True)
class Langevin(Corrector):
    """Langevin steps of size ``2 a (snr sqrt(d) / |score|)^2``, with the norm of each sample's score.

    >>> import scoresolve as ss
    >>> ss.Langevin(snr=0.1, steps=2)
    Langevin(snr=0.1, steps=2)
    """

    def _step_size(self, score: Tensor, sigma: float) -> Tensor:
        size = 2 * self.snr**2 / score.reshape(len(score), -1).square().mean(dim=1)
        return torch.where(torch.isfinite(size), size, 0.0)  # a score of exactly zero gives no scale to go by


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    """Langevin steps of size ``2 a (snr sigma)^2``.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), 1.0).model(ss.VESDE())
    >>> ss.sample(model, (4, 2), solver="ddpm", steps=10, corrector=ss.AnnealedLangevin(snr=0.1, steps=2), seed=0).nfe
    30
    """

    def _step_size(self, score: Tensor, sigma: float) -> float:
        return 2 * (self.snr * sigma) ** 2


CORRECTORS: dict[str, type[Corrector]] = {"langevin": Langevin, "annealed_langevin": AnnealedLangevin}
CorrectorLike: TypeAlias = str | Corrector


def make_corrector(corrector: CorrectorLike) -> Corrector:
    """The corrector of that name with its default settings, or the one given."""
    if isinstance(corrector, Corrector):
        return corrector
    if corrector not in CORRECTORS:
        raise ValueError(unknown("corrector", corrector, CORRECTORS))
    return CORRECTORS[corrector]()


@dataclass(frozen=True)
class PredictorCorrector:
    """A one-step table whose every step is followed by a corrector at the time it has reached.

    At noise zero there is nothing to correct, and the corrector is left out. Cost: the table's calls and
    ``corrector.steps`` for each other step. Source: Song et al. 2021, arXiv:2011.13456, alg. 1.
    """

    table: Table
    corrector: Corrector
    corrections: int

    stochastic = True

    @classmethod
    def of(cls, runner: object, corrector: Corrector, noiseless_end: bool) -> PredictorCorrector:
        """Raises: ValueError unless the predictor is a one-step table."""
        if not isinstance(runner, Table) or not runner.one_step:
            why = "this solver chooses its own steps"
            if isinstance(runner, Table):
                why = f"{runner.solver!r} keeps outputs of earlier steps"
            raise ValueError(
                f"a corrector needs a one-step predictor, {why}: "
                "use solver='ddim', 'ddpm', 'reverse_diffusion', 'euler_maruyama', 'euler' or 'heun'"
            )
        return cls(runner, corrector, len(runner.times) - 1 - (1 if noiseless_end else 0))

    @property
    def nfe(self) -> int:
        """Network calls of a run."""
        return self.table.nfe + self.corrections * self.corrector.steps

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Run the table, correcting after each step."""
        noise = ahead(noise, CORRECTOR, self.corrector.draws(range(1, self.corrections + 1)), x)
        times = self.table.times
        squared = model.sde.alpha(times) ** 2

        def corrected(step: int, t: float, x: Tensor) -> Tensor:
            if step <= self.corrections:
                # from where there is no signal the ratio is 0, and calls would be spent on steps of no length
                ratio = squared[step - 1] / squared[step] or 1.0
                x = self.corrector.correct(model, x, t, ratio, noise, step)
            return x if after_step is None else after_step(step, t, x)

        return self.table.run(model, x, noise, corrected)
