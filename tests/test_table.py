"""Tables: the loop, the checks at construction, printing and JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROCESSES, TABLES, mixture_2d
from strategies import SOLVERS, beyond
from torch import Tensor

import scoresolve as ss
from scoresolve.registry import build
from scoresolve.table import only_shown

finite = st.floats(-10, 10, allow_nan=False)
ELSEWHERE = beyond("test_adaptive_flow.py, test_adaptive_sde.py, test_backends.py", *(i for i in SOLVERS if i.adaptive))
ELSEWHERE |= beyond("a chain of corrections: the graph is held by property 38", "annealed_langevin")


class _Ones:
    """Noise that is one everywhere, remembering what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        self.asked.append((stream, index))
        return torch.ones_like(like)


@st.composite
def tables(draw: st.DrawFn) -> ss.Table:
    """Any valid table: stages and steps, weights on any output already made, noise."""
    count = draw(st.integers(1, 6))
    times = np.linspace(1.0, 0.1, count + 1)
    rows = []
    for i in range(count):
        last = i == count - 1
        commit = tuple(draw(st.lists(finite, min_size=1, max_size=i + 2)))
        propose = (1.0,) if last else tuple(draw(st.lists(finite, min_size=1, max_size=i + 2)))
        s = float(times[i + 1]) if last or draw(st.booleans()) else None
        rows.append(ss.Row(float(times[i]), s, commit, draw(st.sampled_from([0.0, 0.5])), propose))
    return ss.Table(tuple(rows), draw(st.sampled_from(["data", "noise", "velocity"])), 1.0, "any", "", {"eta": 0.5})


def _by_hand(table: ss.Table, start: Tensor, share: float = 1.0) -> Tensor:
    """The loop in plain numbers, every normal one; each step's end is multiplied by a share."""
    x = y = start
    outputs: list[Tensor] = []
    for row in table.rows:
        outputs.insert(0, torch.tanh(y) * (1 + row.t))
        registers = [x, *outputs]
        x = sum((w * r for w, r in zip(row.commit, registers, strict=False)), torch.zeros_like(x))
        x = (x + sum(row.noise)) * (1.0 if row.s is None else share)
        y = sum((w * r for w, r in zip(row.propose, [x, *outputs], strict=False)), torch.zeros_like(x))
        y = y + sum(row.propose_noise)
    return x


@given(table=tables())
def test_the_loop_does_what_the_rows_say(table: ss.Table) -> None:
    """Against a loop that keeps every output and every product, in plain numbers."""
    model = ss.ScoreModel(lambda x, t: torch.tanh(x) * (1 + t[:, None]), ss.VPSDE(), predicts=table.predicts)
    start = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    noise, again = _Ones(), _Ones()
    found, _ = table.run(model, start, noise)
    with torch.no_grad():  # where no graph is kept the outputs lie in a ring
        unkept, _ = table.run(model, start, again)

    x = _by_hand(table, start)
    for states in (found, unkept):
        assert torch.allclose(states, x, rtol=1e-9, atol=1e-9 * (1 + x.abs().max().item()))
    assert start.tolist() == [[0.3, -0.8]]
    assert noise.asked == again.asked == [(1, number) for number, row in enumerate(table.rows) if row.draws]
    assert model.nfe == 2 * table.nfe == 2 * len(table.rows)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m", "heun", "seeds_2", "edm_heun"])
def test_a_callback_may_change_the_state_however_outputs_are_kept(name: str) -> None:
    """Folded, in a ring and in a graph; it is told the step and the time, and what it returns is gone on from."""
    table = build(name, ss.VPSDE(), np.array([0.9, 0.6, 0.4, 0.1]))
    model = ss.ScoreModel(lambda x, t: torch.tanh(x) * (1 + t[:, None]), ss.VPSDE(), predicts=table.predicts)
    start = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    seen: list[tuple[int, float]] = []

    def halved(step: int, t: float, x: Tensor) -> Tensor:
        seen.append((step, t))
        return 0.5 * x

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found, stats = table.run(model, start, _Ones(), halved)
        assert torch.allclose(found, _by_hand(table, start, 0.5), rtol=1e-9)
        assert seen == list(enumerate(table.times[1:], start=1))
        assert stats == {}
        seen.clear()


@pytest.mark.parametrize("predicts", ["noise", "v", "velocity", "score"])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_a_networks_own_prediction_is_converted_however_outputs_are_kept(name: str, predicts: str) -> None:
    """``m = a y + b answer`` with either of a and b the larger, against the network that answers m itself."""
    sde = ss.VPSDE()
    exact, table = mixture_2d().model(sde), build(name, sde, np.array([0.9, 0.6, 0.4, 0.1]))
    model = ss.ScoreModel(lambda x, t: exact.evaluate(x, t, predicts), sde, predicts=predicts)  # type: ignore[arg-type]
    start = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found, expected = (table.run(own, start, _Ones())[0] for own in (model, exact))
        assert torch.allclose(found, expected, rtol=1e-9)


