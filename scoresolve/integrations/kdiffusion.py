"""Any fixed-grid solver under the signature of k-diffusion's samplers, which web interfaces plug in.

A sampler is called as ``sample(model, x, sigmas, extra_args, callback, disable)``: ``model(x, sigma, **extra_args)`` is
a denoiser told sigma (batch,), ``sigmas`` decrease and mostly end with 0, and x starts as noise of standard deviation
sigmas[0] on data. That is our ``EDM``, whose time is sigma. Flow-matching models are handed over in the same way, with
``x = (1 - sigma) data + sigma noise``: say ``flow=True``, else a solver takes their sigma for sigma / alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import require
from ..model import ScoreModel
from ..presets import resolve
from ..processes import EDM, RectifiedFlow
from ..registry import build_table, check_options, get_solver
from ..sampling import sample
from ..table import Table

Denoiser = Callable[..., Tensor]


class Sampler(Protocol):
    """k-diffusion's signature."""

    def __call__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        """The state at the last sigma."""
        ...


def as_sampler(solver: str, *, flow: bool = False, **options: Any) -> Sampler:
    """A solver as ``sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options)``.

    Args: solver, a name of ``ss.solvers()`` or one that others use ("sample_dpmpp_2m"; its grid does not matter, sigmas
    are given); flow, for flow-matching models; options of the solver. Those of a call go before these.

    The sampler takes x (batch, ...) of any floating dtype (the state is at least float32), asks the model once for each
    row of the table, and calls ``callback`` at the first call of each step with ``x, i, sigma, sigma_hat, denoised``.
    Noise is that of ``seed=`` (else ``extra_args["seed"]``, else a fresh one): sample i of a seed is the same in
    every batch; or that of ``noise_sampler(sigma, sigma_next)``, k-diffusion's. Other arguments of k-diffusion's own
    samplers (s_noise, solver_type, ...) are not options here; the churn (s_churn, s_tmin, s_tmax, s_noise) of its
    ``sample_euler`` and ``sample_heun`` is that of "edm_euler" and "edm_heun". Raises: ValueError, TypeError for what
    is not known.

    >>> import torch, scoresolve as ss
    >>> from scoresolve.integrations.kdiffusion import as_sampler
    >>> denoiser = lambda x, sigma: x / (1 + sigma[:, None] ** 2)  # data N(0, 1)
    >>> sigmas = torch.tensor([10.0, 3.0, 1.0, 0.3, 0.0])
    >>> as_sampler("heun")(denoiser, torch.full((1, 1), 10.0), sigmas).round(decimals=2)
    tensor([[0.9400]])
    """
    preset = resolve(solver)
    info = get_solver(preset.solver)
    if info.adaptive:
        raise ValueError(f"{solver!r} chooses its own noise levels, and sigmas are given: take one on a fixed grid")
    fixed = {**preset.options, **options}
    check_options(info, fixed)

    def sampler(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
        **more: Any,
    ) -> Tensor:
        times, extra = sigmas.detach().double().cpu().numpy(), dict(extra_args or {})
        if len(times) < 2:
            return x
        seed, noise = more.pop("seed", extra.get("seed")), more.pop("noise_sampler", None)
        first = float(times[0])
        sde = RectifiedFlow() if flow else EDM(min(1e-6 * first, float(times[-2])), first)
        table = build_table(info.name, sde, times, **{**fixed, **more})
        asked = _Asked(model, extra, x, sigmas, table, callback)
        state = x.to(torch.promote_types(x.dtype, torch.float32))
        source = None if noise is None else _Levels(noise, sigmas, table)
        solution = sample(
            ScoreModel(asked, sde, predicts="data", time="sigma"),
            start=state, solver=table, seed=seed, noise=source, progress=disable is False,
        )  # fmt: skip
        return solution.samples.to(x.dtype)

    sampler.__name__ = f"sample_{info.name}"
    return sampler


class _Asked:
    """The denoiser as a network, which tells the callback of the first call of each step."""

    def __init__(
        self, model: Denoiser, extra: dict[str, Any], x: Tensor, sigmas: Tensor, table: Table, callback: Any
    ) -> None:
        self.model, self.extra, self.dtype, self.callback = model, extra, x.dtype, callback
        self.starts = {rows[0]: step for step, rows in enumerate(_steps(table))}
        self.levels = torch.as_tensor(table.times, device=sigmas.device, dtype=sigmas.dtype)
        self.number = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        asked = x.to(self.dtype)
        denoised = self.model(asked, sigma.to(self.dtype), **self.extra)
        step = self.starts.get(self.number)
        self.number += 1
        if self.callback is not None and step is not None:
            at = self.levels[step]
            self.callback({"x": asked, "i": step, "sigma": at, "sigma_hat": at, "denoised": denoised})
        return denoised.to(x.dtype)


class _Levels:
    """k-diffusion's source of noise: asked for a step between two noise levels."""

    def __init__(self, draw: Callable[[Tensor, Tensor], Tensor], sigmas: Tensor, table: Table) -> None:
        self._draw, self._levels = draw, torch.as_tensor(table.times, device=sigmas.device, dtype=sigmas.dtype)
        self._step = {row: step for step, rows in enumerate(_steps(table)) for row in rows}
        most = max(sum(table.rows[row].draws for row in rows) for rows in _steps(table))
        require(most <= 1, f"no noise_sampler= with {table.solver!r}, which draws several times a step: use seed=")

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """The noise of a call: that of its step."""
        step = self._step[index]
        return self._draw(self._levels[step], self._levels[step + 1]).to(like)


def _steps(table: Table) -> list[list[int]]:
    """The rows of each step."""
    steps: list[list[int]] = [[]]
    for number, row in enumerate(table.rows):
        steps[-1].append(number)
        if row.s is not None and number + 1 < len(table.rows):
            steps.append([])
    return steps
