"""Names of other libraries and web interfaces resolve to a solver, a grid and options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import mixture_2d

import scoresolve as ss
from scoresolve.presets import GRID_WORDS, PRESETS, Preset, resolve

MODEL = mixture_2d().model(ss.DiscreteVPSDE.linear())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_solver_a_grid_and_options_that_exist(name: str) -> None:
    preset = PRESETS[name]
    info = ss.get_solver(preset.solver)
    assert info.name == preset.solver
    assert preset.grid is None or preset.grid in ss.grids.GRIDS
    assert set(preset.options) <= set(info.options)
    solution = ss.sample(MODEL, (2, 2), solver=name, steps=6, seed=0)
    assert torch.isfinite(solution.samples).all()
    if info.adaptive:  # no table to look at: the same as the solver with these options
        plain = ss.sample(MODEL, (2, 2), solver=preset.solver, steps=6, seed=0, solver_options=preset.options)
        assert torch.equal(solution.samples, plain.samples)
        return
    assert solution.table is not None
    assert solution.table.solver == preset.solver
    for option, value in preset.options.items():
        assert solution.table.options[option] == value


@pytest.mark.parametrize(
    ("name", "solver", "grid"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("dpmpp_2m", "dpmpp_2m", None),
        ("dpm++ 2m sde exponential", "dpmpp_2m_sde", "exponential"),
        ("DPM++ 3M SDE Exponential", "dpmpp_3m_sde", "exponential"),
        ("DPM++ SDE Karras", "dpmpp_sde", "karras"),
        ("DPM2 a Karras", "dpm_2_ancestral", "karras"),
        ("Euler", "euler", None),
        ("Euler Simple", "euler", "trailing"),
        ("Euler a", "euler_ancestral", None),
        ("LMS Karras", "lms_4", "karras"),
        ("UniPC", "unipc_3", None),
        ("DDIM", "ddim", None),
        ("PLMS", "pndm", None),
        ("restart", "restart", None),
        ("HeunDiscreteScheduler", "heun", "linspace"),
        ("res_2s", "res_2s", None),
        ("ddim uniform", "ddim", "uniform"),
    ],
)
def test_names_resolve_whatever_their_spelling(name: str, solver: str, grid: str | None) -> None:
    if name == "ddim uniform":  # a grid's own name is not a word of the interfaces
        with pytest.raises(ValueError, match="unknown solver 'ddim uniform'"):
            resolve(name)
        return
    assert (resolve(name).solver, resolve(name).grid) == (solver, grid)


def test_every_word_for_a_grid_is_one() -> None:
    assert set(GRID_WORDS.values()) <= set(ss.grids.GRIDS)
    for word, grid in GRID_WORDS.items():
        assert resolve(f"DPM++ 2M {word.title()}") == Preset("dpmpp_2m", grid)


def test_a_name_with_its_grid_is_the_solver_on_that_grid() -> None:
    named = ss.sample(MODEL, (3, 2), solver="DPM++ 2M Karras", nfe=7, seed=3)
    spelled = ss.sample(MODEL, (3, 2), solver="dpmpp_2m", grid="karras", nfe=7, seed=3)
    assert torch.equal(named.samples, spelled.samples)
    assert np.array_equal(named.times, spelled.times)


def test_what_the_caller_says_goes_before_the_preset() -> None:
    solution = ss.sample(MODEL, (3, 2), solver="UniPC bh1", variant="exact", grid="uniform", steps=5, seed=0)
    assert solution.table is not None
    assert solution.table.options["variant"] == "exact"
    assert solution.times == pytest.approx(np.linspace(1, 0, 6))


def test_a_misspelt_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown solver 'DPM\+\+ 2N Karras'; did you mean .*'dpmpp_2m Karras'"):
        resolve("DPM++ 2N Karras")
    with pytest.raises(ValueError, match="unknown solver 3"):
        resolve(3)  # type: ignore[arg-type]


def test_without_a_solver_the_one_for_that_many_calls_is_taken() -> None:
    for request, name in (
        ({"nfe": 3}, "flow_abm_2"),
        ({"steps": 16}, "flow_abm_2"),
        ({"nfe": 17}, "flow_abm_3"),
        ({"nfe": 26}, "flow_abm_4"),
        ({"grid": np.linspace(1.0, 0.1, 9)}, "flow_abm_2"),
        ({"grid": "uniform", "nfe": 30}, "flow_abm_4"),
    ):
        table = ss.sample(MODEL, (2, 2), seed=0, **request).table  # type: ignore[arg-type]
        assert table is not None
        assert table.solver == name


@pytest.mark.parametrize("nfe", [8, 12, 20, 40])
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.EDM(), ss.RectifiedFlow()], ids=["vp", "edm", "flow"])
def test_the_default_beats_what_others_take_by_default(sde: ss.SDE, nfe: int) -> None:
    """Against DPM-Solver++(2M) and Heun in rho on Karras' grid, on the exact ends of a Gaussian's flow."""
    law = ss.exact.Gaussian(
        torch.linspace(-1, 1, 6, dtype=torch.float64), torch.logspace(-3, 0, 6, dtype=torch.float64)
    )
    start = law.marginal(sde, sde.t_max).sample(64, generator=torch.Generator().manual_seed(0))
    model = law.model(sde)
    exact = law.flow(sde, start, sde.t_max, sde.t_min)

    def error(**settings: object) -> float:
        out = ss.sample(model, start=start, nfe=nfe, **settings).samples  # type: ignore[arg-type]
        return float((out - exact).square().mean().sqrt())

    others = [error(solver="dpmpp_2m", grid="karras"), error(solver="heun", grid="karras", clock="rho")]
    assert error() < min(others)
