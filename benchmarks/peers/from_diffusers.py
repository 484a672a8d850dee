"""diffusers' schedulers, run as its pipelines run them, on exactly the noise levels of a grid.

A scheduler is made for a table of betas, and asks a network at whole indices of it. To compare solvers and not
roundings, its table of noise levels is replaced by the grid's own, in float64, and the network is asked at the level
that the scheduler computes with at that moment (``_Ladder.level``): no label mismatch, the same first and last time as
ours. Everything else is the scheduler's own code, and its state is cast to float32 where it does so.

- *sigma schedulers* (DPM-Solver, UniPC, DEIS, SA; Euler, LMS, Heun, KDPM2 ...) keep a list ``sigmas`` of
  noise-to-signal ratios: that list is replaced. ``final_sigmas_type="sigma_min"`` says that it does not end at zero.
- *table schedulers* (DDIM, DDPM, PNDM) look their levels up by index: they get a table of just these levels, and walk
  down it one index a step ("leading" spacing). DDPM would jump to noise zero at its end and is stopped before that.
- IPNDM keeps sigma and alpha, and takes v as the prediction: replaced likewise.
- States of the first family's k-diffusion half are ``x_0 + rho eps``, all others have unit variance; they are scaled
  from and to our process, where they are the same thing at equal ``rho``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import schedulers
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler
from torch import Tensor

from .base import Peer, Task
from .diffusers_settings import SETTINGS, Setting

LIBRARY = "diffusers"


def peers() -> list[Peer]:
    """Every configuration that is run."""
    return [
        Peer(
            LIBRARY,
            setting.solver,
            grid,
            setting.kind,
            _solver(setting),
            setting.steps_for,
            reaches_zero=setting.reaches_zero,
        )
        for setting in SETTINGS
        for grid in setting.grids
    ]


def _solver(setting: Setting) -> Callable[[Task], Tensor]:
    ladder = {"sigmas": _Sigmas, "pairs": _Pairs, "table": _Table, "ipndm": _Ipndm}[setting.family]
    return lambda task: ladder(setting, task).run()


class _Ladder:
    """A scheduler on the levels of a task, and the loop of a pipeline around it."""

    target: Any = "noise"

    def __init__(self, setting: Setting, task: Task) -> None:
        self.task, self.setting, self.rho = task, setting, task.rho
        if not bool(torch.isfinite(self.rho[0])):
            raise ValueError("diffusers' noise levels are sigma / alpha: there is none where alpha(t_max) = 0")
        self.scheduler: Any = None
        self.labels: list[Any] = []
        self.build()

    def build(self) -> None:
        """Make the scheduler, set its levels, and list the labels of its steps."""
        raise NotImplementedError

    def level(self, label: Any) -> float:
        """The noise-to-signal ratio at which the scheduler takes the coming network output to be."""
        raise NotImplementedError

    def make(self, **config: Any) -> Any:
        """The scheduler, with a table of one more index than there are steps."""
        config = {"num_train_timesteps": len(self.rho), **self.setting.config, **config}
        return getattr(schedulers, self.setting.scheduler)(**config)

    def run(self) -> Tensor:
        """The loop of a pipeline. Returns the states at the last level, along our process."""
        network, times, scheduler = self.task.network, self.task.times, self.scheduler
        x = self.task.start * (self._scale(self.rho[0]) / network.sde.alpha(times[0]))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        for label in self.labels:
            seen = scheduler.scale_model_input(x, label)
            x = scheduler.step(network.at_rho(seen, self.level(label), self.target), label, x).prev_sample
        ends: Tensor = x * (network.sde.alpha(times[-1]) / self._scale(self.rho[-1]))
        return ends

    def _scale(self, rho: Tensor) -> float:
        """alpha of the scheduler's own coordinates."""
        return 1.0 if self.setting.unscaled else float((1 + rho**2) ** -0.5)


class _Sigmas(_Ladder):
    """One evaluation a level."""

    def build(self) -> None:
        config: dict[str, Any] = {}
        if self.setting.says_end:
            config["final_sigmas_type"] = "zero" if self.rho[-1] == 0 else "sigma_min"
        if self.setting.scheduler == "DPMSolverSinglestepScheduler":  # it would change this by itself, with a warning
            uneven = self.task.steps % self.setting.config["solver_order"] != 0
            config["lower_order_final"] = uneven or bool(self.rho[-1] == 0)
        self.scheduler = self.make(**config)
        self.scheduler.set_timesteps(self.task.steps)
        self.scheduler.sigmas = self.rho
        # what SA-Solver's tau is a function of: the index in a table of 1000
        span = self.task.times / self.task.times[0]
        self.labels = [torch.tensor(round(999 * float(t))) for t in span[:-1]]
        if self.setting.unscaled:  # these refuse whole numbers
            self.labels = [label.double() for label in self.labels]

    def level(self, label: Any) -> float:
        return float(self.scheduler.sigmas[self.scheduler.step_index or 0])


