"""diffusers' schedulers where they are right: on equal noise levels and equal noise, ours give the same numbers.

Many of them round their state to float32 at every step; the two tolerances say which. Where they are wrong:
``test_parity_faults.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import mixture_2d
from parity import (
    FINAL,
    MARKS,
    PATHS,
    deis,
    difference,
    dpm,
    driven,
    grid,
    normal,
    our_sa,
    ours,
    sa,
    setting,
    start,
    theirs,
    unipc,
)
from torch import Tensor

import scoresolve as ss
from scoresolve.forms import Form, data_form, noise_form
from scoresolve.single_step import EULER, THREE_STAGE, TWO_STAGE, Scheme, step_table_rows
from scoresolve.solvers.families import multistep_table

pytest.importorskip("diffusers")

from diffusers import schedulers
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

from benchmarks.peers.base import Network
from benchmarks.peers.diffusers_settings import Setting

pytestmark = MARKS

FLOAT64, FLOAT32 = 1e-10, 2e-6
SAME: dict[str, tuple[Setting, dict[str, Any], str, dict[str, Any], float]] = {}


def same(
    name: str,
    theirs: Setting,
    solver: str,
    rounding: float = FLOAT32,
    step: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Theirs, with options of their ``step``, is ours with these options."""
    SAME[name] = (theirs, step or {}, solver, options, rounding)


for _eta in (0.0, 0.5, 1.0):
    _ddim = setting("DDIMScheduler", "table", clip_sample=False)
    same(f"ddim_eta_{_eta}", _ddim, "ddim", FLOAT64, {"eta": _eta}, eta=_eta)
for _theirs, _ours in (("fixed_small", "posterior"), ("fixed_large", "forward")):
    _ddpm = setting("DDPMScheduler", "table", clip_sample=False, variance_type=_theirs)
    same(f"ddpm_{_theirs}", _ddpm, "ddpm", FLOAT64, variance=_ours)
same("euler", setting("EulerDiscreteScheduler", unscaled=True), "euler")
same("heun", setting("HeunDiscreteScheduler", "pairs", unscaled=True), "heun", FLOAT64, clock="rho")
same("kdpm_2", setting("KDPM2DiscreteScheduler", "pairs", unscaled=True), "dpm_solver_2s", FLOAT64)
for _n in (1, 2, 3, 4):
    same(f"lms_{_n}", setting("LMSDiscreteScheduler", unscaled=True), f"lms_{_n}", FLOAT64, {"order": _n})
for _algorithm, _prefix in (("dpmsolver", "dpm_solver"), ("dpmsolver++", "dpmpp")):
    same(f"{_algorithm}_1", dpm(1, _algorithm), "ddim")
    same(f"{_algorithm}_2m", dpm(2, _algorithm), f"{_prefix}_2m")
    same(f"{_algorithm}_2m_heun", dpm(2, _algorithm, solver_type="heun"), f"{_prefix}_2m", weights="exact")
    same(f"{_algorithm}_3m", dpm(3, _algorithm), f"{_prefix}_3m")
    same(f"{_algorithm}_3m_final", dpm(3, _algorithm, **FINAL), f"{_prefix}_3m", **FINAL)
same("sde-dpmsolver++_1", dpm(1, "sde-dpmsolver++"), "ddpm")
same("sde-dpmsolver++_2m", dpm(2, "sde-dpmsolver++"), "dpmpp_2m_sde")
same("sde-dpmsolver++_2m_final", dpm(2, "sde-dpmsolver++", **FINAL), "dpmpp_2m_sde", **FINAL)
same("sde-dpmsolver++_2m_heun", dpm(2, "sde-dpmsolver++", solver_type="heun"), "dpmpp_2m_sde", weights="exact")
same("sde-dpmsolver_1", dpm(1, "sde-dpmsolver"), "seeds_1")
for _kind in ("bh1", "bh2"):
    for _n in (1, 2, 3, 4):
        same(f"unipc_{_n}_{_kind}", unipc(_n, _kind), f"unipc_{_n}", FLOAT64, variant=_kind)
        _of_noise = unipc(_n, _kind, predict_x0=False)
        same(f"unipc_{_n}_{_kind}_noise", _of_noise, f"unipc_{_n}", FLOAT64, variant=_kind, predicts="noise")
    same(f"unipc_3_{_kind}_final", unipc(3, _kind, **FINAL), "unipc_3", FLOAT64, variant=_kind, **FINAL)
