"""``ss.from_diffusers``: real (tiny, random) networks in our loop and in their own pipelines give the same latents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresolve as ss

pytest.importorskip("diffusers")
import diffusers
from tiny import seeded, unet, vae

from scoresolve.integrations.diffusers import ScoreSolveScheduler

STABLE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_pipeline(pipe: Any, seed: int = 0, solver: str = "unipc_3", **how: Any) -> Tensor:
    pipe.scheduler = ScoreSolveScheduler.from_config(pipe.scheduler.config, solver=solver)
    pipe.set_progress_bar_config(disable=True)
    return pipe(generator=torch.Generator().manual_seed(seed), num_inference_steps=4, **how).images


def conditional(**config: Any) -> Any:
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    shape = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 8, "norm_num_groups": 2}
    small = {"block_out_channels": (4, 8), "layers_per_block": 1, **shape, **blocks, **config}
    return seeded(lambda: diffusers.UNet2DConditionModel(**small)).eval()


def test_a_pipeline_of_pixels() -> None:
    pipe = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())
    model = ss.from_diffusers(pipe)
    expected = ss.sample(model, start=normal(2, 3, 8, 8), solver="unipc_3", steps=4).samples
    assert (in_pipeline(pipe, batch_size=2, output_type="pt") - (expected / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-5


def test_stable_diffusion_with_guidance() -> None:
    pytest.importorskip("transformers")
    parts = (vae(), None, None, conditional(), diffusers.DDIMScheduler(**STABLE), None, None)
    pipe = diffusers.StableDiffusionPipeline(*parts, requires_safety_checker=False)
    yes, no = normal(1, 3, 8, seed=1), normal(1, 3, 8, seed=2)
    model = ss.from_diffusers(pipe).condition(encoder_hidden_states=yes.expand(2, 3, 8))
    guided = model.guide(7.5, encoder_hidden_states=no)
    expected = ss.sample(guided, start=normal(2, 4, 8, 8), solver="unipc_3", steps=4).samples
    text = {"prompt_embeds": yes, "negative_prompt_embeds": no, "num_images_per_prompt": 2}
    out = in_pipeline(pipe, **text, height=16, width=16, guidance_scale=7.5, output_type="latent")
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    assert ss.sample(guided, start=normal(2, 4, 8, 8), nfe=3).stats["network_rows"] == 12


@pytest.mark.parametrize("nested", [True, False])
def test_stable_diffusion_xl_with_guidance(nested: bool) -> None:
    pytest.importorskip("transformers")
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    net = conditional(**more, projection_class_embeddings_input_dim=6 * 8 + 16)
    pipe = diffusers.StableDiffusionXLPipeline(
        vae(), None, None, None, None, net, diffusers.DDIMScheduler(**STABLE), add_watermarker=False
    )
    yes, no, pooled, unpooled = normal(1, 3, 8, seed=1), normal(1, 3, 8, seed=2), normal(1, 16), normal(1, 16, seed=4)
    ids = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]])
    model = ss.from_diffusers(pipe).condition(encoder_hidden_states=yes)
    if nested:
        bound = model.condition(added_cond_kwargs={"text_embeds": pooled, "time_ids": ids})
        guided = bound.guide(5.0, encoder_hidden_states=no, added_cond_kwargs={"text_embeds": unpooled})
    else:
        guided = model.condition(text_embeds=pooled, time_ids=ids).guide(
            5.0, encoder_hidden_states=no, text_embeds=unpooled
        )
    expected = ss.sample(guided, start=normal(1, 4, 8, 8), solver="unipc_3", steps=4).samples
    text = {"prompt_embeds": yes, "negative_prompt_embeds": no}
    text |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": unpooled}
    out = in_pipeline(pipe, **text, height=16, width=16, guidance_scale=5.0, output_type="latent")
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


def dit() -> Any:
    size = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "patch_size": 2, "sample_size": 8}
    return seeded(
        lambda: diffusers.DiTTransformer2DModel(in_channels=4, out_channels=8, **size, num_embeds_ada_norm=1000)
    ).eval()


def test_dit_with_guidance_and_a_learned_variance() -> None:
    decoder, decoded = vae(), []
    decode = decoder.decode
    decoder.decode = lambda latents: (decoded.append(latents * decoder.config.scaling_factor), decode(latents))[1]
    pipe = diffusers.DiTPipeline(dit(), decoder, diffusers.DDIMScheduler())
    model = ss.from_diffusers(pipe).condition(class_labels=torch.tensor([3, 7]))
    guided = model.guide(4.0, class_labels=torch.tensor([1000]))
    expected = ss.sample(guided, start=normal(2, 4, 8, 8), solver="unipc_3", steps=4).samples
    in_pipeline(pipe, class_labels=[3, 7], guidance_scale=4.0, output_type="pt")
    assert (decoded[0] - expected).abs().max() < 1e-4 * expected.abs().max()


def sd3() -> Any:
    size = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8}
    heads = {
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 16,
    }
    return seeded(lambda: diffusers.SD3Transformer2DModel(**size, **heads, out_channels=4, pos_embed_max_size=8)).eval()


def test_stable_diffusion_3_with_guidance() -> None:
    pytest.importorskip("transformers")
    parts = (sd3(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae(), *[None] * 6)
    pipe = diffusers.StableDiffusion3Pipeline(*parts)
    yes, no, pooled, unpooled = normal(1, 3, 8, seed=1), normal(1, 3, 8, seed=2), normal(1, 16), normal(1, 16, seed=4)
    model = ss.from_diffusers(pipe).condition(encoder_hidden_states=yes, pooled_projections=pooled)
    guided = model.guide(7.0, encoder_hidden_states=no, pooled_projections=unpooled)
    from scoresolve.integrations.timesteps import grid_of

    expected = ss.sample(guided, start=normal(1, 4, 8, 8), solver="unipc_3", steps=4, grid=grid_of(pipe)).samples
    text = {"prompt_embeds": yes, "negative_prompt_embeds": no}
    text |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": unpooled}
    out = in_pipeline(pipe, **text, height=16, width=16, guidance_scale=7.0, output_type="latent")
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


def test_flux() -> None:
    pytest.importorskip("transformers")
    size = {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "axes_dims_rope": (4, 4, 8),
    }
    heads = {"num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 16, "guidance_embeds": True}
    net = seeded(lambda: diffusers.FluxTransformer2DModel(patch_size=1, **size, **heads)).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = diffusers.FluxPipeline(scheduler, vae(), None, None, None, None, net)
    yes, pooled = normal(1, 3, 8, seed=1), normal(1, 16)
    model = ss.from_diffusers(pipe).condition(
        encoder_hidden_states=yes, pooled_projections=pooled, guidance=torch.tensor([3.5]),
        txt_ids=torch.zeros(3, 3), img_ids=pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
    )  # fmt: skip
    from scoresolve.integrations.timesteps import grid_of

    latents = pipe._pack_latents(normal(1, 4, 8, 8), 1, 4, 8, 8)
    expected = ss.sample(model, start=latents, solver="unipc_3", steps=4, grid=grid_of(pipe, length=16)).samples
    text = {"prompt_embeds": yes, "pooled_prompt_embeds": pooled}
    out = in_pipeline(pipe, **text, height=16, width=16, guidance_scale=3.5, output_type="latent")
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


def as_pipeline(net: Any, path: Path) -> Path:
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler(beta_schedule="sigmoid")).save_pretrained(path)
    return path


def as_network(net: Any, path: Path) -> Path:
    net.save_pretrained(path)
    diffusers.DDPMScheduler(beta_schedule="sigmoid").save_pretrained(path / "scheduler")
    return path


def as_part(net: Any, path: Path) -> Path:
    return as_pipeline(net, path) / "unet"


@pytest.mark.parametrize("save", [as_pipeline, as_network, as_part])
def test_directories_are_read_from_safetensors(save: Callable[[Any, Path], Path], tmp_path: Path) -> None:
    net = unet()
    path = save(net, tmp_path / "model")
    model = ss.from_diffusers(path, dtype=torch.float64)
    first = next(model.net.parameters())
    assert (first.dtype, model.net.training) == (torch.float64, False)
    x = normal(1, 3, 8, 8)
    expected = ss.from_diffusers(net, diffusers.DDPMScheduler(beta_schedule="sigmoid")).noise(x, 0.5)
    assert (model.noise(x, 0.5) - expected).abs().max() < 1e-5
    for weights in tmp_path.rglob("*.safetensors"):
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        ss.from_diffusers(path)


def test_ncsn_answers_with_a_score_and_learned_embeddings_want_whole_indices() -> None:
    ve = {"_class_name": "ScoreSdeVeScheduler", "snr": 0.15, "sigma_min": 0.01, "sigma_max": 50.0}
    model = ss.from_diffusers(unet(time_embedding_type="fourier"), ve)
    assert (model.predicts, model.time, repr(model.sde)) == ("score", "sigma", "VESDE(sigma_min=0.01, sigma_max=50.0)")
    learned = unet(time_embedding_type="learned", num_train_timesteps=1000)
    model = ss.from_diffusers(learned, diffusers.DDPMScheduler())
    assert model.time == "index"
    assert ss.sample(model, shape=(1, 3, 8, 8), nfe=3, seed=0).nfe == 3


def test_edm_networks_keep_float32_around_half_precision() -> None:
    theirs = diffusers.EDMEulerScheduler(sigma_data=0.5)
    model = ss.from_diffusers(unet(in_channels=3).bfloat16(), theirs)
    assert (model.predicts, model.time, repr(model.sde)) == ("data", "sigma", "EDM(sigma_min=0.002, sigma_max=80.0)")
    x = 0.5 * normal(2, 3, 8, 8)
    assert (model.data(x, 1e-4) - x).abs().max() < 1e-3  # bfloat16 would lose 4e-3 of x


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loaded by diffusers"):
        ss.from_diffusers("google/ddpm-cifar10-32")
    with pytest.raises(ValueError, match="scheduler="):
        ss.from_diffusers(unet())
    with pytest.raises(TypeError, match="must be a pipeline"):
        ss.from_diffusers(3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"config\.json"):
        ss.from_diffusers(tmp_path / "empty", diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="expected time=, as Lumina is not known"):
        ss.from_diffusers(type("Lumina", (torch.nn.Module,), {})(), diffusers.FlowMatchEulerDiscreteScheduler())
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "HeunDiscreteScheduler"}))
    named = "DiscreteVPSDE(<1000 betas, 0.00085 to 0.012, mean 0.006425>)"
    assert repr(ss.from_diffusers(unet(), tmp_path).sde) == named


def test_the_library_itself_does_not_import_diffusers() -> None:
    code = "import sys, scoresolve; assert not {'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.check_call([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
