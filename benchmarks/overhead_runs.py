"""What ``overhead.py`` runs: one method in several libraries, each with a network that costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import scoresolve as ss

Run = Callable[[int], object]
"""A run of that many network calls."""
OURS = "scoresolve"


def ours(solver: str, shape: tuple[int, ...], device: torch.device) -> Run:
    """Ours: the public function with a number of calls."""
    answer = torch.zeros(shape, device=device)
    model = ss.ScoreModel(lambda x, t: answer, ss.DiscreteVPSDE.linear(), predicts="noise", time="index")
    start = torch.randn(shape, device=device)
    return lambda calls: ss.sample(model, start=start, solver=solver, nfe=calls, seed=0)


def of_diffusers(name: str, options: dict[str, Any], shape: tuple[int, ...], device: torch.device) -> Run:
    """A scheduler in the loop of its pipelines."""
    import diffusers

    scheduler = getattr(diffusers, name)(num_train_timesteps=1000, beta_schedule="linear", **options)
    answer, start = torch.zeros(shape, device=device), torch.randn(shape, device=device)

    def run(calls: int) -> Any:
        scheduler.set_timesteps(calls, device=device)
        x = start * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(answer, t, x).prev_sample
        return x

    return run


def of_azula(name: str, options: dict[str, Any], shape: tuple[int, ...], device: torch.device) -> Run:
    """A sampler of azula with a denoiser that costs nothing."""
    import azula.sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    answer, start = torch.zeros(shape, device=device), torch.randn(shape, device=device)

    class Free(Denoiser):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            return DiracPosterior(mean=answer)

    denoiser = Free()

    def run(calls: int) -> Tensor:
        sampler = getattr(azula.sample, name)(denoiser, steps=calls, silent=True, **options)
        with torch.no_grad():
            found: Tensor = sampler(start)
        return found

    return run


def of_torchdiffeq(method: str, shape: tuple[int, ...], device: torch.device) -> Run:
    """A fixed-step method of torchdiffeq."""
    import torchdiffeq

    answer, start = torch.zeros(shape, device=device), torch.randn(shape, device=device)

    def run(calls: int) -> Any:
        times = torch.linspace(1.0, 0.0, calls + 1, device=device)
        with torch.no_grad():
            return torchdiffeq.odeint(lambda t, x: answer, start, times[[0, -1]], method=method,
                                      options={"grid_constructor": lambda *_: times})  # fmt: skip

    return run


def of_torchsde(method: str, shape: tuple[int, ...], device: torch.device) -> Run:
    """A fixed-step method of torchsde, with its Brownian tree."""
    import torchsde

    answer, start = torch.zeros(shape, device=device).flatten(1), torch.randn(shape, device=device).flatten(1)

    class Free(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Tensor, x: Tensor) -> Tensor:
            return answer

        g = f

    def run(calls: int) -> Any:
        with torch.no_grad():
            return torchsde.sdeint(Free(), start, torch.tensor([0.0, 1.0]), method=method, dt=1 / calls)

    return run


METHODS: dict[str, dict[str, Callable[..., Run]]] = {
    "DDIM": {
        OURS: partial(ours, "ddim"),
        "diffusers": partial(of_diffusers, "DDIMScheduler", {"clip_sample": False}),
        "azula": partial(of_azula, "DDIMSampler", {}),
    },
    "DPM-Solver++(2M)": {
        OURS: partial(ours, "dpmpp_2m"),
        "diffusers": partial(of_diffusers, "DPMSolverMultistepScheduler", {}),
    },
    "UniPC, order 3": {
        OURS: partial(ours, "unipc_3"),
        "diffusers": partial(of_diffusers, "UniPCMultistepScheduler", {"solver_order": 3}),
    },
    "DDPM": {
        OURS: partial(ours, "ddpm"),
        "diffusers": partial(of_diffusers, "DDPMScheduler", {"clip_sample": False}),
        "azula": partial(of_azula, "DDPMSampler", {}),
    },
    "Euler": {OURS: partial(ours, "euler"), "torchdiffeq": partial(of_torchdiffeq, "euler")},
    "Euler-Maruyama": {OURS: partial(ours, "euler_maruyama"), "torchsde": partial(of_torchsde, "euler")},
}
"""What is compared, by who has it."""
