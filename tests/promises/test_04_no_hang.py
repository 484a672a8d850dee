"""No hang: every loop that chooses its steps has a budget, and says why it ended."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from faults import ADAPTIVE, SDE, answer
from torch import Tensor

import scoresolve as ss
from scoresolve.per_sample import BUDGET, PerSampleRunner

OTHERS = {
    "radau": ss.backend("scipy", "Radau", rtol=0.1, atol=0.1),
    "lsoda": ss.backend("scipy", "LSODA", rtol=0.1, atol=0.1),
    "bosh3": ss.backend("torchdiffeq", "bosh3", rtol=0.1, atol=0.1),
    "torchsde": ss.backend("torchsde", "heun", rtol=0.5, atol=0.5, options={"adaptive": True}),
}
LOOPS: dict[str, Any] = {**{name: name for name in ADAPTIVE}, **OTHERS}
SHARED = ("rk45", "scipy_rk45", *OTHERS)
"""Other libraries' methods: one step for the batch, and an error where it ends."""
ERRORS = {"max_nfe": ss.BudgetError, "nonfinite": ss.NonFiniteError, "step_underflow": ss.StepUnderflowError}


def _late(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (x.ndim - 1)).double()


class Noisy:
    """A network whose answers differ from call to call."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return answer(x, t) + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


NETS: dict[str, tuple[Any, set[str]]] = {
    "nan": (lambda x, t: torch.where(_late(t, x) < 0.6, math.nan, answer(x, t)), {"nonfinite"}),
    "stiffer for ever": (lambda x, t: (1e4 * x / _late(t, x) ** 4).to(x.dtype), {"max_nfe", "step_underflow"}),
    "jumps in t": (lambda x, t: (answer(x, t) * (300 / _late(t, x)).sin().sign()).to(x.dtype), {"ok", "max_nfe"}),
    "noisy": (Noisy(), {"ok", "max_nfe", "step_underflow"}),
    "runs away": (lambda x, t: -50 * x**3, {"nonfinite", "step_underflow", "max_nfe"}),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", LOOPS)
def test_every_adaptive_loop_ends_and_says_how(name: str, kind: str) -> None:
    """Within its budget, by a status or an error of its own name; what arrived is finite."""
    net, ends = NETS[kind]
    model = ss.ScoreModel(net, SDE, predicts="noise")
    budget = 600 if kind == "nan" else 120
    asked = {"solver": LOOPS[name], "seed": 0, "nfe": budget, "t_max": 0.99, "on_error": "mask"}
    errors = tuple(ERRORS[end] for end in ends if end in ERRORS)
    try:
        found = ss.sample(model, (2, 2), **asked)
    except errors:
        assert name in SHARED
    else:
        assert set(found.status) <= ends
        assert found.samples[found.ok].isfinite().all()
    assert model.nfe <= budget


@pytest.mark.filterwarnings("ignore:lsoda")
@pytest.mark.parametrize("name", LOOPS)
def test_an_interval_of_one_ulp(name: str) -> None:
    """Time advances by the least there is, or the error says that it does not."""
    model = ss.ScoreModel(answer, SDE, predicts="noise")
    ends = {"t_max": 0.5, "t_min": float(np.nextafter(0.5, 0.0))}
    try:
        found = ss.sample(model, (2, 2), solver=LOOPS[name], seed=0, **ends)
    except ss.StepUnderflowError:
        assert name in SHARED
    else:
        start = 0.0 if name.startswith("adaptive_sde") else 1e-6
        still = ss.sample(model, (2, 2), solver="ddim", steps=1, seed=0, **ends)
        assert (found.samples - still.samples).abs().max() <= start + 1e-6
    assert model.nfe < 60


@pytest.mark.parametrize("name", LOOPS)
def test_there_is_a_budget_where_none_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = NETS["stiffer for ever"]
    if name in SHARED:
        monkeypatch.setattr("scoresolve.running.BUDGET", 60)
        model = ss.ScoreModel(net, SDE, predicts="noise")
        with pytest.raises((ss.BudgetError, ss.StepUnderflowError)):
            ss.sample(model, (2, 2), solver=LOOPS[name], seed=0, t_max=0.99)
        assert model.nfe <= 60
        return
    runner = ss.get_solver(name).build(SDE, np.array([1.0, 0.001]))
    assert isinstance(runner, PerSampleRunner)
    assert runner.budget == BUDGET < math.inf


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1e-300, math.nan, math.inf])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_tolerances_that_cannot_be_met_are_refused(name: str, tolerance: float) -> None:
    model = ss.ScoreModel(answer, SDE, predicts="noise")
    with pytest.raises(ValueError, match=r"rtol"):
        ss.sample(model, (2, 2), solver=name, seed=0, rtol=tolerance, atol=tolerance)
    assert model.nfe == 0


def test_the_three_ends_are_told_apart() -> None:
    """Each sample by a status of its own, in one run: too few calls, NaN, a step that vanishes."""

    def net(x: Tensor, t: Tensor, who: Tensor) -> Tensor:
        late, row = _late(t, x), who[:, None]
        wrong = torch.where(row == 1, math.nan, torch.where(row == 2, 1e30 * torch.sign(0.5 - late), 0.0))
        return answer(x, t) + torch.where(late < 0.6, wrong, 0.0).to(x.dtype)

    model = ss.ScoreModel(net, SDE, predicts="noise").condition(who=torch.arange(3))
    asked = {"solver": "adaptive_bs3", "seed": 0, "on_error": "mask"}
    assert ss.sample(model, (3, 2), **asked).status == ("ok", "nonfinite", "step_underflow")
    assert ss.sample(model, (3, 2), nfe=7, **asked).status == ("max_nfe",) * 3


@pytest.mark.parametrize(
    ("solver", "more"),
    [
        ("ddim", {"parallel": ss.Picard(tolerance=0.0)}),
        ("dpmpp_2m", {"parallel": ss.Picard(window=3, anderson=2, tolerance=1e-6)}),
        ("annealed_langevin", {"corrections": 3}),
        ("ddpm", {"corrector": "langevin"}),
    ],
)
@pytest.mark.parametrize("kind", NETS)
def test_loops_of_fixed_length_end_too(solver: str, more: dict[str, Any], kind: str) -> None:
    """Picard's sweeps are at most as many as the rows, whatever the network does."""
    model = ss.ScoreModel(NETS[kind][0], SDE, predicts="noise")
    found = ss.sample(model, (2, 2), solver=solver, nfe=12, seed=0, on_error="mask", **more)
    assert model.nfe <= 12
    assert found.samples[found.ok].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kind", ["nan", "stiffer for ever", "runs away"])
def test_searches_end(kind: str) -> None:
    """``compare``, ``tune`` and grids by search, of a network that never converges: an error, not a search for ever."""
    model = ss.ScoreModel(NETS[kind][0], SDE, predicts="noise")
    few = {"starts": 4, "held_out": 4, "candidates": [("ddim", "karras")], "minutes": 0.02}
    for run in (
        lambda: ss.compare(model, (2, 2), solvers=["ddim"], nfe=[3]),
        lambda: ss.tune(model, (2,), nfe=2, **few),
        lambda: ss.sample(model, (2, 2), solver="ddim", grid="optimised", nfe=5, seed=0),
    ):
        before = model.nfe
        with contextlib.suppress(ss.ScoreSolveError, ValueError):
            run()
        assert model.nfe - before < 5000
