r"""Adaptive solvers of the reverse SDE: an exponential pair of strong orders 1.5 and 1, and Gotta-Go-Fast's.

The engine and its registers (x, D_1, D_2, W, I) are in ``adaptive_sde.py``.

**The pair 1.5(1).** As in ``srk.py``, with ``y = x e^{eta^2 lam} / sigma`` the reverse SDE is

    dy = D dw + dB_V,       w = e^{(1 + eta^2) lam},     V = e^{2 eta^2 lam},

whose noise is additive. Its clock is lam. On a node of length h let ``G = 1 - e^{-2 eta^2 h}``; the increments of B
over it are ``sqrt(dV) W`` and ``dV^{3/2} I``. SRA1 asks at the start and at three quarters of dV; in x,

    lam_2 = lam_s + log(1 - G/4) / (2 eta^2)
    y  = (sigma_2/sigma_t) e^{-eta^2 h_2} x + alpha_2 (1 - e^{-(1+eta^2) h_2}) D_1 + 3/2 sigma_2 sqrt(G/(1 - G/4)) I
    x' = (sigma_s/sigma_t) e^{-eta^2 h} x + alpha_s (1 - e^{-(1+eta^2) h}) ((1 - b) D_1 + b D_2) + sigma_s sqrt(G) W,

    b = 2 r / (1 + 2 r),   r = e^{(1-eta^2) h_2}  (the ratio of dw/dV at the two stages),   h_2 = lam_2 - lam_t.

It has strong order 1.5, and is exact for constant D. With D_1 alone it is the first-order exponential step, so that the
difference is ``alpha_s (1 - e^{-(1+eta^2) h}) b (D_2 - D_1)``. At eta = 1 the data prediction is a martingale along the
path, its increments grow as sqrt(h), and the estimate as h^{3/2}. The step of higher order is what is kept.

The estimate has two blind spots. A long step looks ahead where there is little noise, and the network confirms what
D_1 made of the state. On Gaussian data all is linear and the root mean squares can be computed: whatever the variance
of the data, the estimate is at least the error of what is kept up to h = 0.605 at eta = 1 (1.13 at 1/2, 0.20 at 2),
close to ``1.2 / (1 + eta^2)`` and, for eta > 1, ``0.8 / eta^2``; the smaller is taken as the longest step. And an
estimate from few elements is at times small by chance: a step grows by no more than 2, one level of the tree.

**Gotta-Go-Fast.** Euler-Maruyama and its improved form in t, for ``f`` and ``g`` of the process, k = t - s:

    E(x, t) = x - k f_t x + k g_t^2 score(x, t) + g_t sqrt(k) W,
    y = E(x, t),      x' = (y + [x - k f_s y + k g_s^2 score(y, s) + g_s sqrt(k) W]) / 2,      error = x' - y,

scaled by ``max(atol, rtol max(|y|, |y_previous|))``, y_previous that of the last accepted step. The next step is ``0.9
error^{-0.9}`` times this one. On a rejection the published method draws new noise, which biases its law; this one
splits the node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..adaptive_sde import AdaptiveSDE
from ..controller import Controller
from ..errors import require
from ..registry import solver
from ..rounding import sigmoid
from ..sde import SDE
from ..sde_pair import Pair, Weights


@dataclass(frozen=True)
class Exponential(Pair):
    """The pair 1.5(1) in lam."""

    sde: SDE
    eta: float = 1.0

    order = 1.5
    controller = Controller(grow=2.0)
    first = math.inf
    integrals = True

    @property
    def longest(self) -> float:
        """Beyond it the estimate is smaller than the error."""
        return min(1.2 / (1 + self.eta**2), 0.8 / self.eta**2)

    def place(self, t: Tensor) -> Tensor:
        """lam."""
        return self.sde.lam(t)

    def time(self, u: Tensor) -> Tensor:
        """The time at which lam is u."""
        return self.sde.time(u)

    def share(self, a: Tensor, b: Tensor) -> Tensor:
        """Of e^{2 eta^2 lam}: 1 / (1 + e^{eta^2 (b - a)})."""
        return sigmoid(-(self.eta**2) * (b - a))

    def weights(self, a: Tensor, b: Tensor) -> Weights:
        """See the top of the file."""
        square, sde = self.eta**2, self.sde
        grown = -torch.expm1(-2 * square * (b - a))
        middle = b + torch.log1p(-0.25 * grown) / (2 * square)
        t, stage, s = (sde.time(u) for u in (a, middle, b))
        to_stage, of_data_2 = self._step(a, middle, t, stage)
        to_end, of_data = self._step(a, b, t, s)
        ratio = 2 * ((1 - square) * (middle - a)).exp()
        second = of_data * ratio / (1 + ratio)
        of_area = 1.5 * sde.sigma(stage) * (grown / (1 - 0.25 * grown)).sqrt()
        return Weights(
            stage,
            propose=(to_stage, of_data_2, None, None, of_area),
            commit=(to_end, of_data - second, second, sde.sigma(s) * grown.sqrt(), None),
            error=(None, -second, second, None, None),
        )

    def _step(self, a: Tensor, b: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of x and of a constant D in the exponential step from lam = a to b."""
        gain = self.sde.sigma(s) / self.sde.sigma(t) * (-(self.eta**2) * (b - a)).exp()
        return gain, -self.sde.alpha(s) * torch.expm1(-(1 + self.eta**2) * (b - a))


