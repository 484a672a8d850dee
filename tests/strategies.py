"""What property tests draw from, and the networks, states and sources of noise that they share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from oracles import PROCESSES
from torch import Tensor

import scoresolve as ss

SOLVERS = ss.solvers()
FIXED = [info for info in SOLVERS if not info.adaptive]
TOGETHER = dict.fromkeys(("rk45", "scipy_rk45"), "one step for the whole batch, as docs/parallel.md says")
APART = [info for info in SOLVERS if info.name not in TOGETHER]
ADAPTIVE = [info for info in APART if info.adaptive]
LOOSE = {"rtol": 0.3, "atol": 0.3}


def named(info: ss.SolverInfo) -> str:
    """The name of a parametrised test."""
    return info.name


def beyond(reason: str, *solvers: str | ss.SolverInfo) -> dict[str, str]:
    """Solvers that a property does not hold for, or that are no part of it, and why."""
    return {each if isinstance(each, str) else each.name: reason for each in solvers}


def work(info: ss.SolverInfo, **fixed: Any) -> dict[str, Any]:
    """How much a run does: as is said for solvers of fixed steps, loose tolerances for the others."""
    loose = {"rtol": 0.3, "atol": 0.3, "t_min": 0.1} if info.kind == "sde" else LOOSE
    return {"solver": info.name, **(loose if info.adaptive else fixed or {"nfe": 6})}


# -- networks that treat samples apart to the last bit: sums, products and quotients are rounded alike ----------------


def mixing(x: Tensor, t: Tensor) -> Tensor:
    """Nonlinear, and every element depends on another one of its sample."""
    y = x.reshape(len(x), -1)
    y = (y + 0.5 * y.roll(1, dims=1)) / (1 + y * y)
    return (y * (1 + t[:, None] / (1 + t[:, None]))).reshape(x.shape)


def pointwise(x: Tensor, t: Tensor) -> Tensor:
    """Odd in x, each element by itself."""
    return x / (1 + x * x) * (1 + (t / (1 + t)).view(-1, *[1] * (x.ndim - 1)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64, from a generator of their own."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Through:
    """Noise that goes through a map of tensors shaped (batch, ...), before it is handed out."""

    source: Any
    change: Callable[[Tensor], Tensor]

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        """The source's draw, changed."""
        return self.change(self.source.draw(stream, index, like))

    def take(self, rows: Tensor) -> Through:
        """Of some samples."""
        return Through(self.source.take(rows), self.change)


LEVELS = (-2.5, 2.0)
"""Of lam, which every process reaches."""


# -- strategies -------------------------------------------------------------------------------------------------------

users = st.floats(0.3, 1.55).map(
    lambda w: ss.GaussianPath(alpha=lambda t: torch.cos(w * t), sigma=lambda t: torch.sin(w * t))
)
smooth_paths = st.one_of(
    st.builds(ss.VESDE, st.floats(1e-3, 0.1), st.floats(1.0, 500.0)),
    st.builds(ss.VPSDE, st.floats(1e-3, 1.0), st.floats(2.0, 40.0)),
    st.builds(ss.SubVPSDE, st.floats(1e-3, 1.0), st.floats(2.0, 40.0)),
    st.builds(ss.CosineVPSDE, st.floats(1e-3, 0.05)),
    st.builds(ss.EDM, st.floats(1e-4, 0.01), st.floats(1.0, 200.0)),
    st.just(ss.RectifiedFlow()),
    users,
)
tables_of_betas = st.lists(st.floats(1e-4, 0.3), min_size=2, max_size=30).map(ss.DiscreteVPSDE)
paths = st.one_of(smooth_paths, tables_of_betas)
seeds = st.integers(0, 2**63 - 1)


@st.composite
def levels(draw: st.DrawFn) -> np.ndarray:
    """A random monotone grid of lam, its steps within a factor of three of each other."""
    gaps = np.array(draw(st.lists(st.floats(1.0, 3.0), min_size=1, max_size=8)))
    return LEVELS[0] + (LEVELS[1] - LEVELS[0]) * np.concatenate([[0.0], gaps.cumsum() / gaps.sum()])


@dataclass(frozen=True)
class Problem:
    """A process, a grid on it, a start and a seed. Attributes: sde, times, start (batch, ...) float64, seed."""

    sde: ss.SDE
    times: np.ndarray
    start: Tensor
    seed: int

    def run(self, info: ss.SolverInfo, net: Any, start: Tensor | None = None, **how: Any) -> Tensor:
        """The samples of a network of the data, or of a model."""
        model = net if isinstance(net, ss.ScoreModel) else ss.ScoreModel(net, self.sde, predicts="data")
        x = self.start if start is None else start
        more = LOOSE if info.adaptive else {}
        return ss.sample(
            model, start=x, solver=info.name, **{"grid": self.times, "seed": self.seed, **more, **how}
        ).samples


ANY = tuple(PROCESSES.values())
SHAPES = ((2, 3), (3,), (2, 1, 2), (1, 2, 3, 1), ())


def turned(choices: Sequence[Any], info: ss.SolverInfo) -> st.SearchStrategy[Any]:
    """One of them; the first that is tried, and the last that is shrunk to, differs from solver to solver."""
    place = zlib.crc32(info.name.encode()) % len(choices)
    return st.sampled_from([*choices[place:], *choices[:place]])


@st.composite
def problems(
    draw: st.DrawFn,
    info: ss.SolverInfo,
    sdes: Sequence[ss.SDE] = ANY,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    steps: Sequence[int] = (4, 3, 5, 1, 2, 8),
) -> Problem:
    """Any process, grid whose steps are within a factor of three of each other, batch of 1 to 5, and shape."""
    sde, n, batch = draw(turned(sdes, info)), draw(turned(steps, info)), draw(turned((3, 2, 5, 4, 1), info))
    seed = draw(st.integers(0, 10**6))
    gaps = np.random.default_rng(seed).uniform(1, 3, n).cumsum()
    times = np.asarray(sde.time(LEVELS[0] + (LEVELS[1] - LEVELS[0]) * np.concatenate([[0.0], gaps / gaps[-1]])))
    scale = float(np.hypot(sde.alpha(times[0]), sde.sigma(times[0])))
    return Problem(sde, times, scale * normal(batch, *draw(turned(shapes, info)), seed=seed), seed)
