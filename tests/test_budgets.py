"""Every budget from 1 to 60 network calls, for every solver: met, finite, and no worse than half of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import TABLES, mixture_2d

import scoresolve as ss
from scoresolve.planning import Request, plan

LAW = ss.exact.Gaussian(torch.linspace(-1, 1, 9, dtype=torch.float64), torch.logspace(-4, 0, 9, dtype=torch.float64))

# Budgets at which a solver's error on this Gaussian is more than 1.5 times its error at half the budget:
EXCEPTIONS: dict[str, set[int]] = {
    # explicit stages across steps that span the whole noise range: one or two such steps, or the first of a few
    # (where half the budget leaves a call over, and so begins with a step of one stage, which is better there)
    "pndm": {2, 3},
    "kutta_3": {4},
    "bogacki_shampine": {4},
    "rk4": {5},
    "dpm_solver_2s": {2},
    "dpm_solver_3s": {2, 3},
    "dpmpp_3s": {4},
    "res_3s": {4},
    "dpm_fast": {2, 58},
    "dpm_2_ancestral": {2, 6},
    "edm_heun": {2, 6},
    "seeds_2": {2, 3, 6},
    "seeds_3": {2, 3, 5, 8, 9},
    # four outputs extrapolated over steps that grow by large factors
    "exponential_4": {7, 9},
    "unipc_4": {6, 7},
    "sa_solver": {4, 5, 6, 7},
    "dpmpp_3m_sde": {4, 5, 6, 7},
    # at half the budget the error changes its sign, and is small by accident
    "exponential_2": {6, 7},
    "dpm_solver_v3": {6},
    "dpmpp_2m_sde": {14, 16, 17},
    "ipndm_v_4": {22, 23},
}


def _table(info: ss.SolverInfo, sde: ss.SDE, nfe: int) -> ss.Table:
    table, _ = plan(Request(LAW.model(sde), info, None, sde.t_max, sde.t_min, {}), None, nfe)
    assert isinstance(table, ss.Table)
    return table


def _error(info: ss.SolverInfo, sde: ss.SDE, table: ss.Table) -> float:
    """RMSE of the end points against the exact flow; for stochastic solvers Wasserstein-2 to the exact law."""
    start, last = LAW.marginal(sde, sde.t_max), float(table.times[-1])
    variance = sde.alpha(last) ** 2 * LAW.variances[0] + sde.sigma(last) ** 2
    gain, offset, noise = ss.exact.affine_map(table, LAW, sde)
    mean = gain * start.means[0] + offset - sde.alpha(last) * LAW.means[0]
    if info.kind == "ode":
        spread = (gain - (variance / start.variances[0]).sqrt()) ** 2 * start.variances[0]
    else:
        spread = ((gain**2 * start.variances[0] + noise.square().sum(0)).sqrt() - variance.sqrt()) ** 2
    return math.sqrt(float((spread + mean**2).sum()))


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_twice_the_budget_is_no_worse_on_an_ill_conditioned_gaussian(info: ss.SolverInfo) -> None:
    """Variances 1e-4 to 1, VP, each solver's own grid; the exceptions are listed above, with their reasons."""
    sde, errors = ss.VPSDE(), {}
    for nfe in range(1, 61):
        table = _table(info, sde, nfe)
        assert table.nfe == nfe
        errors[nfe] = _error(info, sde, table)
    assert np.isfinite(list(errors.values())).all()
    worse = {nfe for nfe in range(2, 61) if errors[nfe] > 1.5 * errors[nfe // 2]}
    assert worse <= EXCEPTIONS.get(info.name, set())
    assert errors[60] < 0.25 * errors[1]


@pytest.mark.parametrize("sde", [ss.EDM(), ss.RectifiedFlow(), ss.SubVPSDE()], ids=["edm", "flow", "subvp"])
@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_every_budget_is_finite_on_paths_that_end_at_noise_zero_or_start_without_signal(
    info: ss.SolverInfo, sde: ss.SDE
) -> None:
    model = mixture_2d().model(sde)
    for nfe in (*range(1, 13), 31, 60):
        solution = ss.sample(model, (2, 2), solver=info.name, nfe=nfe, seed=0)
        assert solution.nfe == nfe
        assert torch.isfinite(solution.samples).all()


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_a_thousand_calls_are_finite_and_accurate(info: ss.SolverInfo) -> None:
    sde = ss.VPSDE()
    assert _error(info, sde, _table(info, sde, 1000)) < (0.05 if info.order == 1 else 0.003)
