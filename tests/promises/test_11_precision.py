"""Precision: coefficients are float64, the state is never in half, and what float32 loses is bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faults import ADAPTIVE, FAMILIES, SDE, SOLVERS, START, answer, samples_of, solved
from torch import Tensor

import scoresolve as ss

DRIFT = 40.0
"""The most that was seen is 22 units of float32's rounding, over 24 calls."""


def _run(solver: str, dtype: torch.dtype) -> Tensor:
    work = {"rtol": 0.01, "atol": 0.01, "t_min": 0.3} if solver in ADAPTIVE else {"nfe": 24}
    model = ss.ScoreModel(answer, SDE, predicts="noise")
    return ss.sample(model, start=START.to(dtype), solver=solver, seed=0, **work).samples


@pytest.mark.parametrize("solver", SOLVERS)
def test_float32_drifts_by_rounding_only(solver: str) -> None:
    """|S_f32 - S_f64| <= C eps |S|: coefficients of float32 would show as thousands of eps."""
    single, double = _run(solver, torch.float32), _run(solver, torch.float64)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    rounding = torch.finfo(torch.float32).eps * double.abs().max()
    assert (single.double() - double).abs().max() <= DRIFT * rounding


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ADAPTIVE])
def test_the_numbers_of_a_solver_are_float64(solver: str) -> None:
    """On data of one point a rule that is exact there is so to float64's rounding, whatever the default dtype."""
    found = solved(ss.ScoreModel(answer, SDE, predicts="noise"), solver).table
    if found is not None:
        weights = np.array([w for row in found.rows for w in (*row.commit, *row.propose)])
        assert weights.dtype == np.float64
        few_digits = np.abs(weights - weights.astype(np.float32)) == 0
        assert few_digits.mean() < 0.9 or len(found.rows) < 3  # float32's numbers are all among themselves


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_in_half_precision_has_a_state_of_float32(name: str, dtype: torch.dtype) -> None:
    """At its door only the network's input is cast; states, times and answers are float32 to the solver."""

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones((), dtype=dtype))
            self.seen: set[tuple[torch.dtype, torch.dtype]] = set()

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.seen.add((x.dtype, t.dtype))
            return (0.8 * torch.tanh(x) + 0.1 * t.to(dtype)[:, None]) * self.one

    net = Half()
    found = samples_of(FAMILIES[name](ss.ScoreModel(net, SDE, predicts="noise")))
    assert net.seen == {(dtype, torch.float32)}
    assert found.dtype == torch.float32
    exact = samples_of(FAMILIES[name](ss.ScoreModel(answer, SDE, predicts="noise")))
    assert (found - exact).abs().max() < 0.5 * exact.abs().max()
    assert not torch.equal(found, found.to(dtype).float())  # more digits than the network has


@pytest.mark.parametrize("name", [*FAMILIES, *ADAPTIVE])
def test_automatic_casts_are_the_networks_alone(name: str) -> None:
    """Under torch.autocast the network's products are in half precision, the solver's are not."""
    run = FAMILIES.get(name, lambda model: solved(model, name))
    exact = ss.ScoreModel(answer, SDE, predicts="noise")
    inside: list[bool] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        inside.append(torch.is_autocast_enabled("cpu"))
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        return answer(x, t)

    plain = samples_of(run(exact))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = samples_of(run(ss.ScoreModel(net, SDE, predicts="noise")))
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(cast, plain)
    assert all(inside)