def test_noise_alone_does_not_write_into_the_callers_state() -> None:
    table = ss.Table((ss.Row(1.0, 0.5, noise=0.5), ss.Row(0.5, 0.1, noise=0.25)), "data", 1.0)
    start = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found, _ = table.run(mixture_2d().model(ss.VPSDE()), start, _Ones())
        assert torch.allclose(found, start + 0.75)
        assert start.tolist() == [[0.3, -0.8]]


def test_a_state_that_is_only_shown_cannot_be_changed() -> None:
    x, seen = torch.zeros(2), []
    only_shown(lambda step, t, x: seen.append((step, t)) or x, 3, 0.5, x, "a run")
    assert seen == [(3, 0.5)]
    with pytest.raises(ValueError, match="cannot change the state of a run: return None"):
        only_shown(lambda step, t, x: x + 1, 3, 0.5, x, "a run")


def test_a_row_says_what_it_does() -> None:
    """A stage moves the point to ask at alone; a normal is z, or z0 and z1 where there are two; zeros are left out."""
    assert ss.Row(1.0, None, propose=(0.5, -2.0), propose_noise=(0.25,)).formulas() == "y <- +0.5 x -2 m0 +0.25 z"
    both = ss.Row(1.0, 0.5, (1.0, 0.0, 0.5), (0.1, 0.2), (1.0, 2.0), asks="data")
    assert both.formulas() == "x <- +1 x +0.5 m1 +0.1 z0 +0.2 z1; y <- +1 x +2 m0 (m0 = data)"
    assert ss.Row(1.0, 0.5, (0.0,)).formulas() == "x <- 0"


def test_a_claim_about_the_velocity_is_of_both_weights() -> None:
    """x + (s - t) velocity: neither may be off by 1e-6, of a step that is not the first either."""
    good = (ss.Row(1.0, 0.5, (1.0, -0.5)), ss.Row(0.5, 0.1, (1.0, -0.4)))
    of = lambda rows: ss.Table(rows, "velocity", 1.0, exact_on="velocity")  # noqa: E731
    assert of(good).verify(ss.VPSDE()) == of(good)
    for number, row in enumerate(good):
        for change in ((1e-6, 0.0), (0.0, 1e-6), (-1e-6, 0.0)):
            commit = (row.commit[0] + change[0], row.commit[1] + change[1])
            rows = (*good[:number], dataclasses.replace(row, commit=commit), *good[number + 1 :])
            with pytest.raises(ValueError, match=rf"row {number} to be exact for constant velocity"):
                of(rows).verify(ss.VPSDE())


@pytest.mark.property(40)
@given(table=tables())
def test_json_returns_the_same_table_to_the_last_bit(table: ss.Table) -> None:
    again = ss.Table.from_json(table.to_json())
    assert again == table
    assert again.rows == table.rows
    assert "NaN" not in table.to_json()


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_every_solver_saves_loads_prints_and_runs_again(info: ss.SolverInfo, tmp_path: Path) -> None:
    sde = ss.SubVPSDE()
    grid = ss.grids.log_snr(sde, 6, 1.0, 1e-3)
    table = ss.build_table(info.name, sde, grid)
    table.save(tmp_path / "table.json")
    again = ss.Table.load(tmp_path / "table.json")
    assert again == table
    model = mixture_2d().model(sde)
    by_name = ss.sample(model, (3, 2), solver=info.name, grid=grid, seed=1)
    by_table = ss.sample(model, (3, 2), solver=again, seed=1)
    assert torch.equal(by_name.samples, by_table.samples)
    text = str(table)
    assert text.startswith(info.name)
    assert f"{table.nfe} calls" in text
    assert len(text.splitlines()) == table.nfe + 2
    assert (table.times[0], table.times[-1]) == (grid[0], grid[-1])
    assert set(grid) <= {*table.times} or info.name in ("edm_euler", "edm_heun")


