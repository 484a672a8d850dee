"""A scheduler of diffusers, run as its users run it: ``set_timesteps``, ``scale_model_input``, ``step``.

The network is exact, of the prediction type that the configuration names, on the process that the configuration
describes (``integrations/schedules.py``). It is asked at the level with which the scheduler computes at that moment;
how far that is from the label that users pass on is told apart.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..custom import DiscreteVPSDE
from ..errors import require
from ..integrations.loading import config_of
from ..integrations.schedules import Schedule, schedule_of
from .draws import watched
from .subject import Course, Draw, Level, Oracle

REFINED = (25, 50, 100, 200)
END = 0.2746
"""The noise level (sigma / alpha) near which the runs end in which orders are seen: index 80 of the linear table."""
UNSCALED = ("Euler", "LMS", "Heun", "KDPM2", "DPMSolverSDE")
"""Classes whose state is x_0 + rho eps begin so, unless they are of flows."""
REFUSED = {
    "KarrasVeScheduler": "its loop is its own: step and step_correct",
    "ScoreSdeVeScheduler": "its loop is its own: step_pred and step_correct",
    "ScoreSdeVpScheduler": "its loop is its own: step_pred",
    "RePaintScheduler": "it wants an image and a mask at every step",
    "UnCLIPScheduler": "its loop tells each step the timestep after the next",
    "CogVideoXDPMScheduler": "its loop is its own: step wants the data prediction of the step before",
    "LCMScheduler": "its networks are consistency models: it does not solve the equations of a score",
    "TCDScheduler": "its networks are consistency models: it does not solve the equations of a score",
    "FlowMatchLCMScheduler": "its networks are consistency models: it does not solve the equations of a score",
    "FlowMapEulerDiscreteScheduler": "its networks are flow maps: it does not solve the equations of a score",
    "HeliosDMDScheduler": "its networks are distilled, and it works in stages",
    "HeliosScheduler": "it works in stages, of several resolutions",
    "PiflowScheduler": "its networks answer with a policy, not with a velocity",
    "MiniMaxH3Scheduler": "its process is not one of those read here",
    "LTXEulerAncestralRFScheduler": "its configuration does not say its process",
    "DDIMInverseScheduler": "it goes from data to noise",
    "DPMSolverMultistepInverseScheduler": "it goes from data to noise",
}
"""What cannot be asked, and why."""


def is_scheduler(target: object) -> bool:
    """Whether it is a scheduler of diffusers, or such a class."""
    return all(callable(getattr(target, name, None)) for name in ("set_timesteps", "step"))


class Scheduler:
    """A scheduler, or a class with its defaults."""

    floor, slack, fixed = 1e-6, 0.35, True

    def __init__(self, target: Any, claim: float | None) -> None:
        made: Any = target() if inspect.isclass(target) else target
        self.scheduler: Any = made
        config = config_of(self.scheduler)
        self.name, self.claim, self.config = type(self.scheduler).__name__, claim, config
        if self.name in REFUSED:
            raise ValueError(f"{self.name} cannot be run here: {REFUSED[self.name]}")
        self.ipndm = self.name == "IPNDMScheduler"  # keeps sigma and alpha of its own, and takes v
        self.schedule = Schedule("table", DiscreteVPSDE.linear(), "v", "t") if self.ipndm else schedule_of(config)
        flow = self.schedule.kind == "flow"
        self.unscaled = self.schedule.kind == "edm" or (self.name.startswith(UNSCALED) and not flow)
        self.whole = int(config.get("num_train_timesteps") or 1000)
        step: Any = self.scheduler.step
        self._known = inspect.signature(step).parameters
        self._off = 0.0
        self._shift = {"mu": 0.0} if config.get("use_dynamic_shifting") else {}

    # -- courses ------------------------------------------------------------------------------------------------

    def smooth(self) -> Sequence[Course]:
        """Down to the level nearest to ``END``, of as many timesteps as meet it best."""
        found = []
        for wanted in REFINED:
            near = [self._until_end(steps) for steps in (wanted, wanted + 1)]
            off = [abs(math.log(_rho(course.end) / END)) for course in near]
            found.append(near[off[1] < 0.8 * off[0]])
        return found

    def full(self, steps: int) -> Course:
        """All of the timesteps."""
        return self._course(steps, None)

    def closing(self, step: float) -> tuple[Course, Course] | None:
        """None: most of them take no levels."""
        return None

    def _until_end(self, steps: int) -> Course:
        self._set(steps)
        stride = self._stride()
        starts = range(3 * stride, len(self.scheduler.timesteps), stride)
        if self.config.get("skip_prk_steps") is False:
            starts = range(12, len(self.scheduler.timesteps))
        stop = min(starts, key=lambda call: abs(math.log(max(_rho(self._level(call)), 1e-9) / END)))
        return self._course(steps, stop)

    def _course(self, steps: int, stop: int | None) -> Course:
        self._set(steps)
        count = len(self.scheduler.timesteps)
        start, end = self._state_level(0), self._state_level(count if stop is None else stop)
        return Course(steps, start, end, count if stop is None else stop)

    def _stride(self) -> int:
        """Calls of a step."""
        orders = getattr(self.scheduler, "order_list", None)
        if orders is not None and self.name == "DPMSolverSinglestepScheduler":
            return int(self.config["solver_order"])
        return int(getattr(self.scheduler, "order", 1))

    def _set(self, steps: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("diffusers").setLevel(logging.ERROR)
            self.scheduler.set_timesteps(steps, **self._shift)

    # -- levels -------------------------------------------------------------------------------------------------

    def _level(self, call: int) -> Level:
        """(alpha, sigma) at which the scheduler takes the network to be asked, in coordinates of the process."""
        scheduler, labels = self.scheduler, self.scheduler.timesteps
        if self.ipndm:
            return float(scheduler.alphas[call]), float(scheduler.betas[call])
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is None or len(sigmas) <= len(labels) - 1:
            return self._of_label(float(labels[call])) if call < len(labels) else self._last()
        rho = float(sigmas[min(call, len(sigmas) - 1)])
        if call % 2 and call < len(labels) and self.name.startswith("KDPM2"):
            rho = float(scheduler.sigmas_interpol[call])
        elif call % 2 and call < len(labels) and self.name == "DPMSolverSDEScheduler":
            rho = math.sqrt(float(sigmas[call - 1]) * rho) if rho > 0 else float(sigmas[call - 1])
        if self.schedule.kind == "flow":
            return 1 - rho, rho
        if self.schedule.kind == "edm":
            return 1.0, rho
        return (1 + rho**2) ** -0.5, rho * (1 + rho**2) ** -0.5

    def _of_label(self, label: float) -> Level:
        t = float(self.schedule.times(np.array(label)))
        return float(self.schedule.sde.alpha(t)), float(self.schedule.sde.sigma(t))

    def _last(self) -> Level:
        return self._of_label(0.0) if self.config.get("set_alpha_to_one") is False else (1.0, 0.0)

    def _state_level(self, call: int) -> Level:
        alpha, sigma = self._level(call)
        return (1.0, sigma / alpha) if self.unscaled else (alpha, sigma)

    def _told(self, call: int, label: Any) -> float:
        """How far the label is from the level."""
        alpha, sigma = self._level(call)
        if self.ipndm or min(alpha, sigma) <= 1e-6:
            return 0.0
        a, s = self._of_label(float(label))
        return abs(math.log(s / a) - math.log(sigma / alpha)) if min(a, s) > 1e-6 else 0.0

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self, course: Course, oracle: Oracle, x: Tensor, draw: Draw | None) -> tuple[Tensor, int]:
        """The loop of a pipeline; without noise given, that of a generator of seed 0 where the step takes one."""

        def looped() -> Tensor:
            self._set(course.steps)
            return self._loop(course, oracle, x, draw is None)

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside diffusers
            return (looped(), 0) if draw is None else watched(looped, draw, x)

    def _loop(self, course: Course, oracle: Oracle, x: Tensor, own: bool) -> Tensor:
        scheduler, self._off = self.scheduler, 0.0
        extra = {"generator": torch.Generator().manual_seed(0)} if own and "generator" in self._known else {}
        if hasattr(scheduler, "noise_sampler"):  # made at the first step of a run, and kept for those that follow
            scheduler.noise_sampler = None
        for call, label in enumerate(scheduler.timesteps[: course.plan]):
            alpha, sigma = self._level(call)
            if sigma <= 0:  # an inner stage at zero, where a network has no answer: it is told the label
                alpha, sigma = self._of_label(float(label))
            self._off = max(self._off, self._told(call, label))
            seen = scheduler.scale_model_input(x, label) if hasattr(scheduler, "scale_model_input") else x
            if self.schedule.kind == "edm":
                answer = oracle(x, alpha, sigma, self._inner(sigma))
            else:
                answer = oracle(seen, alpha, sigma, reader(self.schedule.predicts, alpha, sigma))
            x = scheduler.step(answer, label, x, return_dict=False, **extra)[0]
        return x

    def _inner(self, sigma: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The answer of an EDM network: F of D = c_skip x + c_out F."""
        d, sign = float(self.schedule.sigma_data or 1.0), -1.0 if self.schedule.predicts == "v" else 1.0
        total = sigma**2 + d**2
        return lambda data, x: sign * (data - d**2 / total * x) * (total**0.5 / (sigma * d))

    def calls(self, steps: int) -> int | None:
        """Its timesteps."""
        self._set(steps)
        return len(self.scheduler.timesteps)

    def labels_off(self) -> float:
        """As in the last run."""
        return self._off


def reader(predicts: str, alpha: float, sigma: float) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What a network of that prediction answers where the data prediction is D: docs/concepts.md."""

    def noise(data: Tensor, x: Tensor) -> Tensor:
        return (x - alpha * data) / sigma

    match predicts:
        case "data":
            return None
        case "noise":
            return noise
        case "flow":
            return lambda data, x: noise(data, x) - data
        case "v":
            return lambda data, x: alpha * noise(data, x) - sigma * data
    require(False, f"a network of noise, data, v or flow, got {predicts!r}")
    return None


def _rho(level: Level) -> float:
    return level[1] / max(level[0], 1e-12)
