"""diffusers' schedulers and our solvers on one problem: the same noise levels, start, network and noise.

Theirs are driven as in ``benchmarks/peers``: on the levels that we give them, the network asked at exactly these. The
problem is an exact mixture in float64. The settings are those of ``benchmarks/peers`` without their names and grids.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracles import mixture_2d
from torch import Tensor

import scoresolve as ss

pytest.importorskip("diffusers")

from benchmarks.peers import from_diffusers
from benchmarks.peers.base import Network, Task
from benchmarks.peers.diffusers_settings import Setting
from benchmarks.peers.noise import Noise

MARKS = [
    # diffusers turns tensors to arrays in ways that numpy is about to drop, and means to drop some algorithms itself
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.algorithm_types:FutureWarning"),
]
SAMPLES = 16
PATHS = {"vp": ss.VPSDE(), "table": ss.DiscreteVPSDE.scaled_linear()}
LADDERS = {
    "sigmas": from_diffusers._Sigmas,
    "pairs": from_diffusers._Pairs,
    "table": from_diffusers._Table,
    "ipndm": from_diffusers._Ipndm,
}


def normal(call: int, like: Tensor) -> Tensor:
    """The noise of a step: that of the network call it comes after, for us as for them."""
    generator = torch.Generator().manual_seed(call)
    return torch.randn(like.shape, dtype=torch.float64, generator=generator).to(like.dtype)


class OfCall:
    """Our source of it."""

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        return normal(index + 1, like)


class TheirDraws(Noise):
    """Stands for their generator."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def draw(self, shape: Any, dtype: Any, device: Any, generator: Any) -> Tensor:
        return normal(self.network.calls, torch.empty(shape, dtype=dtype))


def start(sde: ss.SDE, times: np.ndarray) -> Tensor:
    law = mixture_2d().marginal(sde, float(times[0]))
    return law.sample(SAMPLES, generator=torch.Generator().manual_seed(0))


def theirs(setting: Setting, sde: ss.SDE, times: np.ndarray, prepare: Any = None, **step: Any) -> Tensor:
    """The end of their run from ``start``; ``step``: options of their ``step``."""
    network = Network(mixture_2d().model(sde), None)
    ladder = LADDERS[setting.family](setting, Task(network, start(sde, times), times, seed=0))
    ladder.scheduler.step = partial(ladder.scheduler.step, **step)
    if prepare is not None:
        prepare(ladder.scheduler, network)
    with torch.no_grad(), TheirDraws(network):
        return ladder.run().double()


def ours(solver: str | ss.Table, sde: ss.SDE, times: np.ndarray, **options: Any) -> Tensor:
    if not isinstance(solver, ss.Table):
        options["grid"] = times
    model = mixture_2d().model(sde)
    return ss.sample(model, start=start(sde, times), solver=solver, noise=OfCall(), **options).samples


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest."""
    return float((found - expected).abs().max() / expected.abs().max())


def grid(sde: ss.SDE, steps: int = 9, name: str = "karras") -> np.ndarray:
    return ss.grids.GRIDS[name](sde, steps, 1.0, 0.01)


def driven(scheduler: Any, sde: ss.SDE, times: np.ndarray, ask: Callable[[Tensor, float], Tensor]) -> Tensor:
    """The loop of a pipeline for schedulers whose levels are the times of our process."""
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = torch.as_tensor(times)
    scheduler.set_begin_index(0)
    x = start(sde, times)
    for t in times[:-1]:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, torch.tensor(t))
        x = scheduler.step(ask(x, float(t)), torch.tensor(t), x).prev_sample
    return x.double()


# -- settings ---------------------------------------------------------------------------------------------------------

FINAL = {"lower_order_final": True}


def setting(
    scheduler: str, family: Any = "sigmas", unscaled: bool = False, says_end: bool = False, **config: Any
) -> Setting:
    return Setting("", scheduler, (), config, family=family, unscaled=unscaled, says_end=says_end)


def dpm(order: int, algorithm: str = "dpmsolver++", **config: Any) -> Setting:
    config = {"solver_order": order, "algorithm_type": algorithm, "lower_order_final": False, **config}
    return setting("DPMSolverMultistepScheduler", says_end=True, **config)


def unipc(order: int, kind: str, **config: Any) -> Setting:
    config = {"solver_order": order, "solver_type": kind, "lower_order_final": False, **config}
    return setting("UniPCMultistepScheduler", says_end=True, **config)


def deis(order: int, **config: Any) -> Setting:
    return setting("DEISMultistepScheduler", solver_order=order, **{"lower_order_final": False, **config})


def sa(predictor: int, corrector: int, tau: float, **config: Any) -> Setting:
    config = {"lower_order_final": False, "tau_func": lambda label: torch.tensor(tau), **config}
    return setting("SASolverScheduler", predictor_order=predictor, corrector_order=corrector, **config)


def our_sa(predictor: int, corrector: int, tau: float, **options: Any) -> dict[str, Any]:
    orders = {"predictor_order": predictor, "corrector_order": corrector}
    return {**orders, "tau": tau, "between": (0, math.inf), "weights": "bh1", **options}