def _row(**changes: object) -> ss.Row:
    return dataclasses.replace(ss.Row(t=1.0, s=0.5, commit=(1.0, -0.5)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "at least one row"),
        ((_row(commit=(1.0, float("nan"))),), "finite weights in row 0"),
        ((_row(noise=float("inf")),), "finite weights"),
        ((_row(noise=(0.1, 0.1)),), "normals already drawn in row 0"),
        ((_row(noise=(0.0, 0.1)),), "normals already drawn"),
        ((_row(noise=0.1), _row(noise=(0.0, 0.1)), _row(noise=(0.1, 0.1))), "normals already drawn in row 2"),
        ((_row(commit=(1.0, 0.5, 0.5)),), "outputs already made in row 0"),
        ((_row(), _row(propose=(1.0, 0.0, 0.0, 1.0))), "outputs already made in row 1"),
        ((_row(commit=()),), "a weight on x"),
        ((_row(s=None),), "last row to complete a step"),
        ((_row(propose=(1.0, 0.1)),), "last row to propose nothing"),
    ],
)
def test_tables_that_make_no_sense_are_refused(rows: tuple[ss.Row, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ss.Table(rows, predicts="data", start=1.0)


def test_exploding_weights_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="weights of row 0 sum to"):
        ss.Table((_row(commit=(1.0, 2000.0)),), predicts="data", start=1.0)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpmpp_2m_sde", "ddpm", "euler", "heun"])
def test_verify_finds_a_wrong_weight(solver: str, name: str) -> None:
    """The claim holds for every table as built, and fails as soon as any weight of it is changed by 1e-6."""
    sde = PROCESSES[name]
    times = ss.grids.uniform(sde, 5, 0.9 * sde.t_max, 0.1 * sde.t_max)
    table = ss.build_table(solver, sde, times)
    assert table.verify(sde) is table
    for i, row in enumerate(table.rows):
        if row.s is None:
            continue
        for j in range(len(row.commit)):
            commit = tuple(w + (1e-6 if k == j else 0.0) for k, w in enumerate(row.commit))
            rows = (*table.rows[:i], dataclasses.replace(row, commit=commit), *table.rows[i + 1 :])
            with pytest.raises(ValueError, match="exact for constant"):
                dataclasses.replace(table, rows=rows).verify(sde)


@pytest.mark.property(40)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "other"}',
        "[" * 100_000,
        json.dumps({"format": "scoresolve table 1", "rows": [], "predicts": "data", "start": 1.0}),
        json.dumps({"format": "scoresolve table 1", "rows": [{}], "predicts": "data", "start": 1.0}),
        json.dumps({"format": "scoresolve table 1", "rows": 3, "predicts": "data", "start": 1.0}),
        json.dumps({"format": "scoresolve table 1", "rows": [], "predicts": "data", "start": 1.0, "more": 1}),
        ss.Table((_row(),), "data", 1.0).to_json().replace("-0.5", "NaN"),
        ss.Table((_row(),), "data", 1.0).to_json().replace("-0.5", "1e999"),
        ss.Table((_row(),), "data", 1.0).to_json().replace("-0.5", '"__import__(0)"'),
        ss.Table((_row(),), "data", 1.0).to_json().replace('"data"', '"datum"'),
    ],
)
def test_text_that_is_not_a_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        ss.Table.from_json(text)


def test_a_table_of_another_path_is_refused() -> None:
    table = ss.build_table("ddim", ss.VPSDE(), np.array([1.0, 0.1]))
    with pytest.raises(ValueError, match="its weights belong to that path"):
        ss.sample(mixture_2d().model(ss.VESDE()), (2, 2), solver=table)
    with pytest.raises(ValueError, match="got grid"):
        ss.sample(mixture_2d().model(ss.VPSDE()), (2, 2), solver=table, grid="uniform")
    with pytest.raises(ValueError, match="got t_min"):
        ss.sample(mixture_2d().model(ss.VPSDE()), (2, 2), solver=table, t_min=0.2)
    with pytest.raises(ValueError, match="makes that many calls; got 7"):
        ss.sample(mixture_2d().model(ss.VPSDE()), (2, 2), solver=table, nfe=7)


@pytest.mark.property(39, beyond=ELSEWHERE)
@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_gradients_flow_through_every_table(info: ss.SolverInfo) -> None:
    """To the start and to the network's parameters, in float64, by finite differences."""
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def run(start: Tensor, scale: Tensor) -> Tensor:
        model = ss.ScoreModel(lambda x, t: torch.tanh(scale * x), ss.VPSDE(), predicts="v")
        return ss.sample(model, start=start, solver=info.name, steps=3, seed=0, grad=True).samples

    assert torch.autograd.gradcheck(run, (start, scale))
    assert not ss.sample(mixture_2d().model(ss.VPSDE()), start=start, solver=info.name, steps=2).samples.requires_grad


def test_history_and_one_step_are_read_off_the_rows() -> None:
    times = np.array([1.0, 0.6, 0.3, 0.1])
    facts = {
        name: (table.history, table.one_step, table.stochastic)
        for name in ("ddim", "heun", "dpmpp_2m", "ddpm")
        for table in [build(name, ss.VPSDE(), times)]
    }
    assert facts == {
        "ddim": (1, True, False),
        "heun": (2, True, False),
        "dpmpp_2m": (2, False, False),
        "ddpm": (1, True, True),
    }


def test_a_table_of_one_table_of_betas_is_refused_by_another_of_the_same_ends() -> None:
    one, other = ss.DiscreteVPSDE.linear(), ss.DiscreteVPSDE.scaled_linear(1e-4, 0.02)
    assert (one.betas[0], one.betas[-1]) == pytest.approx((other.betas[0], other.betas[-1]))
    table = ss.build_table("ddim", one, ss.grids.uniform(one, 4, 1.0, 0.0))
    model = ss.ScoreModel(lambda x, t: x, other, predicts="noise", time="index")
    with pytest.raises(ValueError, match="its weights belong to that path"):
        ss.sample(model, (1, 2), solver=table)
