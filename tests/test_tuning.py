"""Tuned tables as a whole, on laws whose converged ends are known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tuned import FEW, PROCESSES, mixture

import scoresolve as ss
from scoresolve.propagation import affine_map
from scoresolve.tuning import _stages
from scoresolve.tuning.shooting import root_mean
from scoresolve.tuning.teacher import converge


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_tuned_tables_beat_all_published_ones_on_starts_not_seen(sde: ss.SDE) -> None:
    law = mixture()
    model = law.model(sde)
    table = ss.tune(model, (2,), 5, starts=400, held_out=256, candidates=FEW, seed=3)
    x = law.marginal(sde, sde.t_max).sample(512, generator=torch.Generator().manual_seed(9))
    truth = converge(model, x, sde.t_max, model.t_min, goal=1e-7).ends

    def error(solver: str | ss.Table, **more: object) -> float:
        return root_mean(((ss.sample(model, start=x, solver=solver, **more).samples - truth) ** 2).mean(1).numpy())  # type: ignore[arg-type]

    plain = min(error(solver, grid=grid, nfe=5) for solver, grid in FEW if solver != "heun")
    assert error(table) < 0.6 * plain
    again = ss.Table.from_json(table.to_json())
    alone = torch.cat([ss.sample(model, start=one[None], solver=again).samples for one in x[:3]])
    assert torch.equal(again.to_json() and alone, ss.sample(model, start=x[:3], solver=table, batch_size=1).samples)
    assert torch.allclose(alone, ss.sample(model, start=x, solver=table).samples[:3], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("calls", "most"), [(5, 0.04), (10, 4e-4)])
def test_tables_of_a_gaussian_come_near_the_best_rational_approximation(calls: int, most: float) -> None:
    # eigenvalues over six decades; the errors are those of the affine map itself, no sample is taken
    d, sde, t_min = 32, ss.EDM(), 0.002
    law = ss.exact.Gaussian(torch.zeros(d), torch.diag(torch.logspace(-4, 2, d, dtype=torch.float64)))
    first, last = law.marginal(sde, sde.t_max), law.marginal(sde, t_min)
    x = first.sample(512 + 128, generator=torch.Generator().manual_seed(0))
    scale = last.variances[0].sqrt()

    def whitened(x: torch.Tensor) -> torch.Tensor:
        return (x @ law.bases[0]) / scale

    candidates = [("ipndm_3", "log_snr"), ("unipc_2", "log_snr"), ("dpmpp_2m", "log_snr"), ("deis_tab2", "log_snr")]
    table = ss.tune(
        law.model(sde), (d,), calls, starts=x, held_out=128, features=whitened, t_min=t_min, candidates=candidates
    )
    gain = affine_map(table, law, sde)[0]
    assert float((gain * first.variances[0].sqrt() / scale - 1).abs().max()) < most


def test_nothing_worse_than_the_best_published_table_comes_back() -> None:
    model = mixture().model(ss.VPSDE())
    table = ss.tune(model, (2,), 4, starts=64, held_out=64, candidates=FEW, budget=1)
    assert table.solver in dict(FEW)
    assert table.options["rmse"] == table.options["best_published_rmse"]
    run = ss.sample(model, shape=(4, 2), solver=table, seed=0)
    plain = ss.sample(model, shape=(4, 2), solver=table.solver, grid=dict(FEW)[table.solver], nfe=4, seed=0)
    assert torch.equal(run.samples, plain.samples)


@pytest.mark.parametrize(
    ("asked", "searched"),
    [([5], [5]), ([7], [3, 7]), ([8], [4, 8]), ([25], [6, 12, 25]), ([4, 12], [4, 6, 12]), ([5, 8, 10], [5, 8, 10])],
)
def test_more_calls_are_led_up_to(asked: list[int], searched: list[int]) -> None:
    assert _stages(asked) == searched


def test_what_leads_up_to_more_calls_costs_nothing_in_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descents from published solvers are the same with and without; the best of all can only be better."""
    model = mixture().model(ss.VPSDE())
    given = {"starts": 64, "held_out": 64, "candidates": FEW[:2], "seed": 1}
    led = ss.tune(model, (2,), 8, **given)
    monkeypatch.setattr("scoresolve.tuning.DIRECT", 8)
    direct = ss.tune(model, (2,), 8, **given)
    assert led.options["rmse"] <= direct.options["rmse"] * (1 + 1e-9)
    assert led.options["network_rows"] > direct.options["network_rows"]  # the search for 4 calls is paid, and said


