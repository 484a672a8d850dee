r"""What a network predicts, and how it is told the time, found from its answers.

**Misfit.** If D(x_t, t) is the mean of x_0 given x_t, then what is left, ``r = x_0 - D``, is orthogonal to every
function of x_t (the normal equations of a conditional mean). It is tested against x_t, D and a constant,

    misfit = 1 - min_c E|r - c_1 x_t - c_2 D - c_3 m|^2 / E|r|^2,        m = E x_0,

the part of the squared error that three numbers would take away: 0 for the true D, whatever the law of the data. At one
noise level every way to read a network is ``a x_t + b F``, so it is 1 or so for a wrong one where F is exact.

**Without data** the network's own samples stand for them: drawn with the wiring in question, noised again, denoised
again. A network that is wired right is the denoiser of the law of its samples, and so has no misfit on them; that it
has none is necessary, and not sufficient (Daras et al. 2023, arXiv:2302.09057, on what makes it so).

**With data** there is the squared error itself, beside that of the best linear guess, the denoiser of a Gaussian of
the data's mean and covariance: no mean given x_t does worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from .exact import Gaussian
from .labels import TimeLabel, label_of
from .model import ScoreModel
from .predictions import Prediction, conversion
from .sampling import sample
from .sde import SDE

SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Ratios of noise to data, sigma / (alpha std), at which a wiring is tried."""
ELEMENTS = 4096
"""Each level is averaged over at least so many elements."""
FLOOR = 2e-3
"""Misfits below it are those of a finite number of samples."""
LINEAR = 0.98
"""An error of so much of the best linear guess's, and more, is that of a guess."""
AS_NOW = "..."
"""How a function that tells the time is written that the model has already."""
DEEPEST = -6.0
"""The lam at which sampling starts where there is no signal at t_max: not every prediction gives the data there."""


@dataclass(frozen=True)
class Wiring:
    """A way to read a network.

    Attributes: predicts; time, as ``ScoreModel`` takes it; spelled, how ``time`` is written; sign, what the answer is
    multiplied with; misfits, one for each level, 0 right and 1 wrong; excess, the squared error over that of the best
    linear guess, for each level; samples, those it was tried on, its own unless data was given.
    """

    predicts: Prediction
    time: TimeLabel | Callable[[Tensor], Tensor | float]
    spelled: str
    sign: int = 1
    misfits: tuple[float, ...] = ()
    excess: tuple[float, ...] = ()
    samples: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def loss(self) -> float:
        """On data: the mean logarithm of the excess; infinite if the wiring could not be tried."""
        if not self.excess or not all(map(math.isfinite, self.excess)):
            return math.inf
        return sum(math.log(max(value, 1e-300)) for value in self.excess) / len(self.excess)

    @property
    def plausible(self) -> bool:
        """Whether it is better than the best linear guess at any level, or plain: a named time, its own sign."""
        known = bool(self.excess) and min(self.excess) < LINEAR
        return known or (self.sign == 1 and not self.spelled.startswith("lambda"))

    @property
    def misfit(self) -> float:
        """The mean over the levels; infinite if the wiring could not be tried."""
        return sum(self.misfits) / len(self.misfits) if self.misfits else math.inf

    def code(self, sde: SDE) -> str:
        """The line to write."""
        net = "net" if self.sign == 1 else "lambda x, t: -net(x, t)"
        return f'ss.ScoreModel({net}, {_written(sde)}, predicts="{self.predicts}", time={self.spelled})'


def declared(model: ScoreModel) -> Wiring:
    """The wiring that a model states."""
    spelled = f'"{model.time}"' if isinstance(model.time, str) else AS_NOW
    return Wiring(model.predicts, model.time, spelled)


def rewired(model: ScoreModel, wiring: Wiring) -> ScoreModel:
    """The model's network, on its own process and without guidance and refinements, read another way; calls are
    counted in the model's."""
    net: Any = model.net
    if wiring.sign != 1:
        door, net = model.net, torch.nn.Module()
        net.inner = door if isinstance(door, torch.nn.Module) else None  # keeps its dtype and device known
        net.forward = lambda x, label, **conditioning: -door(x, label, **conditioning)
    view = ScoreModel(net, model.native, predicts=wiring.predicts, time=wiring.time)
    view.conditioning, view._watch = model.conditioning, model._watch
    return view


