"""A network of rows of a table: 30 measurements of 569 tumours (Wisconsin), along EDM's path.

A problem that is neither pictures nor a law in closed form: its columns are correlated, skewed and heavy-tailed. The
network is trained in about a minute by denoising score matching and kept in a file.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from tqdm import trange

import scoresolve as ss

from .checkpoints import CheckpointError, read_tensors, write_tensors
from .networks import seeded

STEPS, BATCH, RATE = 6000, 256, 2e-3


def table() -> Tensor:
    """The rows, (569, 30) float32; each column has mean 0 and variance 1."""
    rows = torch.as_tensor(load_breast_cancer().data)
    return ((rows - rows.mean(dim=0)) / rows.std(dim=0)).float()


class TableNet(nn.Module):
    """A perceptron that predicts the data from (x, sigma), preconditioned as Karras et al. 2022 for data of variance 1.

    ``D = x / (1 + sigma^2) + sigma / sqrt(1 + sigma^2) F(x / sqrt(1 + sigma^2), log sigma)``.
    """

    def __init__(self, columns: int = 30, width: int = 192, layers: int = 3) -> None:
        super().__init__()
        sizes = [columns + 16, *[width] * layers]
        hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.SiLU())]
        self.inner = nn.Sequential(*hidden, nn.Linear(width, columns))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The data expected at x (batch, columns) and sigma (batch,)."""
        sigma = sigma[:, None].to(x)
        norm = (1 + sigma**2).sqrt()
        angles = 0.25 * sigma.log() * 2 ** torch.arange(-1, 7).to(x)
        raw: Tensor = self.inner(torch.cat([x / norm, angles.sin(), angles.cos()], dim=1))
        return x / norm**2 + sigma / norm * raw


def _initial() -> TableNet:
    """The network before training."""
    with seeded(0):
        return TableNet()


def train(steps: int) -> tuple[TableNet, float]:
    """The average of the weights over the run's last tenth, and the mean loss there; the same at every call."""
    net = _initial()
    data, average, last = table(), copy.deepcopy(net), 0.0
    model = ss.ScoreModel(net, ss.EDM(), predicts="data", time="sigma")
    optimiser = torch.optim.AdamW(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    drawn = torch.Generator().manual_seed(1)
    tail = max(1, steps // 10)
    for step in trange(steps, desc="training on the table", leave=False, disable=None):
        x0 = data[torch.randint(len(data), (BATCH,), generator=drawn)]
        losses = ss.losses.denoising_score_matching(model, x0, weighting=ss.losses.edm(1.0), generator=drawn)
        optimiser.zero_grad(set_to_none=True)
        loss = losses.mean() / x0.shape[1]
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if (past := step - (steps - tail)) >= 0:
            last += loss.item() / tail
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 / (past + 1))
    return average.eval().requires_grad_(False), last


def model(cache: Path) -> ss.ScoreModel:
    """The trained network, from its file if there is one."""
    path, net = cache / "tabular.safetensors", _initial()
    try:
        weights, _ = read_tensors(path)
        net.load_state_dict(weights)
    except (FileNotFoundError, CheckpointError):
        net, loss = train(STEPS)
        cache.mkdir(parents=True, exist_ok=True)
        write_tensors(path, dict(net.state_dict()), {"loss": loss, "steps": STEPS})
    return ss.ScoreModel(net.eval().requires_grad_(False), ss.EDM(), predicts="data", time="sigma")
