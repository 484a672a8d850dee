r"""Corrector-only sampling (SMLD / NCSN): annealed Langevin dynamics, and nothing between the levels.

At each noise level of the grid below the first, ``corrections`` Langevin steps towards the marginal there
(``correctors.py``); the state passes from level to level as it is. Where the grid ends at noise zero the last level's
denoised estimate is returned, one more network call. The law is that of unadjusted Langevin chains: its bias
does not vanish as the grid is refined, only as ``snr`` does and ``corrections`` grows.

Source: Song and Ermon 2019, arXiv:1907.05600, alg. 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..ahead import ahead
from ..correctors import AnnealedLangevin, Corrector
from ..errors import require
from ..model import ScoreModel
from ..noise import CORRECTOR, NoiseSource
from ..registry import solver
from ..sde import SDE
from ..table import AfterStep, Stats


@dataclass(frozen=True)
class LangevinChain:
    """Langevin steps at one level after another."""

    times: np.ndarray
    corrector: Corrector
    denoise: bool

    stochastic = True

    @property
    def nfe(self) -> int:
        """Network calls of a run."""
        levels = len(self.times) - 1
        return (levels - 1) * self.corrector.steps + 1 if self.denoise else levels * self.corrector.steps

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Run the chain from level to level."""
        noise = ahead(noise, CORRECTOR, self.corrector.draws(range(1, len(self.times))), x)
        for step, t in enumerate(self.times[1:].tolist(), start=1):
            model.at_step(step - 1)
            if self.denoise and step == len(self.times) - 1:
                x = model.data(x, float(self.times[-2])) * model.sde.alpha(t)
            else:
                x = self.corrector.correct(model, x, t, 1.0, noise, step)
            x = x if after_step is None else after_step(step, t, x)
        return x, {}


@solver(
    "annealed_langevin",
    kind="sde",
    order=0,
    reference="Song and Ermon 2019, arXiv:1907.05600, alg. 1",
)
def annealed_langevin(sde: SDE, times: np.ndarray, *, snr: float = 0.16, corrections: int = 1) -> LangevinChain:
    """Annealed Langevin dynamics (SMLD, NCSN): corrector steps only, level after level.

    snr: step size 2 (snr sigma)^2 at each level. corrections: steps at each level, one network call each.
    """
    require(corrections >= 1, f"at least one correction at each level, got {corrections}")
    return LangevinChain(times, AnnealedLangevin(snr, corrections), denoise=sde.sigma(float(times[-1])) == 0)
