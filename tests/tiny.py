"""Tiny diffusers networks: with random weights, and with exact answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresolve as ss

pytest.importorskip("diffusers")
import diffusers

BLOCKS = {
    "block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def seeded(build: Callable[[], Any], seed: int = 0) -> Any:
    """What is built, its weights from a seed; torch's global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def unet(**config: Any) -> Any:
    """A UNet2DModel of 12 thousand parameters."""
    return seeded(lambda: diffusers.UNet2DModel(**{**BLOCKS, **config})).eval()


class ExactNetwork(torch.nn.Module):
    """A network of diffusers that knows the law of its data: the exact prediction on a process.

    Args: law, sde, predicts; clock, the time of a timestep; variance, whether it answers with one beside the mean.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(
        self, law: Any, sde: ss.SDE, predicts: Any, clock: Callable[[Tensor], Tensor], variance: bool = False
    ) -> None:
        super().__init__()
        channels, *_, size = law.shape
        self.config = SimpleNamespace(
            sample_size=size, in_channels=channels, out_channels=channels * (1 + variance), patch_size=2,
            time_cond_proj_dim=None, addition_time_embed_dim=8, guidance_embeds=False, _diffusers_version="0.42.1",
        )  # fmt: skip
        self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=6 * 8 + 16))  # SDXL looks here
        self.exact, self.predicts, self.clock, self.variance = law.model(sde), predicts, clock, variance
        self.asked: list[Tensor] = []

    def cache_context(self, name: str) -> Any:
        """Flux asks for one."""
        return contextlib.nullcontext()

    def forward(
        self, sample: Any = None, timestep: Any = None, return_dict: bool = True, hidden_states: Any = None, **_: Any
    ) -> Any:
        """The exact answer, in the sample's dtype."""
        sample = hidden_states if sample is None else sample
        label = torch.as_tensor(timestep)
        self.asked.append(label.flatten()[0])
        t = self.clock(label.double()).expand(len(sample))
        answer = self.exact.evaluate(sample.float() if sample.dtype.itemsize < 4 else sample, t, self.predicts)
        answer = torch.cat([answer, answer], dim=1) if self.variance else answer
        answer = answer.to(sample.dtype)
        return SimpleNamespace(sample=answer) if return_dict else (answer,)


def vae() -> Any:
    """A tiny autoencoder."""
    return seeded(
        lambda: diffusers.AutoencoderKL(
            block_out_channels=[4, 8],
            norm_num_groups=2,
            latent_channels=4,
            sample_size=16,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        )
    )
