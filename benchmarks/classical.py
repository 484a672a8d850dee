"""The classical systems: what each says of process, prediction, time label and objective. The network is one.

DDIM is another sampler of DDPM's network (Song et al. 2020, arXiv:2010.02502), and has no row. All objectives are the
squared error of the noise, ``sigma^2 |s - grad log p(x_t | x_0)|^2``: what the papers differ in is the process, and
whether its levels are a table or a continuum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import scoresolve as ss
from scoresolve.errors import require, unknown

from .networks import Label

SIGMA_MIN = 0.01
T_MIN = 1e-5
"""Where the continuous systems' training ends (Song et al. 2021, app. C)."""

Loss = Callable[[ss.ScoreModel, Tensor, int], Tensor]


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        title, source: for people.
        process: made from the span of the data (``Images.span``), which VE processes end at.
        label: what the network is told, and ``ss.ScoreModel(time=)``. It always predicts the noise.
        loss: (model, x0 (batch, ...), seed) -> (batch,), summed over elements.
        discrete: whether it is trained on a table of levels only.
    """

    title: str
    source: str
    process: Callable[[float], ss.SDE]
    label: Label
    loss: Loss
    discrete: bool = False

    def model(self, net: nn.Module, span: float, *, between: bool = False) -> ss.ScoreModel:
        """The network with its process. ``between``: one told an index takes fractions, at times between its levels."""
        time = "fractional_index" if between and self.label == "index" else self.label
        return ss.ScoreModel(net, self.process(span), predicts="noise", time=time)


def ladder(sde: ss.SDE, dimension: int) -> Tensor:
    """Times of a geometric ladder of a VE process' noise levels, from t = 0 to 1, so dense that neighbours overlap.

    In d dimensions the norm of the noise at level sigma is normal, of mean ``sqrt(d) sigma`` and variance
    ``sigma^2 / 2``. With the ratio g of two levels such that ``sqrt(2 d) (g - 1) = 3 g`` the three sigmas of the upper
    reach down to the middle of the lower: half of its mass is shared.
    Source: Song and Ermon 2020, arXiv:2006.09011, technique 2 (CIFAR-10: 232 levels; here 220).
    """
    require(dimension >= 5, f"at least 5 dimensions, got {dimension}")
    ratio = 1 / (1 - 3 / math.sqrt(2 * dimension))
    steps = math.ceil((sde.lam(0.0) - sde.lam(1.0)) / math.log(ratio))
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def ladder_loss(model: ss.ScoreModel, x0: Tensor, seed: int) -> Tensor:
    """The noise's squared error on the levels of the ladder, each with equal chance."""
    drawn = ss.losses.draw(model, x0, t_min=0.0, t_max=1.0, seed=seed)  # the ladder's t is uniform before it is snapped
    times = ladder(model.sde, x0[0].numel()).to(x0.device)
    level = (drawn.t * len(times)).floor().long().clamp(max=len(times) - 1)
    return ss.losses.denoising_score_matching(model, x0, drawn=dataclasses.replace(drawn, t=times[level]))


def continuous_loss(model: ss.ScoreModel, x0: Tensor, seed: int) -> Tensor:
    """``sigma^2 |s - grad log p(x_t | x_0)|^2``, t uniform (Song et al. 2021, eq. 7)."""
    return ss.losses.denoising_score_matching(model, x0, weighting="sigma2", t_min=T_MIN, seed=seed)


def table_loss(model: ss.ScoreModel, x0: Tensor, seed: int) -> Tensor:
    """DDPM's simple loss."""
    return ss.losses.ddpm_simple(model, x0, seed=seed)


def _ve(span: float) -> ss.SDE:
    return ss.VESDE(SIGMA_MIN, span)


SYSTEMS: dict[str, System] = {
    "ncsn": System("NCSN (SMLD)", "arXiv:1907.05600, 2006.09011", _ve, "sigma", ladder_loss, discrete=True),
    "ddpm": System(
        "DDPM", "arXiv:2006.11239", lambda span: ss.DiscreteVPSDE.linear(), "index", table_loss, discrete=True
    ),
    "ve": System("score SDE, VE", "arXiv:2011.13456", _ve, "sigma", continuous_loss),
    "vp": System("score SDE, VP", "arXiv:2011.13456", lambda span: ss.VPSDE(), "t", continuous_loss),
    "subvp": System("score SDE, sub-VP", "arXiv:2011.13456", lambda span: ss.SubVPSDE(), "t", continuous_loss),
}


def system(name: str) -> System:
    """The system of that name. Raises: ValueError for an unknown one."""
    if name not in SYSTEMS:
        raise ValueError(unknown("system", name, SYSTEMS))
    return SYSTEMS[name]
