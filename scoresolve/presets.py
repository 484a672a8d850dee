"""The names that other libraries and web interfaces use: each is a solver with a grid and options.

``"DPM++ 2M Karras"`` is ``dpmpp_2m`` on the grid "karras", ``"Euler a"`` is ``euler_ancestral``, and the schedulers of
diffusers go by the names of their classes. Names are compared without case, spaces, dots, underscores and hyphens, and
with ``pp`` for ``++``; the name of a grid at the end ("Karras", "exponential", "simple", ...) is the grid. A grid or an
option that the caller gives beside the name goes first.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import unknown
from .registry import SolverInfo, solvers
from .table import Table


@dataclass(frozen=True)
class Preset:
    """What a name stands for.

    Attributes:
        solver: a registered solver.
        grid: the name of its grid, or None for the solver's own.
        options: the solver's options.
    """

    solver: str
    grid: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


GRID_WORDS = {
    "karras": "karras",
    "polyexponential": "poly_exponential",
    "exponential": "exponential",
    "beta": "beta",
    "normal": "linspace",
    "simple": "trailing",
    "sgm uniform": "trailing",
    "trailing": "trailing",
    "ddim uniform": "leading",
    "leading": "leading",
    "lu": "log_snr",
    "kl optimal": "cosine",
    "align your steps": "ays_sd15",
    "align your steps xl": "ays_sdxl",
}
"""Ends of names that mean a grid."""

PRESETS = {
    # web interfaces
    "Euler a": Preset("euler_ancestral"),
    "LMS": Preset("lms_4"),
    "DPM2": Preset("dpm_solver_2s"),
    "DPM2 a": Preset("dpm_2_ancestral"),
    "DPM++ 2S a": Preset("dpmpp_2s_ancestral"),
    "DPM++ 2M SDE Heun": Preset("dpmpp_2m_sde", options={"weights": "exact"}),
    "UniPC": Preset("unipc_3"),
    "UniPC bh1": Preset("unipc_3", options={"variant": "bh1"}),
    "DEIS": Preset("deis_log_rho2"),
    "iPNDM": Preset("ipndm_4"),
    "iPNDM v": Preset("ipndm_v_4"),
    "RES multistep": Preset("exponential_2", options={"start": "low"}),
    "ER SDE": Preset("er_sde_3"),
    "DPM adaptive": Preset("adaptive_dpm_23", options={"prediction": "noise", "rtol": 0.05, "atol": 0.0078}),
    "dopri5": Preset("rk45"),
    "Gotta Go Fast": Preset("adaptive_sde_ggf"),
    # k-diffusion
    "sample_euler": Preset("euler", "karras"),
    "sample_euler_ancestral": Preset("euler_ancestral", "karras"),
    "sample_heun": Preset("heun", "karras", {"clock": "rho"}),
    "sample_dpm_2": Preset("dpm_solver_2s", "karras"),
    "sample_dpm_2_ancestral": Preset("dpm_2_ancestral", "karras"),
    "sample_lms": Preset("lms_4", "karras", {"lower_order_final": False}),
    "sample_dpm_adaptive": Preset("adaptive_dpm_23", options={"prediction": "noise", "rtol": 0.05, "atol": 0.0078}),
    "sample_dpm_fast": Preset("dpm_fast", "log_snr"),
    "sample_dpmpp_2s_ancestral": Preset("dpmpp_2s_ancestral", "karras"),
    "sample_dpmpp_sde": Preset("dpmpp_sde", "karras"),
    "sample_dpmpp_2m": Preset("dpmpp_2m", "karras"),
    "sample_dpmpp_2m_sde": Preset("dpmpp_2m_sde", "karras"),
    "sample_dpmpp_3m_sde": Preset("dpmpp_3m_sde", "karras"),
    # diffusers, with the defaults of each class (what DEIS and the single-step class do otherwise: docs/migration.md)
    "DDIMScheduler": Preset("ddim", "leading"),
    "DDPMScheduler": Preset("ddpm", "leading"),
    "PNDMScheduler": Preset("pndm", "leading", {"start": "runge_kutta"}),
    "IPNDMScheduler": Preset("ipndm_4", "cosine"),
    "LMSDiscreteScheduler": Preset("lms_4", "linspace", {"lower_order_final": False}),
    "EulerDiscreteScheduler": Preset("euler", "linspace"),
    "EulerAncestralDiscreteScheduler": Preset("euler_ancestral", "linspace"),
    "HeunDiscreteScheduler": Preset("heun", "linspace", {"clock": "rho"}),
    "KDPM2DiscreteScheduler": Preset("dpm_solver_2s", "linspace"),
    "KDPM2AncestralDiscreteScheduler": Preset("dpm_2_ancestral", "linspace"),
    "DPMSolverMultistepScheduler": Preset("dpmpp_2m", "linspace_dpm"),
    "DPMSolverSinglestepScheduler": Preset("dpmpp_2s", "linspace_dpm"),
    "DPMSolverSDEScheduler": Preset("dpmpp_sde", "linspace"),
    "DEISMultistepScheduler": Preset("deis_log_rho1", "linspace_dpm"),
    "UniPCMultistepScheduler": Preset("unipc_2", "linspace_dpm"),
    "SASolverScheduler": Preset(
        "sa_solver", "linspace_dpm", {"predictor_order": 2, "corrector_order": 2, "weights": "bh1"}
    ),
    "EDMEulerScheduler": Preset("euler", "karras"),
    "EDMDPMSolverMultistepScheduler": Preset("dpmpp_2m", "karras"),
    "FlowMatchEulerDiscreteScheduler": Preset("euler", "uniform", {"clock": "t"}),
    "FlowMatchHeunDiscreteScheduler": Preset("heun", "uniform", {"clock": "t"}),
}
"""Names that are not those of the registry, whatever their spelling."""


def resolve(name: str | SolverInfo) -> Preset:
    """What a name stands for: a registered solver, an alias, or a name that others use; of a solver's facts, itself.

    Raises: ValueError, naming the nearest, if there is none; TypeError for a table.

    >>> resolve("DPM++ 2M Karras")
    Preset(solver='dpmpp_2m', grid='karras', options={})
    >>> resolve("Euler a").solver, resolve("heun").solver
    ('euler_ancestral', 'heun')
    """
    name = name.name if isinstance(name, SolverInfo) else name
    if isinstance(name, Table):
        raise TypeError("a table runs from noise to data only, by ss.sample and ss.decode: give the solver's name here")
    registered = _registered()
    if isinstance(name, str):
        found = meant(name)
        if found is not None:
            return found
        if name.endswith(".json"):
            raise ValueError(f"unknown solver {name!r}: give the table of a file as solver=ss.Table.load({name!r})")
    names = {*registered, *PRESETS}
    on_grids = [f"{one} {word.title()}" for one in names for word in ("karras", "exponential")]
    raise ValueError(unknown("solver", name, names, _key, on_grids))


def meant(name: str) -> Preset | None:
    """What a name stands for; None for one that is free."""
    registered = _registered()
    if name in registered:
        return Preset(registered[name])
    known = {_key(alias): Preset(solver) for alias, solver in registered.items()}
    known |= {_key(alias): preset for alias, preset in PRESETS.items()}
    key = _key(name)
    if key in known:
        return known[key]
    for word in sorted(GRID_WORDS, key=len, reverse=True):
        short = key.removesuffix(_key(word))
        if short != key and short in known:
            return replace(known[short], grid=GRID_WORDS[word])
    return None


def _registered() -> dict[str, str]:
    return {alias: info.name for info in solvers() for alias in (info.name, *info.aliases)}


@functools.lru_cache(maxsize=4096)
def _key(name: str) -> str:
    return re.sub(r"[\s._-]+", "", name.lower().replace("++", "pp"))
