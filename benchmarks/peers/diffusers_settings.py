"""Which of diffusers' schedulers are run, and how: their defaults, and the settings that their documentation advises.

``clip_sample`` and thresholding, meant for pixels in [-1, 1], are off. ``lower_order_final`` (on by default, to be
stable in few steps) is run both ways where a method of order 2 or 3 may do better without: ``_full``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

UNIFORM, KARRAS, LU = ("uniform",), ("karras",), ("log_snr",)
ALL = ("uniform", "karras", "log_snr", "beta")
THREE = ("uniform", "karras", "log_snr")
FULL: dict[str, Any] = {"lower_order_final": False}


@dataclass(frozen=True)
class Setting:
    """A scheduler with its configuration.

    Attributes:
        solver, scheduler, grids, kind, config: our name for it, its class, where it is run, and how.
        family: how it keeps its noise levels (``from_diffusers.py``).
        unscaled: whether its state is ``x_0 + rho eps``.
        says_end: whether it has the option ``final_sigmas_type``.
        steps_for: the number of grid steps that a budget allows.
        stride: table indices a step, for a table scheduler that visits half steps.
        closes_with_euler: whether its last step can do with one evaluation.
    """

    solver: str
    scheduler: str
    grids: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    kind: Literal["ode", "sde"] = "ode"
    family: Literal["sigmas", "pairs", "table", "ipndm"] = "sigmas"
    unscaled: bool = False
    says_end: bool = False
    steps_for: Callable[[int], int] = int
    stride: int = 1
    closes_with_euler: bool = False

    @property
    def reaches_zero(self) -> bool:
        """Whether it can step to noise zero (an order above 1, or bh1, divides by the infinite step)."""
        if self.scheduler == "UniPCMultistepScheduler":
            return bool(self.config["solver_type"] == "bh2" and self.config.get("lower_order_final", True))
        return self.scheduler not in ("DEISMultistepScheduler", "SASolverScheduler")


def _dpm(
    solver: str, order: int, grids: tuple[str, ...] = ALL, kind: Literal["ode", "sde"] = "ode", **config: Any
) -> Setting:
    algorithm = {"ode": "dpmsolver++", "sde": "sde-dpmsolver++"}[kind]
    config = {"solver_order": order, "algorithm_type": algorithm, **config}
    return Setting(solver, "DPMSolverMultistepScheduler", grids, config, kind, says_end=True)


def _single(solver: str, order: int) -> Setting:
    return Setting(solver, "DPMSolverSinglestepScheduler", THREE, {"solver_order": order}, says_end=True)


def _unipc(solver: str, order: int, kind: str, grids: tuple[str, ...] = THREE, **config: Any) -> Setting:
    config = {"solver_order": order, "solver_type": kind, **config}
    return Setting(solver, "UniPCMultistepScheduler", grids, config, says_end=True)


def _deis(solver: str, order: int, grids: tuple[str, ...] = THREE, **config: Any) -> Setting:
    return Setting(solver, "DEISMultistepScheduler", grids, {"solver_order": order, **config})


def _sa(solver: str, predictor: int, corrector: int, tau: float | None) -> Setting:
    tau_func = None if tau is None else (lambda label: tau)
    config = {"predictor_order": predictor, "corrector_order": corrector, "tau_func": tau_func}
    return Setting(solver, "SASolverScheduler", THREE, config, "ode" if tau == 0 else "sde")


def _karras(solver: str, scheduler: str, grids: tuple[str, ...], kind: Literal["ode", "sde"] = "ode") -> Setting:
    return Setting(solver, scheduler, grids, kind=kind, unscaled=True)


def _pairs(solver: str, scheduler: str, kind: Literal["ode", "sde"], closes: bool) -> Setting:
    return Setting(
        solver, scheduler, THREE, kind=kind, family="pairs", unscaled=True, closes_with_euler=closes,
        steps_for=lambda nfe: (nfe + closes) // 2,
    )  # fmt: skip


def _table(
    solver: str, scheduler: str, steps_for: Callable[[int], int] = int, stride: int = 1,
    kind: Literal["ode", "sde"] = "ode", **config: Any,
) -> Setting:  # fmt: skip
    return Setting(solver, scheduler, UNIFORM, config, kind, "table", steps_for=steps_for, stride=stride)


def _plms(nfe: int) -> int:
    """Steps of PLMS, whose first one is evaluated twice; its table needs two."""
    return nfe - 1 if nfe >= 3 else 0


def _prk(nfe: int) -> int:
    """Half steps of PNDM: three Runge-Kutta steps of four calls, then one call a step."""
    return 2 * (nfe - 9) if nfe >= 13 else 0


SETTINGS: tuple[Setting, ...] = (
    _table("ddim", "DDIMScheduler", clip_sample=False, set_alpha_to_one=False),
    _table("pndm", "PNDMScheduler", _prk, stride=2),
    _table("plms", "PNDMScheduler", _plms, skip_prk_steps=True),
    Setting("ipndm", "IPNDMScheduler", THREE, family="ipndm"),
    _karras("euler", "EulerDiscreteScheduler", THREE),
    _karras("lms", "LMSDiscreteScheduler", THREE),
    _pairs("heun", "HeunDiscreteScheduler", "ode", closes=True),
    _pairs("dpm2", "KDPM2DiscreteScheduler", "ode", closes=True),
    _dpm("dpmpp_2m", 2),
    _dpm("dpmpp_2m_full", 2, THREE, **FULL),
    _dpm("dpmpp_3m", 3),
    _dpm("dpmpp_3m_full", 3, THREE, **FULL),
    _single("dpmpp_2s", 2),
    _single("dpmpp_3s", 3),
    _unipc("unipc_2", 2, "bh2", ALL),
    _unipc("unipc_2_bh1", 2, "bh1"),
    _unipc("unipc_3", 3, "bh2"),
    _unipc("unipc_3_bh1", 3, "bh1"),
    _unipc("unipc_2_full", 2, "bh2", **FULL),
    _unipc("unipc_3_full", 3, "bh2", **FULL),
    _deis("deis_2", 2),
    _deis("deis_3", 3),
    _deis("deis_3_full", 3, **FULL),
    _sa("sa_22_tau0", 2, 2, 0.0),
    _sa("sa_34_tau0", 3, 4, 0.0),
    _table("ddpm", "DDPMScheduler", kind="sde", clip_sample=False),
    _karras("euler_a", "EulerAncestralDiscreteScheduler", THREE, "sde"),
    _pairs("dpm2_a", "KDPM2AncestralDiscreteScheduler", "sde", closes=False),
    _pairs("dpmpp_sde", "DPMSolverSDEScheduler", "sde", closes=False),
    _dpm("dpmpp_2m_sde", 2, ALL, "sde"),
    _dpm("dpmpp_2m_sde_euler", 2, THREE, "sde", euler_at_final=True),
    _dpm("dpmpp_2m_sde_full", 2, THREE, "sde", **FULL),
    _sa("sa_22", 2, 2, None),
    _sa("sa_34", 3, 4, None),
    _sa("sa_34_tau1", 3, 4, 1.0),
)  # fmt: skip
