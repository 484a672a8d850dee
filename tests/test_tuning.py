"""Tuned tables: each part against something exact, and the whole on laws whose converged ends are known."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

import scoresolve as ss
from scoresolve.propagation import affine_map
from scoresolve.tuning import _stages, labels_of
from scoresolve.tuning.candidates import tried
from scoresolve.tuning.gauss_newton import begin, descend
from scoresolve.tuning.lesson import Asked, in_two, prepare
from scoresolve.tuning.lifting import lift
from scoresolve.tuning.search import Purse, Task, _of_two_parts, grown
from scoresolve.tuning.shooting import Shooting, Starts, root_mean, themselves
from scoresolve.tuning.teacher import converge

PROCESSES = (ss.VPSDE(), ss.EDM(), ss.RectifiedFlow())
FEW = [("ddim", "karras"), ("dpmpp_2m", "balanced"), ("ipndm_2", "quadratic"), ("heun", "uniform")]


def mixture(d: int = 2) -> ss.exact.GaussianMixture:
    means = torch.zeros(3, d, dtype=torch.float64)
    means[:, 0] = torch.tensor([-1.5, 0.2, 1.0])
    means[:, -1] += torch.tensor([0.3, -0.8, 0.5])
    widths = torch.tensor([0.1, 0.05, 0.02], dtype=torch.float64)[:, None, None]
    return ss.exact.GaussianMixture([0.5, 0.2, 0.3], means, widths * torch.eye(d, dtype=torch.float64))


def starts(model: ss.ScoreModel, count: int, d: int, seed: int = 0) -> torch.Tensor:
    normal = torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normal * model.sde.prior_std(model.t_max)


def shooting(model: ss.ScoreModel, x: torch.Tensor, targets: torch.Tensor, **more: object) -> Shooting:
    given = {"features": lambda x: x, "laws": False, "step": 1e-6, "size": 16, **more}
    return Shooting(model, Starts(x, targets), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_every_deterministic_table_lifts_to_a_student_of_the_same_ends(sde: ss.SDE) -> None:
    model = mixture().model(sde)
    x = starts(model, 6, 2)
    lifted = 0
    for info in ss.solvers():
        if info.kind != "ode" or info.adaptive:
            continue
        run = ss.sample(model, start=x, solver=info.name, nfe=12, grid="balanced")
        table = run.table
        if table is None:
            continue
        student = lift(table, sde, (0.0, sde.t_max))
        assert student.calls == table.nfe
        ends = shooting(model, x, x).ends(student)
        scale = max(1.0, max(sum(map(abs, row.commit)) for row in table.rows))  # rounding is multiplied by the weights
        assert float((ends - run.samples).abs().max()) < 1e-11 * scale, info.name
        assert torch.allclose(ss.sample(model, start=x, solver=student.table("lifted", {})).samples, ends, atol=1e-12)
        lifted += 1
    assert lifted > 40


def test_the_normal_equations_are_those_of_central_differences() -> None:
    model = mixture().model(ss.VPSDE())
    x = starts(model, 40, 2)
    targets = x.roll(1, 0) * 0.3
    table = ss.build_table("dpmpp_2m", model.sde, ss.grids.karras(model.sde, 4, 1.0, 1e-3))
    student = lift(table, model.sde, (1e-3, 1.0))
    for features, width in ((lambda x: x, math.inf), (lambda x: (2 * x).sin(), math.inf), (lambda x: x, 0.3)):
        shots = shooting(model, x, targets, features=features)
        normal = shots.normal(student, width)
        jacobian = []
        for number in range(len(student.vector())):
            change = np.zeros(len(student.vector()))
            change[number] = 1e-6
            up, down = (features(shots.ends(student.moved(sign * change))) for sign in (1, -1))
            jacobian.append(((up - down) / 2e-6).flatten())
        j = torch.stack(jacobian, dim=1).numpy()
        residual = (features(shots.ends(student)) - features(targets)).flatten().numpy()
        # Cauchy's cost c^2 log(1 + e^2 / c^2) has the derivative of sum w e^2 / 2 with w = 1 / (1 + e^2 / c^2)
        weight = np.repeat(1 / (1 + (residual.reshape(-1, 2) ** 2).mean(1) / width**2), 2)
        assert (weight == 1).all() if width == math.inf else weight.min() < 0.3
        free = [
            n for n in range(18) if n != 14
        ]  # 14 weights, then 4 places: the first label stands at the end of its range, and only falls
        scale = np.sqrt(np.diag(normal.gram))
        weighted = j.T * weight / len(residual)
        gram, gradient = weighted @ j, weighted @ residual
        assert (
            np.abs((normal.gram - gram)[np.ix_(free, free)] / np.outer(scale, scale)[np.ix_(free, free)]).max() < 1e-4
        )
        assert np.abs((normal.gradient - gradient)[free] / scale[free]).max() < 1e-4


def test_a_student_that_has_grown_ends_where_it_did_and_labels_never_rise() -> None:
    model = mixture().model(ss.VPSDE())
    x = starts(model, 8, 2)
    student = lift(ss.build_table("unipc_3", model.sde, ss.grids.karras(model.sde, 5, 1.0, 1e-3)), model.sde, (1e-3, 1))
    shots = shooting(model, x, x)
    for calls in (6, 9):
        for more in grown(student, calls, 4):
            assert more.calls == calls
            assert torch.allclose(shots.ends(more), shots.ends(student), rtol=0, atol=1e-11)
    rng = np.random.default_rng(0)
    for _ in range(20):
        times = student.moved(rng.normal(size=len(student.vector()))).times
        assert all(1e-3 <= later <= earlier <= 1.0 for earlier, later in pairwise(times))


def test_two_students_one_after_the_other_end_where_the_second_does() -> None:
    model = mixture().model(ss.VPSDE())
    sde, x = model.sde, starts(model, 8, 2)
    first = lift(ss.build_table("unipc_3", sde, ss.grids.karras(sde, 4, 1.0, 0.3)), sde, (0.3, 1.0))
    rest = lift(ss.build_table("heun", sde, ss.grids.karras(sde, 2, 0.3, 1e-3)), sde, (1e-3, 0.3))
    both = first.then(rest)
    assert both.times == [*first.times, *rest.times]
    middle = shooting(model, x, x).ends(first)
    assert torch.allclose(shooting(model, x, x).ends(both), shooting(model, middle, x).ends(rest), rtol=0, atol=1e-12)
    run = ss.sample(model, start=x, solver=both.table("both", {})).samples
    assert torch.allclose(run, shooting(model, x, x).ends(both), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "asked", "counts"),
    [
        ((2,), None, (4096, 4096)), ((3, 32, 32), None, (256, 256)), ((2,), 600, (600, 600)), ((2,), 64, (64, 256)),
        ((2,), torch.zeros(2000, 2), (1600, 400)), ((2,), torch.zeros(100, 2), (50, 50)),
    ],
)  # fmt: skip
def test_how_many_starts_there_are_by_default(
    shape: tuple[int, ...], asked: int | torch.Tensor | None, counts: tuple[int, int]
) -> None:
    assert Asked(shape, 0, asked, None, (1e-3, 1.0), None, None, None).counts() == counts


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_a_lesson_in_two_goes_through_the_flow_at_the_time_between(sde: ss.SDE) -> None:
    law = ss.exact.Gaussian(torch.tensor([0.3, -1.0]), torch.diag(torch.tensor([1.0, 0.01])))
    model = law.model(sde)
    ends = model.t_min, model.t_max
    whole = prepare(model, Asked((2,), 3, 400, 200, ends, None, None, None), 8)
    middle = float(sde.time(0.0))
    early, late = in_two(whole, ends, middle, 0.5)
    for one, first, rest, count in (
        (whole.train, early.train, late.train, 200), (whole.held_out, early.held_out, late.held_out, 128),
    ):  # fmt: skip
        assert torch.equal(first.x, one.x[:count])
        assert torch.equal(first.targets, rest.x)
        assert torch.equal(rest.targets, one.targets[:count])
        assert torch.allclose(rest.x, law.flow(sde, first.x, model.t_max, middle), rtol=0, atol=1e-6)
    assert early.taught.rows >= 328 * (64 + 128)


def test_students_of_two_parts_are_better_than_published_ones_where_modes_compete() -> None:
    angles = 2 * math.pi / 5 * torch.arange(5, dtype=torch.float64)
    model = ss.exact.Empirical(torch.stack([angles.cos(), angles.sin()], dim=1), bandwidth=0.05).model(ss.VPSDE())
    ends = model.t_min, model.t_max
    lesson = prepare(model, Asked((2,), 0, 256, 256, ends, None, None, None), 8)
    task = Task(lesson, themselves, False, ends, labels_of(model, ends), [*FEW[:2], ("unipc_3", "cosine")], Purse())
    lead = tried(
        model, task.candidates, 8, lesson.held_out, themselves, laws=False, ends=ends, batch_size=None
    )[0]  # fmt: skip
    found = _of_two_parts(task, 8, lead.table, lambda: None)
    errors = [root_mean(task.shooting("held_out").squares(student)) for student in found]
    assert [student.calls for student in found] == [8, 8]
    assert min(errors) < 0.5 * lead.error  # none of them has been fitted to all of the way yet
    assert task.purse.spent > 2 * 192 * 256  # the teacher to both times between
    assert task.purse.share == 1.0
    task.purse.rows = task.purse.spent  # nothing is left
    assert _of_two_parts(task, 8, lead.table, lambda: None) == []


def test_a_descent_finds_the_rule_that_made_the_targets() -> None:
    model = mixture().model(ss.VPSDE())
    x = starts(model, 200, 2)
    table = ss.build_table("dpmpp_2m", model.sde, ss.grids.quadratic(model.sde, 4, 1.0, 1e-3))
    made = lift(table, model.sde, (1e-3, 1.0))
    shots = shooting(model, x, x)
    shots = shooting(model, x, shots.ends(made), size=200)
    noise = np.random.default_rng(0).normal(size=len(made.vector())) * 0.01
    noise[14:] = 0  # the first label is at the end of its range: a step over it is cut off
    fit = begin(shots, made.moved(noise))
    found = descend(shots, shots, fit, 40, lambda: True)
    assert found.held_out < 1e-6 < 3e-3 < fit.held_out


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_the_teacher_is_the_exact_flow_of_a_gaussian(sde: ss.SDE) -> None:
    law = ss.exact.Gaussian(torch.tensor([0.5, -1.0]), torch.diag(torch.tensor([1.0, 0.01])))
    x = starts(law.model(sde), 16, 2)
    t_min = 1e-2
    found = converge(law.model(sde), x, sde.t_max, t_min, goal=1e-7)
    assert float((found.ends - law.flow(sde, x, sde.t_max, t_min)).abs().max()) < 1e-6
    assert 0.9 < found.rows / (16 * (2 * found.calls - 64)) < 1.1


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize(("goal", "most"), [(1e-3, 128), (1e-5, 128), (1e-7, 256)])
def test_the_teacher_is_as_close_as_asked_and_no_dearer_than_that_needs(sde: ss.SDE, goal: float, most: int) -> None:
    model = mixture().model(sde)
    x = starts(model, 64, 2)
    found, truth = (converge(model, x, sde.t_max, 1e-2, goal=g) for g in (goal, 1e-11))
    scale = float(truth.ends.square().mean().sqrt())
    assert float((found.ends - truth.ends).square().mean().sqrt()) < goal * scale
    assert found.calls <= most


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
