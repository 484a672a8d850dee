"""How each classical system is sampled: as its paper did, and as this library would by itself.

======================  ===============================================================================================
annealed Langevin       NCSN on its ladder of noise levels, T steps at each, then one denoising step; the step's size
                        by technique 4 of NCSNv2 (:func:`langevin_snr`)
ancestral               DDPM's posterior on all 1000 levels
DDIM                    the same network on every 1000/n-th level, noise between none (eta 0) and ancestral (eta 1)
predictor, corrector    reverse diffusion and Langevin steps on equal steps of t, alone and in turn, then one denoising
                        step; so that the calls are equal, half as many steps of a pair
probability flow        torchdiffeq's Dormand-Prince at 1e-5, score_sde's setting
ours                    ``ss.sample`` without a solver, for a number of calls or for a tolerance
======================  ===============================================================================================

Guided samplers are told which class each sample is to be. Source: Song and Ermon 2019 and 2020 (arXiv:1907.05600,
2006.09011), Ho et al. 2020 (arXiv:2006.11239), Song, Meng and Ermon 2020 (arXiv:2010.02502), Song et al. 2021
(arXiv:2011.13456), Ho and Salimans 2022 (arXiv:2207.12598), Dhariwal and Nichol 2021 (arXiv:2105.05233).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

import scoresolve as ss

from .classical import ladder

Told = Callable[[ss.ScoreModel, Tensor], ss.ScoreModel]
DDIM_STEPS, DDIM_ETAS = (10, 20, 50, 100), (0.0, 0.2, 0.5, 1.0)
CALLS = (100, 500)
"""Of the score SDEs, beside the denoising step."""
SNR = {"ve": 0.16, "vp": 0.05, "subvp": 0.05}
"""Of the corrector beside a predictor: score_sde's for VE; for VP, for which it has none, of 0.01 to 0.25 the best."""
ALONE_SNR = 0.45
"""Of the corrector alone: of 0.16, 0.3 and 0.45 the best, on these digits."""
SCALES = (1.0, 2.0, 4.0)
"""Of guidance; 1 is the conditional law."""
GUIDED_STEPS = 50


@dataclass(frozen=True)
class Sampler:
    """A way to sample a system.

    Attributes:
        name: of files and options; unique within a system.
        title: for people.
        settings: keywords of ``ss.sample``.
        told: makes of the model, and of a class for each sample, a model of samples of these classes; None where no
            class is asked for.
        by: a name of the classifier that guides; "" where there is none.
    """

    name: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    told: Told | None = None
    by: str = ""


def langevin_snr(ratio: float, steps: int) -> float:
    """The ``snr`` with which ``steps`` Langevin steps at a level best forget the level before, ``ratio`` times higher.

    For data without spread, N(0, (ratio sigma)^2) becomes after T steps of size ``k sigma^2``, ``k = 2 snr^2``,
    Gaussian with the variance ``sigma^2 ((1 - k)^(2T) (ratio^2 - v) + v)``, ``v = 2 / (2 - k)``: that nearest to
    sigma^2 is the best. Source: Song and Ermon 2020, arXiv:2006.09011, prop. 3 and technique 4.

    >>> round(langevin_snr(1.36, 5), 2), round(langevin_snr(1.36, 40), 2)
    (0.34, 0.16)
    """

    def variance(k: float) -> float:
        left = 2 / (2 - k)
        return (1 - k) ** (2 * steps) * (ratio**2 - left) + left

    found = minimize_scalar(variance, bounds=(1e-6, 1.0), method="bounded", options={"xatol": 1e-8})
    return math.sqrt(found.x / 2)


def samplers(system: str, sde: ss.SDE, dimension: int) -> list[Sampler]:
    """Of a system, whose samples have that many elements."""
    own: Callable[[], Iterator[Sampler]] = {
        "ncsn": lambda: _ncsn(sde, dimension),
        "ddpm": lambda: _ddpm(sde),
    }.get(system, lambda: _score_sde(system))
    return [*own(), *_ours()]


