"""scikit-learn's digits, and a small network trained on them: 1797 images of 8 x 8 pixels, values in [-1, 1].

The network is trained along the straight path ``x_t = (1 - t) x_0 + t eps``, where uniform t is a logistic law of
``lam = log((1 - t) / t)``, and seen along any other process by ``ScoreModel.on``. Trained weights are kept as
safetensors beside their configuration as JSON, in a file named by the configuration's hash.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import scoresolve as ss

from .checkpoints import key, write_whole
from .networks import seeded

SHAPE = (1, 8, 8)
CACHE = Path(__file__).resolve().parent / "cache"
Log = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """Everything that decides the trained weights; its hash names their file."""

    steps: int = 5000
    batch: int = 128
    width: int = 256
    blocks: int = 3
    learning_rate: float = 3e-3
    seed: int = 0
    version: int = 1

    @property
    def key(self) -> str:
        """A short hash of the configuration."""
        return key(self)


QUICK = Training(steps=1200, width=192)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    """The digits, shape (1797, 1, 8, 8), values in [-1, 1]."""
    pixels = torch.as_tensor(load_digits().data, dtype=dtype)
    return (pixels / 8 - 1).reshape(-1, *SHAPE)


class DigitNet(nn.Module):
    """A residual perceptron that predicts the velocity ``eps - x_0`` of the straight path, from (x, t).

    Inside, state and prediction are those of the path of unit variance, ``y = a x_0 + b eps`` with a^2 + b^2 = 1,
    and ``v = a eps - b x_0``: both of order one at every noise level, so nothing needs to be learned of their scale.
    The last norm bounds v, so that states far from any seen in training, as few calls produce them, are not thrown
    further away. Every sample is treated by itself (layer norm, no batch norm).
    """

    frequencies: Tensor

    def __init__(self, width: int = 256, blocks: int = 3, features: int = 64) -> None:
        super().__init__()
        rates = torch.linspace(math.log(0.1), math.log(3.0), features // 2).exp()
        self.register_buffer("frequencies", rates)
        self.embed = nn.Sequential(nn.Linear(features, features), nn.SiLU())
        self.enter = nn.Linear(math.prod(SHAPE), width)
        self.blocks = nn.ModuleList(Block(width, features) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.leave = _zero(nn.Linear(width, math.prod(SHAPE)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity at x of shape (batch, 1, 8, 8) and t of shape (batch,)."""
        t = t.reshape(-1, 1, 1, 1)
        signal, noise = 1 - t, t
        norm = (signal**2 + noise**2).sqrt()
        y = x / norm
        v = self.unit_v(y, t.flatten())
        return ((noise - signal) * y + (signal + noise) * v) / norm

    def unit_v(self, y: Tensor, t: Tensor) -> Tensor:
        """``v = a eps - b x_0`` of the path of unit variance."""
        lam = torch.logit(t).neg().clamp(-8.0, 8.0)
        angles = lam[:, None] * self.frequencies
        condition = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        hidden = self.enter(y.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        out: Tensor = self.leave(nn.functional.silu(self.norm(hidden)))
        return out.reshape(y.shape)


class Block(nn.Module):
    """A residual block whose normalised input is scaled and shifted by the noise level."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(features, 2 * width)
        self.widen = nn.Linear(width, width)
        self.close = _zero(nn.Linear(width, width))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """The hidden state of shape (batch, width), moved."""
        scale, shift = self.modulate(condition).chunk(2, dim=1)
        inner = self.widen(self.norm(hidden) * (1 + scale) + shift)
        return hidden + self.close(nn.functional.silu(inner))  # type: ignore[no-any-return]


def _zero(layer: nn.Linear) -> nn.Linear:
    """The layer with zero weights: a residual network that starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def train(config: Training, device: torch.device, progress: bool = True) -> tuple[DigitNet, list[float]]:
    """Train by denoising score matching; returns the average of the weights over the run's end, and the losses.

    The random numbers come from one generator on the host, so the same configuration sees the same batches on any
    device. About 7 ms a step on two cores.
    """
    net = _initial(config).to(device)
    average = copy.deepcopy(net).requires_grad_(False)
    data = images(torch.float32).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), config.learning_rate, betas=(0.9, 0.99), fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    losses: list[float] = []
    running = torch.zeros((), device=device)
    every = max(1, config.steps // 10)
    steps = tqdm(
        range(1, config.steps + 1), desc="training the digits network", disable=None if progress else True, leave=False
    )
    for step in steps:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, step / 200) * _cosine(step / config.steps)
        loss = _loss(net, data, config.batch, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        running += loss.detach() / every
        _average(average, net, min(0.999, step / (step + 9)))
        if step % every == 0:
            losses.append(running.item())
            running.zero_()
            steps.set_postfix(loss=f"{losses[-1]:.4f}")
    return average.eval(), losses


def _initial(config: Training) -> DigitNet:
    """The network before training."""
    with seeded(config.seed):
        return DigitNet(config.width, config.blocks)


def _cosine(fraction: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * min(fraction, 1.0))


def _loss(net: DigitNet, data: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Mean squared error of v over a batch, with stratified times."""
    chosen = torch.randint(len(data), (batch,), generator=generator).to(data.device)
    t = (torch.arange(batch) + torch.rand(1, generator=generator)) / batch
    noise = torch.randn(batch, *SHAPE, generator=generator).to(data)
    t = t.clamp(1e-3, 1 - 1e-3).to(data)
    norm = ((1 - t) ** 2 + t**2).sqrt()
    a, b = ((1 - t) / norm).reshape(-1, 1, 1, 1), (t / norm).reshape(-1, 1, 1, 1)
    x0 = data[chosen]
    return (net.unit_v(a * x0 + b * noise, t) - (a * noise - b * x0)).square().mean()


def _average(average: DigitNet, net: DigitNet, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)


def trained(config: Training, device: torch.device, cache: Path = CACHE, log: Log = print) -> DigitNet:
    """The trained network in float64, from the cache if it is there, else trained and stored."""
    weights, facts = cache / f"digits-{config.key}.safetensors", cache / f"digits-{config.key}.json"
    net = _initial(config)
    if weights.exists() and facts.exists():
        try:
            net.load_state_dict(load_file(weights))
            log(f"digits network: from {weights.name}, loss {json.loads(facts.read_text())['losses'][-1]:.4f}")
            return net.eval().double().requires_grad_(False).to(device)
        except (SafetensorError, RuntimeError, ValueError, KeyError, IndexError) as error:
            log(f"digits network: {weights.name} cannot be used ({error}); training again")
    net, losses = train(config, device)
    net.cpu()
    log(f"digits network: trained {config.steps} steps, loss {' '.join(f'{loss:.3f}' for loss in losses)}")
    _store(net, weights, facts, {**asdict(config), "losses": losses})
    return net.double().to(device)


def model(config: Training, device: torch.device, cache: Path = CACHE, log: Log = print) -> ss.ScoreModel:
    """The trained network along the straight path that it knows."""
    return ss.ScoreModel(trained(config, device, cache, log), ss.RectifiedFlow(), predicts="velocity", time="t")


def _store(net: DigitNet, weights: Path, facts: Path, content: dict[str, object]) -> None:
    """Write both files, each whole or not at all."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    (weights.parent / ".gitignore").write_text("*\n")
    write_whole(weights, save(net.state_dict()))
    write_whole(facts, (json.dumps(content, indent=1) + "\n").encode())
