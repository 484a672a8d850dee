"""azula's samplers. They take any path ``(alpha, sigma)`` and a denoiser: ours are passed as they are, in float64.

Its grid is uniform in t; the samplers are documented to be given another by overriding ``timesteps``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import azula.sample
import torch
from torch import Tensor

from .base import Network, Peer, Task

LIBRARY = "azula"
NOISY_END = ("heun", "zeab_2", "zeab_3", "xeab_2", "xeab_3", "reab_2", "reab_3")
"""These divide by sigma, or take its logarithm, at the end of a step."""
OWN, BETTER = ("uniform",), ("uniform", "karras", "log_snr")

# solver: (class, its options, kind, calls a step, grids)
SAMPLERS: dict[str, tuple[str, dict[str, Any], Literal["ode", "sde"], int, tuple[str, ...]]] = {
    "ddim": ("DDIMSampler", {}, "ode", 1, OWN),
    "euler": ("EulerSampler", {}, "ode", 1, BETTER),
    "heun": ("HeunSampler", {}, "ode", 2, BETTER),
    "zab_2": ("zABSampler", {"order": 2}, "ode", 1, BETTER),
    "zab_3": ("zABSampler", {"order": 3}, "ode", 1, BETTER),
    "vab_2": ("vABSampler", {"order": 2}, "ode", 1, BETTER),
    "vab_3": ("vABSampler", {"order": 3}, "ode", 1, BETTER),
    "zeab_2": ("zEABSampler", {"order": 2}, "ode", 1, BETTER),
    "zeab_3": ("zEABSampler", {"order": 3}, "ode", 1, BETTER),
    "xeab_2": ("xEABSampler", {"order": 2}, "ode", 1, BETTER),
    "xeab_3": ("xEABSampler", {"order": 3}, "ode", 1, BETTER),
    "reab_2": ("REABSampler", {"order": 2}, "ode", 1, BETTER),
    "reab_3": ("REABSampler", {"order": 3}, "ode", 1, BETTER),
    "ddpm": ("DDPMSampler", {}, "sde", 1, BETTER),
    "ito": ("ItoSampler", {"eta": 1.0}, "sde", 1, BETTER),
    "pc": ("PCSampler", {}, "sde", 2, BETTER),
}


def peers() -> list[Peer]:
    """Every configuration that is run."""
    return [
        Peer(
            LIBRARY,
            name,
            grid,
            kind,
            _Solve(cls, tuple(options.items())),
            partial(_steps, cost),
            reaches_zero=name not in NOISY_END,
        )
        for name, (cls, options, kind, cost, grids) in SAMPLERS.items()
        for grid in grids
    ]


def _steps(cost: int, nfe: int) -> int:
    return nfe // cost


@dataclass(frozen=True)
class _Solve:
    sampler: str
    options: tuple[tuple[str, Any], ...]

    def __call__(self, task: Task) -> Tensor:
        times = torch.as_tensor(task.times.copy())
        timed = type(self.sampler, (getattr(azula.sample, self.sampler),), {"timesteps": property(lambda _: times)})
        samples: Tensor = timed(_Denoiser(task.network), silent=True, **dict(self.options))(task.start)
        return samples


@dataclass(frozen=True)
class _Posterior:
    mean: Tensor


@dataclass(frozen=True)
class _Denoiser:
    """What the samplers use of a denoiser."""

    network: Network

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma."""
        return self.network.sde.alpha(t), self.network.sde.sigma(t)

    def __call__(self, x: Tensor, t: Tensor) -> _Posterior:
        return _Posterior(self.network(x, t.item(), "data"))
