"""The network that the classical systems share: a small U-Net, told the time by whatever label the system uses.

Residual blocks (group norm, SiLU, two 3 x 3 convolutions, scaled and shifted by the time and the class), halving the
resolution between levels, attention at the lowest, skip connections up: the body of Ho et al. 2020, arXiv:2006.11239,
app. B, in small. Every sample is treated by itself, and nothing is random in it (no dropout), so that it is a function.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from scoresolve.errors import require, whole_number

Label = Literal["index", "t", "sigma"]
LEVELS = 1000
"""Indices of DDPM's table, the clock of which is ``(index + 1) / LEVELS``."""
SPREAD = 0.5
"""Standard deviation of image data, roughly: states of VE processes are divided by that of data and noise together."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network.

    Attributes:
        shape: (channels, height, width) of an image; the sides must be divisible by 2^(levels - 1).
        label: what it is told: a whole "index" of DDPM's table, "t" in [0, 1], or "sigma" of a VE process.
        widths: channels at each resolution, from the highest; multiples of 8.
        blocks: residual blocks at each resolution.
        classes: how many there are to be told; 0 for none. One more, the null class, stands for "not told".
    """

    shape: tuple[int, int, int]
    label: Label
    widths: tuple[int, ...] = (32, 64)
    blocks: int = 1
    classes: int = 0

    def __post_init__(self) -> None:
        for name in ("shape", "widths"):
            object.__setattr__(self, name, tuple(whole_number(f"each of {name}", n) for n in getattr(self, name)))
        whole_number("blocks", self.blocks)
        whole_number("classes", self.classes, least=0)
        require(len(self.shape) == 3, f"shape of (channels, height, width), got {self.shape}")
        require(bool(self.widths), "one of widths for each resolution, got none")
        require(all(w % 8 == 0 for w in self.widths), f"widths that are multiples of 8, got {self.widths}")
        known = ("index", "t", "sigma")
        require(self.label in known, f"a label of {', '.join(known)}, got {self.label!r}")
        factor = 2 ** (len(self.widths) - 1)
        fits = all(side % factor == 0 for side in self.shape[1:])
        require(fits, f"sides divisible by {factor} for {len(self.widths)} widths, got {self.shape[1:]}: use fewer")

    @classmethod
    def of(cls, shape: Sequence[int], label: Label, classes: int = 0) -> NetworkConfig:
        """The default for images of a shape: 0.7 M parameters at 8 x 8, another level from 16 x 16 on."""
        channels, height, width = shape
        small = min(height, width) < 16 or height % 4 or width % 4
        return cls((channels, height, width), label, (32, 64) if small else (32, 64, 96), classes=classes)


