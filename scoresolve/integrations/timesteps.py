r"""The grids that a diffusers configuration stands for.

Flow matching shifts uniform times once, ``t' = s t / (1 + (s - 1) t)``, with a constant s or, of a resolution,
``s = exp(mu)`` (``mu`` with time_shift_type="linear"), mu linear in the length of the sequence. With ``shift_terminal``
e the times are stretched, ``1 - t -> (1 - t) (1 - e) / (1 - t_last)``, so that the last of them before 0 is e.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ..errors import require
from ..grids import GridLike, beta, karras, leading, linspace, log_snr, trailing
from ..sde import SDE
from .schedules import Config, kind_of


def sequence_mu(config: Config, length: int) -> float:
    """mu of a sequence of that many tokens: linear between (base_image_seq_len, base_shift) and (max_..., max_shift).

    >>> sequence_mu({}, 4096)
    1.15
    """
    short, long = float(config.get("base_image_seq_len") or 256), float(config.get("max_image_seq_len") or 4096)
    low, high = float(config.get("base_shift") or 0.5), float(config.get("max_shift") or 1.15)
    return low + (high - low) * (length - short) / (long - short)


def shift_of(config: Config, mu: float | None = None) -> float:
    """The shift s of a flow's times. Raises: ValueError without mu where the configuration's shift is dynamic."""
    if not config.get("use_dynamic_shifting"):
        return float(config.get("flow_shift") or config.get("shift") or 1.0)
    if mu is None:
        raise ValueError("expected mu=, or a sequence length, as the shift of this configuration is dynamic")
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def shifted(times: np.ndarray, config: Config, mu: float | None = None) -> np.ndarray:
    """Times of a flow before the last one, 0, shifted and stretched as a configuration says."""
    shift = shift_of(config, mu)
    times = shift * times / (1 + (shift - 1) * times)
    end = config.get("shift_terminal")
    if not end or times[-1] == 1:  # a single time has nothing to stretch
        return times
    return np.asarray(1 - (1 - times) * (1 - float(end)) / (1 - times[-1]))


def flow_times(sde: SDE, steps: int, t_max: float, t_min: float, *, config: Config, mu: float | None) -> np.ndarray:
    """Uniform times from 1, shifted once, and 0."""
    return np.append(shifted(1 - np.arange(steps) / steps, config, mu), 0.0)


def published_flow_times(
    sde: SDE, steps: int, t_max: float, t_min: float, *, config: Config, mu: float | None
) -> np.ndarray:
    """Those of FlowMatchEulerDiscreteScheduler: a static shift is applied to a range that is shifted already."""
    low = 1 / float(config.get("num_train_timesteps") or 1000)
    if not config.get("use_dynamic_shifting"):
        shift = shift_of(config)
        low = shift * low / (1 + (shift - 1) * low)
    return np.append(shifted(np.linspace(1.0, low, steps), config, mu), 0.0)


def grid_of(source: Any, mu: float | None = None, *, length: int | None = None) -> GridLike:
    """The grid that diffusers would use, for ``ss.sample(grid=...)``.

    Args: source, a pipeline, a scheduler, a configuration or a directory with one; mu, of a dynamic shift, or length,
    the number of tokens that it is a function of. Of a table of betas timestep_spacing, steps_offset and
    use_karras_sigmas are read, as DDIM's family means them; of a flow its shift, applied once.

    >>> import scoresolve as ss
    >>> from scoresolve.integrations.timesteps import grid_of
    >>> grid = grid_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    >>> grid(ss.RectifiedFlow(), 4, 1.0, 0.0).round(3).tolist()
    [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    from .loading import config_of

    config = config_of(getattr(source, "scheduler", source))
    if kind_of(config) == "flow":
        return partial(flow_times, config=config, mu=sequence_mu(config, length) if length is not None else mu)
    return spacing_of(config)


SPARING = frozenset([
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "SASolverScheduler",
])  # fmt: skip
"""Classes that space n + 1 indices and leave the last out."""


def spacing_of(config: Config) -> GridLike:
    """The grid of a configuration that is not a flow's."""
    if config.get("use_karras_sigmas") or config.get("sigma_schedule") == "karras":
        return partial(karras, power=float(config.get("rho") or 7.0))
    if config.get("use_exponential_sigmas") or config.get("use_lu_lambdas") or config.get("sigma_schedule"):
        return log_snr
    if config.get("use_beta_sigmas"):
        return beta
    spacing = config.get("timestep_spacing") or "leading"
    require(spacing in ("leading", "linspace", "trailing"), f"a timestep_spacing that is known, got {spacing!r}")
    spared = int(config.get("_class_name") in SPARING)
    if spacing == "leading":
        return partial(leading, offset=int(config.get("steps_offset") or 0), spared=spared)
    return partial(linspace, spared=spared) if spacing == "linspace" else trailing
