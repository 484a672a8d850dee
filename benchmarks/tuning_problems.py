"""The problems that tables are tuned on: those of ``problems.py``, and three that the search was not developed on.

``moons`` (two bent bands in eight dimensions, along the straight path), ``unet`` (the score SDE's U-Net trained by
``train.py``, VP) and ``tabular`` (a perceptron trained on a table of 30 columns, EDM) were each chosen before the first
table was tuned on them, and the search was not changed for them afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import scoresolve as ss

from . import tabular
from .digits import CACHE, Training
from .networks import UNet
from .problems import PROBLEMS, Problem, Settings, _from_law, digits_law, from_model
from .train import RESULTS, load

UNSEEN = ("moons", "tabular", "unet")
STARTS = {
    "gaussian": 2048,
    "mixture": 4096,
    "moons": 4096,
    "digits": 2048,
    "network": 512,
    "tabular": 1024,
    "unet": 256,
}
"""Starts that tables are fitted to."""
JUDGED = {**STARTS, "mixture": 16384}
"""Starts that are held out to choose by, and as many again that tables are judged by, none of which took part in
tuning. On ``mixture`` a few in a thousand have nearly all of the error: by 4096 of them the same table's ratio may be
anything from 0.2 to 0.6."""


@dataclass(frozen=True)
class Made:
    """A problem, how many starts to fit to, and how many to choose by."""

    problem: Problem
    starts: int
    held_out: int


def make(name: str, networks: Path = RESULTS / "train") -> Made:
    """The problem of a name."""
    settings = Settings(ss.VPSDE(), torch.device("cpu"), 0, JUDGED[name], JUDGED[name], Training(), CACHE, print)
    makers: dict[str, Callable[[Settings], Problem]] = {
        **PROBLEMS,
        "digits": _digits,
        "moons": _moons,
        "tabular": _tabular,
        "unet": lambda settings: _unet(settings, networks),
    }
    return Made(makers[name](settings), STARTS[name], JUDGED[name])


def _digits(settings: Settings) -> Problem:
    """The problem of that name, its network computed in float32: twice as fast, and the converged ends are as exact."""
    problem = PROBLEMS["digits"](settings)
    single = digits_law().model(settings.sde, dtype=torch.float32)
    return replace(problem, model=single, starts=problem.starts.float())


def _moons(settings: Settings) -> Problem:
    """Forty narrow Gaussians along two half circles, turned into eight dimensions."""
    angles = torch.linspace(0, math.pi, 20, dtype=torch.float64)
    upper = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = torch.cat([upper, torch.tensor([1.0, 0.5], dtype=torch.float64) - upper])
    axes, _ = torch.linalg.qr(torch.randn(8, 8, generator=settings.generator(80), dtype=torch.float64))
    means = points @ axes[:, :2].T
    law = ss.exact.Empirical(means, bandwidth=0.07)
    return _from_law(replace(settings, sde=ss.RectifiedFlow()), law, "moons", "Two moons, 8-D, flow", stream=81)


def _tabular(settings: Settings) -> Problem:
    model = tabular.model(settings.cache)
    return from_model(settings, model, (30,), "tabular", "Network trained on a table of 30 columns, EDM")


def _unet(settings: Settings, networks: Path) -> Problem:
    model = load(networks / "vp-digits" / "model.safetensors")
    assert isinstance(model.net, UNet)
    # 1.35 times as many samples a second on a CPU
    model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return from_model(settings, model, model.net.config.shape, "unet", "U-Net trained on the digits, VP")