def _ncsn(sde: ss.SDE, dimension: int) -> Iterator[Sampler]:
    times = ladder(sde, dimension).flip(0).numpy()
    ratio = math.exp(sde.lam(float(times[1])) - sde.lam(float(times[0])))
    for steps in (5, 40):
        settings = {"solver": "annealed_langevin", "grid": times, "corrections": steps, "denoise": True}
        title = f"annealed Langevin, {len(times)} levels x {steps}"
        yield Sampler(f"langevin-{steps}", title, settings | {"snr": langevin_snr(ratio, steps)})


def _ddpm(sde: ss.SDE) -> Iterator[Sampler]:
    yield Sampler("ancestral-1000", "ancestral, 1000", {"solver": "ddpm", "steps": 1000, "grid": "leading"})
    for steps in DDIM_STEPS:
        for eta in DDIM_ETAS:
            settings = {"solver": "ddim", "steps": steps, "grid": "leading", "eta": eta}
            yield Sampler(f"ddim-{steps}-{eta:g}", f"DDIM, {steps}, eta {eta:g}", settings)


def _score_sde(system: str) -> Iterator[Sampler]:
    paired = {"corrector": ss.Langevin(snr=SNR[system])}
    alone = {"solver": "annealed_langevin", "snr": ALONE_SNR}
    for calls in CALLS if system == "ve" else CALLS[:1]:
        every = {"grid": "uniform", "denoise": True}
        predictor = every | {"solver": "reverse_diffusion"}
        yield Sampler(f"predictor-{calls}", f"predictor, {calls}", predictor | {"steps": calls})
        yield Sampler(f"corrector-{calls}", f"corrector, {calls}", every | alone | {"steps": calls})
        half = calls // 2
        yield Sampler(f"pair-{calls}", f"predictor-corrector, {half} + {half}", predictor | paired | {"steps": half})
    yield Sampler("flow-rk45", "probability flow, RK45 1e-5", {"solver": "rk45", "rtol": 1e-5, "atol": 1e-5})


def _ours() -> Iterator[Sampler]:
    for calls in (10, 20):
        yield Sampler(f"ours-{calls}", f"scoresolve, nfe={calls}", {"nfe": calls})
    yield Sampler("ours-adaptive", "scoresolve, rtol=atol=1e-3", {"rtol": 1e-3, "atol": 1e-3})


def guided(log_prob: Callable[..., Tensor], by: str, null: int) -> Iterator[Sampler]:
    """DDPM's conditional network, guided without a classifier, and the unconditional one, guided by a classifier.

    Args: log_prob, ``log p(y | x, label)`` of noisy images, called with ``y=``, see ``ss.classifier_guidance``, and a
    name for it; null, the class that stands for "not told".
    """
    settings = {"solver": "ddim", "steps": GUIDED_STEPS, "grid": "leading"}

    def free(scale: float, clamp: bool = False) -> Told:
        def told(model: ss.ScoreModel, classes: Tensor) -> ss.ScoreModel:
            model = model.condition(classes=classes).guide(scale, classes=torch.full_like(classes, null))
            return ss.threshold(model, quantile=0.995) if clamp else model

        return told

    def classified(scale: float) -> Told:
        return lambda model, classes: ss.classifier_guidance(model, log_prob, scale, y=classes)

    for scale in SCALES:
        yield Sampler(f"free-{scale:g}", f"guided without a classifier, {scale:g}", settings, free(scale))
    title = f"the same, {SCALES[-1]:g}, dynamic threshold"
    yield Sampler("free-threshold", title, settings, free(SCALES[-1], clamp=True))
    for scale in SCALES:
        yield Sampler(f"class-{scale:g}", f"guided by a classifier, {scale:g}", settings, classified(scale), by)