class _Pairs(_Ladder):
    """Two evaluations a step. Where one is left over, the last step is Euler's, as it is when they jump to zero."""

    def build(self) -> None:
        self.scheduler = scheduler = self.make()
        scheduler.set_timesteps(max(2, self.task.steps))
        first, after = self.rho[:-1], self.rho[1:]
        evaluations = 2 * self.task.steps
        if after[-1] == 0 or (self.task.nfe == evaluations - 1 and self.setting.closes_with_euler):
            evaluations -= 1
        scheduler.sigmas = _interleave(self.rho)
        between = (first * after).sqrt()
        if self.setting.scheduler == "KDPM2AncestralDiscreteScheduler":
            up = (after**2 * (first**2 - after**2) / first**2).sqrt()
            down = after**2 / first
            scheduler.sigmas_up, scheduler.sigmas_down = up.repeat_interleave(2), down.repeat_interleave(2)
            between = (first * down).sqrt()
            scheduler.sigmas_interpol = between.repeat_interleave(2)
        elif self.setting.scheduler == "KDPM2DiscreteScheduler":
            if evaluations % 2:
                between[-1] = after[-1]
            scheduler.sigmas_interpol = _interleave(torch.cat([first[:1], between]))
        elif self.setting.scheduler == "DPMSolverSDEScheduler":  # its own tree, over slightly more than the levels
            ends = 0.99 * float(self.rho[self.rho > 0].min()), 1.01 * float(self.rho.max())
            scheduler.noise_sampler = BrownianTreeNoiseSampler(self.task.start, *ends, self.task.seed)
        self.between = between
        self.labels = [torch.tensor(float(evaluations - i)) for i in range(evaluations)]

    def level(self, label: Any) -> float:
        i = self.scheduler.step_index or 0
        if i % 2 == 0 or self.setting.scheduler == "HeunDiscreteScheduler":
            return float(self.scheduler.sigmas[i])
        return float(self.between[i // 2])


class _Table(_Ladder):
    """Levels looked up by index; ``stride`` indices a step."""

    def build(self) -> None:
        signal = 1 / (1 + self.task.rho.flip(0) ** 2)
        stride = self.setting.stride
        betas = 1 - signal / torch.cat([torch.ones(1, dtype=signal.dtype), signal[:-1]])
        config = {"trained_betas": betas.tolist(), "timestep_spacing": "leading", "steps_offset": stride}
        stopped = self.setting.scheduler == "DDPMScheduler"
        self.scheduler = scheduler = self.make(**{**config, **({"steps_offset": 0} if stopped else {})})
        scheduler.alphas_cumprod = signal  # the same table in float64
        scheduler.final_alpha_cumprod = signal[0]
        scheduler.set_timesteps(self.task.steps // stride + stopped)
        self.labels = [label.item() for label in scheduler.timesteps]
        if stopped:
            self.labels.pop()

    def level(self, label: Any) -> float:
        signal = self.scheduler.alphas_cumprod[label]
        return float(((1 - signal) / signal).sqrt())


class _Ipndm(_Ladder):
    """Levels kept as sigma and alpha; the prediction is v."""

    target: Any = "v"

    def build(self) -> None:
        alpha = (1 + self.rho**2) ** -0.5
        self.scheduler = scheduler = self.make(trained_betas=(self.rho * alpha).tolist())
        scheduler.set_timesteps(self.task.steps)
        scheduler.betas, scheduler.alphas = self.rho * alpha, alpha
        self.labels = list(scheduler.timesteps)

    def level(self, label: Any) -> float:
        i = self.scheduler.step_index or 0
        return float(self.scheduler.betas[i] / self.scheduler.alphas[i])


def _interleave(levels: Tensor) -> Tensor:
    """``s0, s1, s1, s2, s2, ...``: how the two-stage schedulers list them."""
    return torch.cat([levels[:1], levels[1:].repeat_interleave(2)])