@dataclass(frozen=True)
class GottaGoFast(Pair):
    """Euler-Maruyama and its improved form, on the clock -t."""

    sde: SDE

    eta = 1.0
    order = 1.0
    controller = Controller(integral=0.9)
    first = 0.01
    integrals = False

    @property
    def longest(self) -> float:
        """Any."""
        return math.inf

    def place(self, t: Tensor) -> Tensor:
        """-t."""
        return -t

    def time(self, u: Tensor) -> Tensor:
        """-u."""
        return -u

    def share(self, a: Tensor, b: Tensor) -> Tensor:
        """A half."""
        return torch.full_like(a, 0.5)

    def weights(self, a: Tensor, b: Tensor) -> Weights:
        """See the top of the file; with ``score = (alpha D - x) / sigma^2``."""
        of_x, of_data, of_noise = self._slopes(-a, b - a)
        then_x, then_data, then_noise = self._slopes(-b, b - a)
        one = torch.ones_like(a)
        propose = one + of_x, of_data, of_noise
        return Weights(
            -b,
            propose=(propose[0], propose[1], None, propose[2], None),
            commit=(
                0.5 * (propose[0] + one + then_x * propose[0]),
                0.5 * (propose[1] + then_x * propose[1]),
                0.5 * then_data,
                0.5 * (propose[2] + then_x * propose[2] + then_noise),
                None,
            ),
            error=(
                0.5 * (then_x * propose[0] - of_x),
                0.5 * (then_x * propose[1] - of_data),
                0.5 * then_data,
                0.5 * (then_x * propose[2] + then_noise - of_noise),
                None,
            ),
        )

    def _slopes(self, t: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a step of length k with the coefficients of time t adds: weights of x, D and W."""
        strength = k * self.sde.squared_diffusion(t) / self.sde.sigma(t) ** 2
        of_x = -k * self.sde.drift_rate(t) - strength
        return of_x, strength * self.sde.alpha(t), self.sde.diffusion(t) * k.sqrt()

    def scaled(self, error: Tensor, x: Tensor, end: Tensor, low: Tensor, rtol: float, atol: float) -> Tensor:
        """Root mean square of ``error / max(atol, rtol max(|y|, |y_previous|))``."""
        scale = torch.maximum((end - error).abs(), low.abs()).mul_(rtol).clamp_(min=atol)
        found = (error / scale).square().mean(dim=1).sqrt().double()
        return torch.where(torch.isfinite(found), found, torch.inf)


@solver(
    "adaptive_sde_sra",
    kind="sde",
    order=2,
    strong_order=1.5,
    evaluations=2,
    adaptive=True,
    reference="Roessler 2010, doi:10.1137/09076636X, SRA1, exponentially, on a kept path",
)
def adaptive_sde_sra(
    sde: SDE,
    times: np.ndarray,
    *,
    rtol: float = 0.05,
    atol: float = 0.0078,
    eta: float = 1.0,
    nodes: bool = False,
) -> AdaptiveSDE:
    """Adaptive exponential SRA1, strong order 1.5, on a Brownian path that rejections do not redraw.

    rtol, atol: local tolerances. eta: multiplier of the noise's standard deviation, above 0. nodes: note the accepted
    steps, in ``solution.stats["nodes"]``.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), torch.eye(2)).model(ss.VPSDE())
    >>> solution = ss.sample(model, shape=(8, 2), solver="adaptive_sde_sra", rtol=0.1, seed=0)
    >>> bool((solution.nfe_per_sample == 2 * solution.stats["accepted"] + solution.stats["rejected"]).all())
    True
    """
    require(eta > 0, f"eta > 0 for an adaptive SDE solver, got {eta}: use adaptive_abm without noise")
    return AdaptiveSDE(times, rtol, atol, pair=Exponential(sde, eta), nodes=nodes)


@solver(
    "adaptive_sde_ggf",
    kind="sde",
    order=1,
    strong_order=1.0,
    evaluations=2,
    adaptive=True,
    reference="Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, alg. 1, on a kept path",
)
def adaptive_sde_ggf(
    sde: SDE, times: np.ndarray, *, rtol: float = 0.05, atol: float = 0.0078, nodes: bool = False
) -> AdaptiveSDE:
    """Gotta-Go-Fast: adaptive Euler-Maruyama and improved Euler, with a Brownian path that rejections do not redraw.

    rtol, atol: local tolerances. nodes: note the accepted steps, in ``solution.stats["nodes"]``.
    """
    return AdaptiveSDE(times, rtol, atol, pair=GottaGoFast(sde), nodes=nodes)