def test_a_solver_that_cannot_take_half_the_calls_is_no_obstacle() -> None:
    model = mixture().model(ss.VPSDE())
    table = ss.tune(model, (2,), 10, starts=64, held_out=64, candidates=[("heun", "uniform")], budget=10**5)
    assert len(table.rows) == 10  # 5 is odd, Heun's method takes two calls a step


def test_several_numbers_of_calls_and_what_a_table_says_of_itself() -> None:
    model = mixture().model(ss.VPSDE())
    found = ss.tune(model, (2,), [3, 4], starts=128, held_out=128, candidates=FEW[:2], seed=7)
    assert [table.nfe for table in found.values()] == [3, 4]
    assert found[4].options["rmse"] < found[3].options["rmse"]  # grown from it
    said = found[3].options
    assert (said["seed"], said["starts"], said["held_out"], said["shape"]) == (7, 128, 128, [2])
    assert said["network_rows"] > 192 * 256  # the teacher's alone
    assert "tuned_on" in str(found[3])
    count = np.int64(128)  # numpy's whole numbers are as good as Python's
    again = ss.tune(model, (2,), np.int64(3), starts=count, held_out=count, candidates=FEW[:2], seed=np.int64(7))
    assert again == found[3]
    assert again.to_json() == found[3].to_json()


def test_a_network_in_float32_and_a_conditional_one() -> None:
    inner = mixture().model(ss.VPSDE()).net
    bias = torch.linspace(-0.3, 0.3, 96)[:, None]

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor, t: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return inner(x.double() - bias, t.double()).float() + bias + self.shift

    model = ss.ScoreModel(Net(), ss.VPSDE(), predicts="data").condition(bias=bias)
    table = ss.tune(model, (2,), 4, starts=64, held_out=32, candidates=FEW[:3])
    assert table.options["rmse"] < 0.6 * table.options["best_published_rmse"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nfe": 0}, "nfe"),
        ({"nfe": "eight"}, "got 'eight'"),
        ({"nfe": []}, "at least one"),
        ({"starts": torch.zeros(9, 3)}, r"starts of shape \(count, \*\(2,\)\)"),
        ({"starts": torch.zeros(9, 2), "held_out": 9}, "held out"),
        ({"t_max": 2.0}, "t_max"),
        ({"minutes": -1}, "minutes > 0"),
        ({"budget": 0}, "budget > 0"),
        ({"candidates": [("huen", "uniform")]}, "heun"),
        ({"candidates": [("heun", "unifrom")]}, "uniform"),
        ({"minutes": "5"}, "minutes must be a number, got '5'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"features": 3}, "features must be a function"),
        ({"features": lambda x: 1.0}, "floating-point numbers, got float"),
        ({"features": lambda x: x.mean(dim=0)}, "a row for each"),
        ({"features": lambda x: x > 0}, r"got torch\.bool"),
        ({"candidates": "heun"}, "pairs of a solver and a grid"),
        ({"candidates": ["heun"]}, "pairs of a solver and a grid"),
        ({"candidates": [("rk45", "uniform")]}, "adaptive"),
        ({"candidates": [("ddpm", "uniform")]}, "stochastic=True"),
        ({"candidates": []}, "nfe=4"),
    ],
)
def test_what_makes_no_sense_is_said(given: dict[str, object], message: str) -> None:
    model = mixture().model(ss.VPSDE())
    calls = model.nfe
    with pytest.raises((ValueError, TypeError), match=message):
        ss.tune(model, (2,), **{"nfe": 4, "starts": 32, "held_out": 16, **given})  # type: ignore[call-overload]
    assert model.nfe == calls or given == {"candidates": []}


def test_nothing_is_said_of_candidates_that_are_not_taken() -> None:
    law = ss.exact.Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, 1e-4])))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ss.tune(law.model(ss.EDM()), (2,), 5, starts=32, held_out=16, candidates=[("flow_abm_4", "log_snr"), *FEW[:1]])
    assert [str(one.message) for one in said] == []