for _n in (1, 2, 3):
    same(f"deis_{_n}", deis(_n), f"deis_log_rho{_n - 1}" if _n > 1 else "ddim", FLOAT64)
same("deis_3_final", deis(3, **FINAL), "deis_log_rho2", FLOAT64, **FINAL)
same("plms", setting("PNDMScheduler", "table", skip_prk_steps=True), "pndm", FLOAT64)
same("ipndm", setting("IPNDMScheduler", "ipndm"), "ipndm_4", FLOAT64)
for _p, _c in ((1, 2), (2, 2), (2, 3), (3, 4), (4, 4)):
    for _tau in (0.0, 1.0):
        same(f"sa_{_p}{_c}_tau_{_tau:g}", sa(_p, _c, _tau), "sa_solver", FLOAT64, **our_sa(_p, _c, _tau))
same("sa_34_final", sa(3, 4, 1.0, **FINAL), "sa_solver", FLOAT64, **our_sa(3, 4, 1.0, **FINAL))
same("euler_ancestral", setting("EulerAncestralDiscreteScheduler", unscaled=True), "euler_ancestral")
same("kdpm_2_ancestral", setting("KDPM2AncestralDiscreteScheduler", "pairs", unscaled=True), "dpm_2_ancestral")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SAME)
def test_equals_ours(name: str, path: str) -> None:
    setting, step, solver, options, tolerance = SAME[name]
    sde = PATHS[path]
    times = grid(sde)
    assert difference(ours(solver, sde, times, **options), theirs(setting, sde, times, **step)) < tolerance


# -- single steps: three of their steps are the stages of one of ours -------------------------------------------------

CONSTANT = Scheme((0.0, 0.5), ({0.0: {0: 1.0}}, {0.5: {1: 1.0}}))
"""The output at the middle for the whole step: published 2S."""
MIDDLES = Scheme((0.0, 1 / 3, 2 / 3), ({0.0: {0: 1.0}}, {1 / 3: {1: 1.0}}, {0.0: {0: 1.0}, 2 / 3: {2: 1.0}}))
"""3S with such a step up to 2/3, where it was published with the line through 0 and 1/3."""
ALL_THREE = Scheme((0.0, 1 / 3, 2 / 3), (*THREE_STAGE.nodes[:2], {0.0: {0: 1.0}, 1 / 3: {1: 1.0}, 2 / 3: {2: 1.0}}))
"""3S with the parabola through all three outputs, where it was published with the line through 0 and 2/3."""
SCHEMES = {"midpoint": {1: EULER, 2: CONSTANT, 3: MIDDLES}, "heun": {1: EULER, 2: TWO_STAGE, 3: ALL_THREE}}