def candidates(model: ScoreModel) -> Iterator[Wiring]:
    """Every other way to read a network, each once: where two are one (velocity and flow on ``RectifiedFlow``), the
    first. The declared one is left out."""
    sde, own = model.native, declared(model)
    times = sde.time(torch.linspace(-2, 2, 5, dtype=torch.float64, device="cpu"))
    seen: list[Tensor] = [_fingerprint(sde, own, times)]
    for spelled, time in _labels(model):
        for predicts in get_args(Prediction):
            for sign in (1, -1):
                wiring = Wiring(predicts, time, spelled, sign)
                mark = _fingerprint(sde, wiring, times)
                if not any(torch.allclose(mark, one, rtol=1e-9, atol=1e-12) for one in seen):
                    seen.append(mark)
                    yield wiring


def _labels(model: ScoreModel) -> list[tuple[str, Any]]:
    """How a time may be told, and how that is written; first as the model has it, if that is a function."""
    sde = model.native
    own = [] if isinstance(model.time, str) else [(AS_NOW, model.time)]
    named = [(f'"{name}"', name) for name in get_args(TimeLabel) if "index" not in name or hasattr(sde, "betas")]
    return [
        *own,
        *named,
        ("lambda t: 1000 * t", lambda t: 1000 * t),
        ("lambda t: 999 * t", lambda t: 999 * t),
        ("lambda t: 1 - t", lambda t: 1 - t),
        ("lambda t: -sde.lam(t)", lambda t: -sde.lam(t)),
        ("lambda t: -sde.lam(t) / 4", lambda t: -sde.lam(t) / 4),
        ("lambda t: 2 * sde.lam(t)", lambda t: 2 * sde.lam(t)),
    ]


def _fingerprint(sde: SDE, wiring: Wiring, times: Tensor) -> Tensor:
    a, b, _ = conversion(wiring.predicts, "data", sde, times, sde, times)
    return torch.cat([a, wiring.sign * b, label_of(wiring.time, sde, times).double()])


def misfit(x0: Tensor, x: Tensor, data: Tensor) -> float:
    """The part of E|x0 - data|^2 that x, data and a constant take away, in [0, 1]; 1 if it is not finite.

    Args: x0, x, data of one shape (n, ...).

    >>> import torch
    >>> from scoresolve.wiring import misfit
    >>> x0, noise = torch.randn(2, 4096, 1, generator=torch.Generator().manual_seed(0)).unbind()
    >>> x = x0 + noise  # of data N(0, 1), of which x / 2 is the mean given x
    >>> misfit(x0, x, x / 2) < 1e-3, round(misfit(x0, x, x), 1)
    (True, 0.5)
    """
    left = (x0 - data).double().flatten()
    if not bool(torch.isfinite(left).all()):
        return 1.0
    mean = x0.mean(dim=0, keepdim=True).expand_as(x0)
    columns = torch.stack([one.double().flatten() for one in (x, data, mean)])
    columns = columns / columns.norm(dim=1, keepdim=True).clamp(min=1e-300)
    size, axes = torch.linalg.eigh(columns @ columns.T)
    along = axes.T @ (columns @ left)
    taken = torch.where(size > 1e-10, along.square() / size.clamp(min=1e-10), 0.0)  # columns may be one, or zero
    return float(taken.sum() / left.square().sum().clamp(min=1e-300))


def levels(model: ScoreModel, std: float, scales: Sequence[float] = SCALES) -> list[float]:
    """Times at which the noise is these multiples of data of a standard deviation, inside what the network knows."""
    sde = model.sde
    lowest, highest = max(sde.lam(model.t_max), DEEPEST), sde.lam(model.t_eps)
    inside = (min(max(-math.log(scale * std), lowest + 0.01), highest - 0.01) for scale in scales)
    return list(dict.fromkeys(sde.time(lam) for lam in inside))


@dataclass(frozen=True)
class Asked:
    """What a network that is told the time in one way answers at samples x0 with noise, at several levels.

    Attributes: x0 (n, ...); rows, of each level (t, x0 again, x_t, answer).
    """

    x0: Tensor
    rows: tuple[tuple[float, Tensor, Tensor, Tensor], ...]


def ask(model: ScoreModel, wiring: Wiring, x0: Tensor, scales: Sequence[float] = SCALES) -> Asked:
    """Noise samples x0 (n, ...) and ask the network. NFE: one a level, times what it takes to have ELEMENTS."""
    view, std = rewired(model, replace(wiring, sign=1)), float(x0.double().std())
    if not (math.isfinite(std) and 1e-9 < std < 1e9):
        return Asked(x0, ())
    draws = min(max(math.ceil(ELEMENTS / x0.numel()), 1), 16)
    generator, rows = torch.Generator().manual_seed(0), []
    for t in levels(view, std, scales):
        states, answers = [], []
        for _ in range(draws):
            noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device="cpu").to(x0.device)
            states.append(view.sde.perturb(x0, t, noise=noise))
            try:
                with torch.no_grad():
                    answers.append(view.evaluate(states[-1], t, view.predicts).clone())
            except Exception:  # a label that the network does not take, such as one beyond its table
                return Asked(x0, ())
        rows.append((t, torch.cat([x0] * draws), torch.cat(states), torch.cat(answers)))
    return Asked(x0, tuple(rows))