class UNet(nn.Module):
    """Called as ``net(x, label, classes=None)``; answers in the shape of x.

    With ``label="sigma"`` the state has no bounded scale (VE): it is divided by ``sqrt(sigma^2 + 0.25)``, as Karras
    et al. 2022 (arXiv:2206.00364, eq. 8) do. The last layer starts at zero, and so the answer.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        features, first, lowest = 4 * config.widths[0], config.widths[0], config.widths[-1]
        self.embed = Clock(config.label, features)
        self.null = nn.Embedding(config.classes + 1, features) if config.classes else None
        self.enter = nn.Conv2d(config.shape[0], first, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [first], first
        for level, wide in enumerate(config.widths):
            if level:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
            for _ in range(config.blocks):
                self.down.append(Block(width, wide, features))
                skips.append(width := wide)
        self.middle = nn.ModuleList(
            [Block(lowest, lowest, features), Attention(lowest), Block(lowest, lowest, features)]
        )
        for level, wide in reversed(list(enumerate(config.widths))):
            for _ in range(config.blocks + 1):
                self.up.append(Block(width + skips.pop(), wide, features))
                width = wide
            if level:
                self.up.append(Grow(width))
        self.norm = nn.GroupNorm(8, width)
        self.leave = _zero(nn.Conv2d(width, config.shape[0], 3, padding=1))

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        """The answer at x (batch, channels, height, width), labels (batch,), classes int64 (batch,), null if None."""
        condition = self.embed(label, x.dtype)
        if self.null is not None:
            told = torch.full_like(label, self.config.classes, dtype=torch.int64) if classes is None else classes
            condition = condition + self.null(told)
        elif classes is not None:
            raise ValueError("the network was not trained with classes: leave them out, or train with --conditional")
        hidden = self.enter(bounded(self.config.label, x, label))
        skips = [hidden]
        for layer in self.down:
            hidden = layer(hidden, condition) if isinstance(layer, Block) else layer(hidden)
            skips.append(hidden)
        for layer in self.middle:
            hidden = layer(hidden, condition) if isinstance(layer, Block) else layer(hidden)
        for layer in self.up:
            hidden = (
                layer(torch.cat([hidden, skips.pop()], 1), condition) if isinstance(layer, Block) else layer(hidden)
            )
        out: Tensor = self.leave(silu(self.norm(hidden)))
        return out


class Clock(nn.Sequential):
    """Features of the time label: sines and cosines of a clock that goes over a stretch of about one, mixed."""

    rates: Tensor

    def __init__(self, label: Label, features: int) -> None:
        # Radians over the whole clock: from what tells the ends apart to about the finest that VP's ends need.
        rates = torch.logspace(0, math.log10(300), features // 4)
        super().__init__(nn.Linear(2 * len(rates), features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())
        self.label = label
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, label: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        """(batch,) to (batch, features)."""
        match self.label:
            case "index":
                clock = (label.to(self.rates) + 1) / LEVELS
            case "t":
                clock = label
            case "sigma":
                clock = label.log() / 8
        angles = clock[:, None] * self.rates
        mixed = torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)
        for layer in self:
            mixed = layer(mixed)
        return mixed


def bounded(kind: Label | None, x: Tensor, label: Tensor) -> Tensor:
    """The state on a scale of about one: that of VE processes, told sigma, is divided by that of data and noise."""
    return x / (label * label + SPREAD**2).sqrt().to(x.dtype)[:, None, None, None] if kind == "sigma" else x


class Block(nn.Module):
    """A residual block; its second norm is scaled and shifted by the condition. It starts as the identity."""

    def __init__(self, width: int, wide: int, features: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, width), nn.GroupNorm(8, wide, affine=False)])
        self.modulate = nn.Linear(features, 2 * wide)
        self.widen = nn.Conv2d(width, wide, 3, padding=1)
        self.close = _zero(nn.Conv2d(wide, wide, 3, padding=1))
        self.past = nn.Conv2d(width, wide, 1) if width != wide else nn.Identity()

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """The hidden state (batch, width, ...) as (batch, wide, ...)."""
        scale, shift = self.modulate(condition)[:, :, None, None].chunk(2, dim=1)
        inner = self.widen(silu(self.norms[0](hidden)))
        inner = self.close(silu(self.norms[1](inner) * (1 + scale) + shift))
        return self.past(hidden) + inner  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Every place looks at every other, in heads of 32 channels (one of fewer, where there are fewer)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 32 if width % 32 == 0 else 1
        self.norm = nn.GroupNorm(8, width)
        self.ask = nn.Conv2d(width, 3 * width, 1)
        self.close = _zero(nn.Conv2d(width, width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """The hidden state (batch, width, height, width), moved."""
        asked = self.ask(self.norm(hidden)).flatten(2).unflatten(1, (3, self.heads, -1))
        query, key, value = asked.transpose(-1, -2).unbind(1)
        seen = scaled_dot_product_attention(query, key, value)
        return hidden + self.close(seen.transpose(-1, -2).reshape(hidden.shape))  # type: ignore[no-any-return]


class Grow(nn.Module):
    """Twice the resolution: each place four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, width, h, w) to (batch, width, 2 h, 2 w)."""
        return self.smooth(interpolate(hidden, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with zero weights."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Networks made within have the weights of the seed; torch's global generator is left where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def initial(config: NetworkConfig, seed: int) -> UNet:
    """The network before training."""
    with seeded(seed):
        return UNet(config)
