"""Our tables under k-diffusion's signature: against ``ss.sample``, and against k-diffusion's published formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import mixture_2d
from torch import Tensor

import scoresolve as ss
from scoresolve.integrations.kdiffusion import as_sampler

LAW = mixture_2d()
SIGMAS = torch.tensor([*torch.logspace(1, -1.5, 8, dtype=torch.float64).tolist(), 0.0], dtype=torch.float64)
START = 10.0 * torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TABLES = [info.name for info in ss.solvers() if not info.adaptive and info.order > 0]


def denoiser(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    assert sigma.shape == (len(x),)
    return LAW.denoise(x, 1.0, sigma)


@pytest.mark.parametrize("solver", TABLES)
def test_every_table_gives_what_sample_gives(solver: str) -> None:
    sde = ss.EDM(float(SIGMAS[-2]), float(SIGMAS[0]))
    model = ss.ScoreModel(denoiser, sde, predicts="data", time="sigma")
    expected = ss.sample(model, start=START, solver=solver, grid=SIGMAS, seed=3)
    seen: list[dict[str, Any]] = []
    sampler = as_sampler(solver)
    out = sampler(denoiser, START, SIGMAS, {"seed": 3}, lambda info: seen.append(info))
    assert torch.equal(out, expected.samples)
    assert sampler.__name__ == f"sample_{solver}"  # type: ignore[attr-defined]
    assert [info["i"] for info in seen] == list(range(len(expected.times) - 1))
    assert torch.equal(torch.stack([info["sigma"] for info in seen]), torch.as_tensor(expected.times[:-1]))
    assert torch.equal(seen[0]["denoised"], denoiser(START, SIGMAS[0].expand(16)))


def published(name: str, x: Tensor) -> Tensor:
    """k-diffusion's samplers, as they are published (Karras et al. 2022; Lu et al. 2022 with data prediction)."""
    previous = None
    for i in range(len(SIGMAS) - 1):
        now, after = SIGMAS[i], SIGMAS[i + 1]
        data = denoiser(x, now.expand(len(x)))
        if name == "dpmpp_2m":
            t, s = -now.log(), -after.log()
            mean = data
            if previous is not None and after > 0:
                r = (t + SIGMAS[i - 1].log()) / (s - t)
                mean = (1 + 1 / (2 * r)) * data - previous / (2 * r)
            x = (after / now) * x - torch.expm1(-(s - t)) * mean
            previous = data
            continue
        slope = (x - data) / now
        guess = x + (after - now) * slope
        if name == "heun" and after > 0:
            slope = 0.5 * (slope + (guess - denoiser(guess, after.expand(len(x)))) / after)
        x = x + (after - now) * slope
    return x


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_the_samplers_of_the_same_name_are_k_diffusions(name: str) -> None:
    out = as_sampler(f"sample_{name}")(denoiser, START, SIGMAS)
    assert (out - published(name, START)).abs().max() < 1e-12


def test_flow_models_are_on_the_flow() -> None:
    times = torch.linspace(1.0, 0.0, 7, dtype=torch.float64)
    flow = ss.RectifiedFlow()

    def data(x: Tensor, sigma: Tensor) -> Tensor:
        return LAW.denoise(x, 1 - sigma, sigma)

    expected = ss.sample(LAW.model(flow), start=START, solver="dpmpp_2m", grid=times)
    assert (as_sampler("dpmpp_2m", flow=True)(data, START, times) - expected.samples).abs().max() < 1e-12


def test_half_precision_single_levels_and_noise_samplers() -> None:
    half = START.bfloat16()
    out = as_sampler("unipc_3")(lambda x, sigma: denoiser(x.double(), sigma.double()).to(x), half, SIGMAS.float())
    assert out.dtype == torch.bfloat16
    assert (out.double() - as_sampler("unipc_3")(denoiser, half.double(), SIGMAS)).abs().max() < 0.1
    assert as_sampler("euler")(denoiser, START, SIGMAS[:1]) is START
    asked = []

    def noise_sampler(sigma: Tensor, after: Tensor) -> Tensor:
        asked.append((float(sigma), float(after)))
        return torch.zeros_like(START)

    as_sampler("euler_ancestral")(denoiser, START, SIGMAS, noise_sampler=noise_sampler)
    assert asked == list(zip(SIGMAS[:-2].tolist(), SIGMAS[1:-1].tolist(), strict=True))
    with pytest.raises(ValueError, match="draws several times a step"):
        as_sampler("dpmpp_sde")(denoiser, START, SIGMAS, noise_sampler=noise_sampler)
    with pytest.raises(ValueError, match="chooses its own noise levels"):
        as_sampler("adaptive_abm")
    for name, option in (("euler", "s_noise"), ("sample_heun", "s_churn"), ("sample_dpmpp_2m_sde", "s_noise")):
        with pytest.raises(TypeError, match=rf"unknown option '{option}'; .*'edm_(euler|heun)'.* have it"):
            as_sampler(name, **{option: 1.0})
        with pytest.raises(TypeError, match=r"'edm_(euler|heun)'.* have it"):
            as_sampler(name)(denoiser, START, SIGMAS, **{option: 1.0})
    with pytest.raises(TypeError, match=r"unknown option 'eta'; 'euler_maruyama' and .* have it"):
        as_sampler("euler", eta=1.0)