def judged(model: ScoreModel, wiring: Wiring, asked: Asked) -> Wiring:
    """The wiring with its misfits, and its excess over the best linear guess. 0 NFE."""
    sde, misfits, excess = model.native, [], []
    linear = _linear_guess(asked.x0) if asked.rows else None
    for t, x0, x, answer in asked.rows:
        tau = np.array([t])
        a, b, _ = conversion(wiring.predicts, "data", sde, tau, sde, tau)
        found = float(a[0]) * x + wiring.sign * float(b[0]) * answer
        misfits.append(misfit(x0, x, found))
        if linear is not None:
            best = (linear(x, sde.alpha(t), sde.sigma(t)) - x0).double().square().mean()
            excess.append(float((found - x0).double().square().mean() / best))
    return replace(wiring, misfits=tuple(misfits), excess=tuple(excess), samples=asked.x0)


def tried_on_itself(
    model: ScoreModel,
    wiring: Wiring,
    shape: Sequence[int],
    like: Tensor,
    nfe: int = 24,
    scales: Sequence[float] = SCALES,
) -> Wiring:
    """The wiring with its misfits on samples that it draws itself; without misfits if they run away."""
    view = rewired(model, wiring)
    try:
        first = min(view.t_max, view.sde.time(DEEPEST))
        drawn = sample(view, shape, nfe=nfe, seed=0, t_max=first, dtype=like.dtype, device=like.device)
    except Exception:  # they run away, or the network does not take the label
        return wiring
    return judged(model, wiring, ask(model, wiring, drawn.samples, scales))


def search_on_data(model: ScoreModel, data: Tensor, advance: Callable[[], object] = lambda: None) -> list[Wiring]:
    """All other wirings tried on data (n, ...), the best first. NFE: five for each way to tell the time.

    Args: advance, called after each way to tell the time.
    """
    found = []
    for _, alike in groupby(candidates(model), key=lambda wiring: wiring.spelled):
        group = list(alike)
        asked = ask(model, group[0], data)
        found += [judged(model, wiring, asked) for wiring in group]
        advance()
    return sorted(found, key=lambda wiring: wiring.loss)


def search_on_itself(
    model: ScoreModel, shape: Sequence[int], like: Tensor, near: bool, advance: Callable[[], object] = lambda: None
) -> list[Wiring]:
    """Other wirings tried on their own samples, the best first. NFE: 15 for each, and 29 for each of the best eight.

    Args: near, whether to try other predictions only, the time told as it is; advance, called after each.
    """
    found = []
    for wiring in candidates(model):
        if not near or (wiring.sign == 1 and wiring.time == model.time):
            found.append(tried_on_itself(model, wiring, shape, like, 12, SCALES[::2]))
            advance()
    best = sorted(found, key=_tier)[:8]
    return sorted((tried_on_itself(model, wiring, shape, like) for wiring in best), key=_tier)


def _tier(wiring: Wiring) -> tuple[bool, float, bool, bool, float]:
    """Of wirings that fit as well the plainest goes first; last go those that know nothing, such as a network told
    times that are all beyond what it saw: linear in x, it may fit the Gaussian that it then draws."""
    size = round(math.log2(max(wiring.misfit, FLOOR))) if wiring.misfits else math.inf
    return not wiring.plausible, size, wiring.sign == -1, wiring.spelled.startswith("lambda"), wiring.misfit


def _linear_guess(x0: Tensor) -> Callable[[Tensor, float, float], Tensor]:
    """The denoiser of a Gaussian of the data's mean and covariance: of its variances only, where data is scarce."""
    d = x0[0].numel()
    if d <= 512 and len(x0) >= 10 * d:
        return Gaussian.fit(x0).denoise
    mean, variance = x0.mean(dim=0), x0.var(dim=0)

    def guess(x: Tensor, alpha: float, sigma: float) -> Tensor:
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)

    return guess


def _written(sde: SDE) -> str:
    text = repr(sde)
    return "sde" if "<" in text else f"ss.{text}"
