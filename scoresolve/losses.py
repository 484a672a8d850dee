r"""Training objectives. With clean data all are a weight on ``|D - x_0|^2``; without, see ``implicit.py``.

With x = alpha x_0 + sigma eps in hand, a guess D of the data is a guess (x - alpha D) / sigma of the noise, so that the
errors of data and noise are ``e`` and ``-exp(lam) e``. A prediction ``P data + Q noise`` (``predictions.py``) is then
wrong by

    e_P = (P - Q exp(lam)) e,         e = D(x) - x_0,         lam = log(alpha / sigma),

a known number at each time times the error of the data, and hence also times that of whatever the network predicts.
An objective is a prediction whose squared error it takes, a factor, and a measure of noise levels:

    E_x0 E_eps  int factor |e_P|^2 dmu          mu: a law of times, or dlam, or each level of a table once.

    name              |e_P|^2 of    factor                            mu            = weight of |e|^2
    sigma2, DDPM's    noise         1                                 times         exp(2 lam)
    likelihood        noise         1                                 dlam          exp(2 lam)
    edm               data          (rho^2 + s^2) / (rho s)^2         log_normal    exp(2 lam) + 1 / s^2
    min_snr           noise         min(1, gamma exp(-2 lam))         times         min(exp(2 lam), gamma)
    flow matching     velocity      1                                 times         (alpha dlam/dt)^2
    DDPM's bound      data          c^2 / (2 v) (``bound.py``)        each level    the same

Losses come one for each sample, ``(batch,)``, in the dtype of x0, **summed** over its elements: ``loss.mean()`` trains,
``loss.mean() / x0[0].numel()`` is the customary mean over elements. The network may work in half precision.

Whatever the weight, its minimiser is D = E[x_0 | x], as ``E|D - x_0|^2 = E|D - E[x_0|x]|^2 + const``: with an unlimited
network the weight decides how fast it is found; with a limited one, what is given up.

Source: Vincent 2011, doi:10.1162/NECO_a_00142 (denoising score matching); Kingma and Gao 2023, arXiv:2303.00848.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack, get_args

import torch
from torch import Tensor

from .bound_levels import DiscreteLevels, Variance
from .custom import DiscreteVPSDE
from .errors import require, unknown
from .implicit import implicit_score_matching, sliced_score_matching
from .model import ScoreModel
from .predictions import Prediction, conversion, truth
from .sde import SDE
from .starting import check_batch, check_model
from .time_laws import Adaptive, TimeLaw, levels, log_normal, logit_normal, matched, uniform, uniform_lam
from .training_draws import Draw, Drawing, Measure, draw

__all__ = [
    "Adaptive", "Draw", "Drawing", "TimeLaw", "Weighting", "ddpm_bound", "ddpm_simple", "denoising_score_matching",
    "draw", "edm", "flow_matching", "implicit_score_matching", "levels", "log_normal", "logit_normal", "matched",
    "min_snr", "sliced_score_matching", "uniform", "uniform_lam",
]  # fmt: skip


@dataclass(frozen=True)
class Weighting:
    """A row of the table above: ``factor |e_of|^2``.

    Attributes:
        of: the prediction whose squared error it is.
        factor: (process, t (batch,)) -> float64 (batch,).
        measure: "times", an average over the law of times; or "lam" or "level", an integral or a sum, the same whatever
            law the times are drawn from.
        times: the law to draw from by default.
    """

    of: Prediction
    factor: Callable[[SDE, Tensor], Tensor] | None = None
    measure: Measure = "times"
    times: TimeLaw | None = None


def edm(sd: float = 0.5) -> Weighting:
    """``(rho^2 + sd^2) / (rho sd)^2 = exp(2 lam) + 1 / sd^2`` on the error of the data, of standard deviation sd.

    It is ``1 / c_out^2``: in EDM's preconditioning the raw network's error has weight one. Times: ``log_normal()``.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1.
    """
    require(sd > 0, f"sd > 0, the data's standard deviation, got {sd}")
    return Weighting("data", lambda sde, t: (2 * sde.lam(t)).exp() + sd**-2, times=log_normal())


def min_snr(gamma: float = 5.0) -> Weighting:
    """``min(exp(2 lam), gamma)`` on the error of the data, written with that of the noise.

    Source: Hang et al. 2023, arXiv:2303.09556.
    """
    require(gamma > 0, f"gamma > 0, got {gamma}")
    return Weighting("noise", lambda sde, t: (gamma * (-2 * sde.lam(t)).exp()).clamp(max=1.0))


WEIGHTINGS: dict[str, Weighting] = {
    **{name: Weighting(name) for name in get_args(Prediction)},
    "sigma2": Weighting("noise"),
    "uniform": Weighting("data"),
    "likelihood": Weighting("noise", measure="lam", times=uniform_lam()),
    "edm": edm(),
    "min_snr": min_snr(),
}


def denoising_score_matching(
    model: ScoreModel,
    x0: Tensor,
    *,
    weighting: str | Weighting | Callable[[Tensor], Tensor] = "sigma2",
    drawn: Draw | None = None,
    **drawing: Unpack[Drawing],
) -> Tensor:
    """``w |s(x_t, t) - grad log p(x_t | x_0)|^2``, whatever the network predicts, one number a sample.

    The conditional score is ``-eps / sigma``, and its regression on x_t is the score (Vincent 2011); the weight w is:

    - "sigma2": sigma^2, so ``|noise - eps|^2`` (Song and Ermon 2019; DDPM's simple loss).
    - "likelihood": g^2/2 integrated over t, in nats: as ``g^2 dt = -2 sigma^2 dlam`` it is ``|noise - eps|^2 dlam``,
      the diffusion term of :func:`scoresolve.variational_bound`, whose other terms do not depend on the network. The
      same for all ``times``; by default they are of the density g^2/sigma^2 (Song et al. 2021, arXiv:2101.09258).
    - "edm", "min_snr": see :func:`edm` and :func:`min_snr`, which take other constants.
    - "uniform": ``|D - x_0|^2``; or the name of a prediction: its squared error.
    - a function of lam, float64 (batch,): that times ``|D - x_0|^2``; or a :class:`Weighting`.

    Args:
        model: any network, with its process and its conditioning.
        x0: the data, (batch, ...), float32 or float64.
        weighting: see above.
        drawn: a draw that has been made, in place of the rest.
        drawing: times=, proposal=, adaptive=, spread=, t_min=, t_max=, seed=, indices=, generator=, as in :func:`draw`.

    Returns: (batch,), summed over elements, in the dtype of x0. One network call.

    Raises: ValueError or TypeError before the network is called; NetworkOutputError from it.

    >>> import torch, scoresolve as ss
    >>> net = torch.nn.Bilinear(2, 1, 2)
    >>> model = ss.ScoreModel(lambda x, t: net(x, t[:, None]), ss.VPSDE(), predicts="noise")
    >>> loss = ss.losses.denoising_score_matching(model, torch.zeros(8, 2), weighting="min_snr", seed=0)
    >>> loss.mean().backward()
    >>> loss.shape, net.weight.grad.shape
    (torch.Size([8]), torch.Size([2, 2, 1]))
    """
    check_model(model)
    check_batch(x0, "x0")
    chosen = _weighting(weighting)
    if drawn is None:
        if chosen.times is not None:
            drawing.setdefault("times", chosen.times)
        drawn = draw(model, x0, **drawing)
    elif drawing:
        raise ValueError(f"give drawn=, or what to draw, not both; got {', '.join(sorted(drawing))} as well")
    require(drawn.t.shape == x0.shape[:1], f"one time for each of {len(x0)} samples, got t of {tuple(drawn.t.shape)}")
    sde, t = model.sde, drawn.t
    weight = drawn.weight(chosen.measure) * conversion(model.predicts, chosen.of, sde, t, sde, t)[1] ** 2
    if chosen.factor is not None:
        weight = weight * chosen.factor(sde, t)
    x = sde.perturb(x0, t, noise=drawn.noise)
    error = model.evaluate(x, t, model.predicts) - truth(model.predicts, sde, t, x0, drawn.noise)
    return weight.to(error.dtype) * error.reshape(len(x0), -1).square().sum(dim=1)


def _weighting(weighting: str | Weighting | Callable[[Tensor], Tensor]) -> Weighting:
    """Raises: ValueError or TypeError for what is none."""
    if isinstance(weighting, Weighting):
        return weighting
    if isinstance(weighting, str):
        if weighting not in WEIGHTINGS:
            raise ValueError(unknown("weighting", weighting, WEIGHTINGS))
        return WEIGHTINGS[weighting]
    if not callable(weighting):
        raise TypeError(f"weighting must be a name, a Weighting or a function of lam, got {type(weighting).__name__}")
    return Weighting("data", lambda sde, t: weighting(sde.lam(t)))


def ddpm_simple(model: ScoreModel, x0: Tensor, *, drawn: Draw | None = None, **drawing: Unpack[Drawing]) -> Tensor:
    """DDPM's simple loss: ``|noise - eps|^2``, averaged over the levels of a table of betas.

    It is :func:`denoising_score_matching` with "sigma2" and ``times=levels()``.
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 14.
    """
    return denoising_score_matching(model, x0, weighting=Weighting("noise", times=levels()), drawn=drawn, **drawing)


def ddpm_bound(
    model: ScoreModel,
    x0: Tensor,
    *,
    variance: Variance = "small",
    drawn: Draw | None = None,
    **drawing: Unpack[Drawing],
) -> Tensor:
    """What of DDPM's bound depends on the network, in nats: ``sum_i c_i^2 / (2 v_i) |D - x_0|^2``, a term at a time.

    The KL of each step down and the decoder's -log density, ``|D - x_0|^2 / (2 v_1)`` (derived in ``bound.py``),
    without their constants: :func:`scoresolve.variational_bound` has them, and the terms of ``variance``.
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 12.
    """
    check_model(model)
    sde = model.sde
    if not isinstance(sde, DiscreteVPSDE):
        raise ValueError(
            f"DDPM's bound is that of a table of betas, got {sde!r}: use weighting='likelihood', its limit of many "
            "levels, or model.on(ss.DiscreteVPSDE(betas))"
        )
    steps = DiscreteLevels.of(sde, variance, None, x0.device)
    decoder = steps.weights.new_tensor([0.5 / steps.decoder_variance])
    table = torch.cat([decoder, steps.weights / max(steps.points, 1)])  # its weights are over a chance of 1 / points
    chosen = Weighting("data", lambda sde, t: table[(t * len(table)).round().long() - 1], "level", levels())
    return denoising_score_matching(model, x0, weighting=chosen, drawn=drawn, **drawing)


def flow_matching(model: ScoreModel, x0: Tensor, *, drawn: Draw | None = None, **drawing: Unpack[Drawing]) -> Tensor:
    """``|velocity - (alpha' x_0 + sigma' eps)|^2``: on a ``RectifiedFlow`` the straight, "optimal transport" path.

    It is :func:`denoising_score_matching` with "velocity". ``times=logit_normal()`` is Stable Diffusion 3's.
    Source: Lipman et al. 2023, arXiv:2210.02747, eq. 9, 23; Liu et al. 2023, arXiv:2209.03003, eq. 1.
    """
    return denoising_score_matching(model, x0, weighting="velocity", drawn=drawn, **drawing)
