"""``ScoreSolveScheduler`` in pipelines of latents, with exact networks: the latents are those of ``ss.sample``."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresolve as ss

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import diffusers
from tiny import ExactNetwork, vae

from scoresolve.integrations.diffusers import ScoreSolveScheduler

SHAPE = (4, 8, 8)
LAW = ss.exact.Gaussian(0.3 * torch.ones(SHAPE), 0.04)
TABLE, FLOW = ss.DiscreteVPSDE.scaled_linear(), ss.RectifiedFlow()
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
TEXT: dict[str, Any] = {"prompt_embeds": torch.zeros(1, 3, 8), "negative_prompt_embeds": torch.zeros(1, 3, 8)}
POOLED = {"pooled_prompt_embeds": torch.zeros(1, 16), "negative_pooled_prompt_embeds": torch.zeros(1, 16)}
SOLVERS = ["unipc_3", "heun", "dpmpp_2m_sde"]
IMAGE = {"height": 16, "width": 16, "output_type": "latent"}


def network(law: ss.exact.Gaussian = LAW, **how: Any) -> ExactNetwork:
    net = ExactNetwork(law, **{"sde": TABLE, "predicts": "noise", "clock": lambda i: (i + 1) / 1000, **how})
    net.config.sample_size = 8
    return net


def scheduler(solver: Any, theirs: Any = None, **how: Any) -> ScoreSolveScheduler:
    config = (diffusers.PNDMScheduler(**STABLE, skip_prk_steps=True) if theirs is None else theirs).config
    return ScoreSolveScheduler.from_config(config, solver=solver, **how)


def run(pipe: Any, seed: int = 0, **how: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(generator=torch.Generator().manual_seed(seed), **how).images


class Drawn:
    """What the generator of a pipeline draws: the start, then the noise of the solver."""

    def __init__(self, *shape: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.start = torch.randn(*shape, generator=self.generator)

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


def sampled(net: ExactNetwork, solver: Any, shape: tuple[int, ...] = (2, *SHAPE), **how: Any) -> Tensor:
    """The same run by ``ss.sample``, told as the pipeline tells the network."""
    flow = net.predicts == "velocity"
    label: Any = (lambda t: 1000 * t) if flow else "fractional_index"
    kind: Any = "velocity" if flow else "noise"
    model = ss.ScoreModel(
        lambda x, index: net(x, index).sample[:, : x.shape[1]], FLOW if flow else TABLE, predicts=kind, time=label
    )
    drawn = Drawn(*shape)
    return ss.sample(model, start=drawn.start, solver=solver, **{"noise": drawn, **how}).samples


@pytest.mark.parametrize("solver", SOLVERS)
def test_stable_diffusion(solver: str) -> None:
    net = network()
    pipe = diffusers.StableDiffusionPipeline(
        vae(), None, None, net, scheduler(solver), None, None, requires_safety_checker=False
    )
    out = run(pipe, **TEXT, **IMAGE, num_images_per_prompt=2, num_inference_steps=5)
    assert (out - sampled(net, solver, steps=5)).abs().max() < 1e-5


def test_stable_diffusion_xl_with_a_tuned_table() -> None:
    net, table = network(), ss.build_table("unipc_2", TABLE, np.array([1.0, 0.6, 0.25, 0.05, 0.0]))
    pipe = diffusers.StableDiffusionXLPipeline(
        vae(), None, None, None, None, net, scheduler(table), add_watermarker=False
    )
    out = run(pipe, **TEXT, **POOLED, **IMAGE, num_images_per_prompt=2, num_inference_steps=4)
    assert (out - sampled(net, table)).abs().max() < 1e-5


@pytest.mark.parametrize("solver", ["unipc_3", "heun"])
def test_image_to_image_begins_in_the_middle_of_the_grid(solver: str) -> None:
    net, image = network(), 0.3 * torch.ones(1, *SHAPE)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        vae(), None, None, net, scheduler(solver), None, None, requires_safety_checker=False
    )
    out = run(pipe, **TEXT, image=image, strength=0.5, num_inference_steps=6, output_type="latent")
    times = pipe.scheduler.table.times[3:]
    start = TABLE.perturb(image, float(times[0]), noise=Drawn(1, *SHAPE).start)
    model = ss.ScoreModel(lambda x, i: net(x, i).sample, TABLE, predicts="noise", time="fractional_index")
    expected = ss.sample(model, start=start, solver=solver, grid=times)
    assert len(net.asked) == 2 * expected.nfe
    assert (out - expected.samples).abs().max() < 1e-5


@pytest.mark.parametrize("solver", ["unipc_3", "heun"])
def test_dit_guides_a_doubled_batch_and_learns_variances(solver: str) -> None:
    net, decoder, decoded = network(variance=True), vae(), []

    def decode(latents: Tensor) -> Any:
        decoded.append(latents * decoder.config.scaling_factor)
        return SimpleNamespace(sample=latents)

    decoder.decode = decode
    pipe = diffusers.DiTPipeline(net, decoder, scheduler(solver))
    run(pipe, class_labels=[1, 2], guidance_scale=4.0, num_inference_steps=5, output_type="pt")
    assert (decoded[0] - sampled(net, solver, steps=5)).abs().max() < 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_stable_diffusion_3(solver: str) -> None:
    net = network(sde=FLOW, predicts="velocity", clock=lambda i: i / 1000)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    # the pipeline hands its generator to no scheduler
    parts = (net, scheduler(solver, theirs, seed=5), vae(), None, None, None, None, None, None)
    out = run(
        diffusers.StableDiffusion3Pipeline(*parts),
        **TEXT, **POOLED, **IMAGE, num_images_per_prompt=2, num_inference_steps=5,
    )  # fmt: skip
    grid = partial(ss.grids.flow_shift, shift=3.0)
    expected = sampled(net, solver, steps=5, grid=grid, noise=None, seed=5)
    assert (out - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("solver", "grid"), [("unipc_3", None), ("heun", None), ("dpmpp_2m", "balanced")])
def test_flux(solver: str, grid: str | None) -> None:
    shape = (16, 16)  # tokens, channels
    law = ss.exact.Gaussian(0.3 * torch.ones(shape), 0.04)
    net = network(law, sde=FLOW, predicts="velocity", clock=lambda t: t)
    net.config.in_channels = 16
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    pipe = diffusers.FluxPipeline(scheduler(solver, theirs, grid=grid), vae(), None, None, None, None, net)
    text = {"prompt_embeds": TEXT["prompt_embeds"], "pooled_prompt_embeds": torch.zeros(1, 16)}
    out = run(pipe, **text, **IMAGE, num_inference_steps=5)
    times = pipe.scheduler.table.times
    latents = pipe._pack_latents(Drawn(1, 4, 8, 8).start, 1, 4, 8, 8)
    net.clock = lambda t: t / 1000  # told as SD3 is
    model = ss.ScoreModel(lambda x, i: net(x, i).sample, FLOW, predicts="velocity", time=lambda t: 1000 * t)
    expected = ss.sample(model, start=latents, solver=solver, grid=times)
    assert (out - expected.samples).abs().max() < 1e-5
    mu = diffusers.pipelines.flux.pipeline_flux.calculate_shift(16)
    if grid is None:
        assert times == pytest.approx(ss.grids.flow_shift(FLOW, 5, 1.0, 0.0, shift=float(np.exp(mu))))