@pytest.mark.parametrize("steps", [6, 8, 10])
@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("algorithm", "form"), [("dpmsolver", noise_form), ("dpmsolver++", data_form)])
def test_single_steps(algorithm: str, form: Callable[[ss.SDE], Form], order: int, kind: str, steps: int) -> None:
    config = {"solver_order": order, "algorithm_type": algorithm, "solver_type": kind}
    sde = PATHS["vp"]
    fine = grid(sde, steps, "log_snr")
    found = theirs(setting("DPMSolverSinglestepScheduler", says_end=True, **config), sde, fine)
    stages = [order] * (steps // order) + ([steps % order] if steps % order else [])
    coarse = fine[np.cumsum([0, *stages])]
    schemes = [SCHEMES[kind][count] for count in stages]
    table = ss.Table.of(step_table_rows(sde, coarse, form(sde), schemes), coarse, sde, "", predicts=form(sde).predicts)
    assert difference(found, ours(table, sde, coarse)) < FLOAT64


@pytest.mark.parametrize(("kind", "weights"), [("midpoint", "published"), ("heun", "exact")])
@pytest.mark.parametrize(("algorithm", "solver"), [("dpmsolver", "dpm_solver_2s"), ("dpmsolver++", "dpmpp_2s")])
def test_two_stages_by_name(algorithm: str, solver: str, kind: str, weights: str) -> None:
    sde = PATHS["vp"]
    fine = grid(sde, 8, "log_snr")
    config = {"solver_order": 2, "algorithm_type": algorithm, "solver_type": kind}
    found = theirs(setting("DPMSolverSinglestepScheduler", says_end=True, **config), sde, fine)
    assert difference(found, ours(solver, sde, fine[::2], weights=weights)) < FLOAT64


@pytest.mark.parametrize("steps", [6, 14, 15, 20])
def test_deis_by_the_name_of_its_class_ends_at_index_0_on_the_times_that_the_documentation_gives(steps: int) -> None:
    """Below 15 steps with its last one of first order."""
    sde = ss.DiscreteVPSDE.linear()
    exact = mixture_2d().model(sde)
    scheduler = schedulers.DEISMultistepScheduler()
    scheduler.set_timesteps(steps)
    x = noise = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(exact.noise(x, (int(t) + 1) / 1000), t, x).prev_sample
    times = ss.grids.linspace(sde, steps + 1, 1.0, 0.0)[:-1]
    options = FINAL if steps < 15 else {}
    found = ss.sample(exact, start=noise, solver="DEISMultistepScheduler", grid=times, **options).samples
    assert (found - x).abs().max() < 1e-5  # theirs rounds its table to float32


# -- what has no name among ours, made of the same parts --------------------------------------------------------------


@pytest.mark.parametrize(("kind", "weights"), [("midpoint", "published"), ("heun", "exact")])
def test_noise_prediction_on_the_sde_in_two_steps(kind: str, weights: str) -> None:
    sde = PATHS["vp"]
    times = grid(sde)
    table = multistep_table("", noise_form(sde, 1.0), times, 2, weights, "low", None)
    assert difference(ours(table, sde, times), theirs(dpm(2, "sde-dpmsolver", solver_type=kind), sde, times)) < FLOAT32


def test_pndm_with_its_runge_kutta_start() -> None:
    """Ours takes the middle of these three steps in rho; theirs is given such levels here."""
    sde = PATHS["vp"]
    whole = grid(sde, 8)
    rho = np.asarray(sde.rho(whole))
    halves = np.insert(rho, range(1, len(rho)), 0.5 * (rho[1:] + rho[:-1]))
    fine = np.asarray(sde.time(-np.log(halves)))
    fine[::2] = whole
    found = theirs(Setting("", "PNDMScheduler", (), family="table", stride=2), sde, fine)
    table = ss.get_solver("pndm").build(sde, whole, start="runge_kutta")
    assert difference(found, ours(table, sde, whole)) < FLOAT64


def test_dpmpp_sde_on_one_path() -> None:
    """Theirs asks a Brownian path for the noise of the middle and of the end of a step; here it is that of our SDE.

    With the increments of the first and the second half, each of its own variance, the correlation of both noises is
    ``e^{-h/2} sqrt(1 - e^{-h}) / sqrt(1 - e^{-2h}) = 1 / sqrt(1 + e^h)``. (Their own path: below.)
    """
    sde = PATHS["vp"]
    times = grid(sde)
    steps = np.diff(sde.lam(times))

    draws = [normal(call, start(sde, times)) for call in range(1, 2 * len(times) - 1)]

    def prepare(scheduler: Any, network: Network) -> None:
        def noise(level: Tensor, lower: Tensor) -> Tensor:
            step, second = divmod(network.calls - 1, 2)
            shared = 1 / (1 + math.exp(steps[step])) if second else 1.0
            return shared**0.5 * draws[2 * step] + (1 - shared) ** 0.5 * draws[2 * step + 1]

        scheduler.noise_sampler = noise

    found = theirs(setting("DPMSolverSDEScheduler", "pairs", unscaled=True), sde, times, prepare)
    assert difference(found, ours("dpmpp_sde", sde, times)) < FLOAT64


def test_dpmpp_sde_follows_another_path() -> None:
    """Its Brownian path runs in sigma; the noise that the SDE leaves at a level does not.

    Of the variance of a step's noise, the share that its first half brings is ``1 / (1 + e^{-h/2})`` on their path and
    ``1 / (1 + e^h)`` on that of the SDE. Both tend to 1/2, so the order is 2 all the same.
    """
    h, count = 2.0, 20_000
    path = BrownianTreeNoiseSampler(torch.empty(count, dtype=torch.float64), 0.5, 10.0, seed=0)
    first, middle, last = (torch.tensor(math.exp(2 - part * h)) for part in (0, 0.5, 1))
    half, whole = path(first, middle), path(first, last)
    share = float((half * whole).mean()) ** 2
    assert share == pytest.approx(1 / (1 + math.exp(-0.5 * h)), abs=0.02)
    assert abs(share - 1 / (1 + math.exp(h))) > 0.5


# -- EDM and flows ----------------------------------------------------------------------------------------------------


EDM_SAME = {
    "EDMEulerScheduler": ({}, "euler", {}),
    "EDMDPMSolverMultistepScheduler": ({"lower_order_final": False}, "dpmpp_2m", {}),
    "EDMDPMSolverMultistepScheduler heun": (
        {"lower_order_final": False, "solver_type": "heun"},
        "dpmpp_2m",
        {"weights": "exact"},
    ),
    "EDMDPMSolverMultistepScheduler 3": ({"lower_order_final": False, "solver_order": 3}, "dpmpp_3m", {}),
    "EDMDPMSolverMultistepScheduler final": ({}, "dpmpp_2m", FINAL),
}


@pytest.mark.parametrize("name", EDM_SAME)
def test_edm(name: str) -> None:
    config, solver, options = EDM_SAME[name]
    sde, spread = ss.EDM(), 0.5
    model = mixture_2d().model(sde)

    def raw(x: Tensor, t: float) -> Tensor:
        """The network inside its preconditioning."""
        total = t**2 + spread**2
        return (model.data(x, t) - spread**2 / total * x) / (t * spread / total**0.5)

    times = ss.grids.karras(sde, 9, 80.0, 0.0)
    with torch.no_grad():
        found = driven(getattr(schedulers, name.split()[0])(sigma_data=spread, **config), sde, times, raw)
    assert difference(found, ours(solver, sde, times, **options)) < FLOAT32


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
FLOW_SAME = {
    "FlowMatchEulerDiscreteScheduler": ({}, "euler", {"clock": "t"}),
    "DPMSolverMultistepScheduler": (
        {**FLOW, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
        "dpmpp_2m",
        {},
    ),
    "UniPCMultistepScheduler": ({**FLOW, "lower_order_final": False, "final_sigmas_type": "sigma_min"}, "unipc_2", {}),
    "DEISMultistepScheduler": ({**FLOW, "lower_order_final": False}, "deis_log_rho1", {}),
}


@pytest.mark.parametrize("name", FLOW_SAME)
def test_flows(name: str) -> None:
    config, solver, options = FLOW_SAME[name]
    sde = ss.RectifiedFlow()
    model = mixture_2d().model(sde)
    times = ss.grids.flow_shift(sde, 9, 0.99, 0.01)
    with torch.no_grad():
        found = driven(getattr(schedulers, name)(**config), sde, times, lambda x, t: model.velocity(x, t))
    assert difference(found, ours(solver, sde, times, **options)) < FLOAT32
