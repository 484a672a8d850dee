"""The pieces that tables are tuned with, each against something exact."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tuned import FEW, PROCESSES, mixture, shooting, starts

import scoresolve as ss
from scoresolve.tuning import labels_of
from scoresolve.tuning.candidates import tried
from scoresolve.tuning.gauss_newton import begin, descend
from scoresolve.tuning.lesson import Asked, in_two, prepare
from scoresolve.tuning.lifting import lift
from scoresolve.tuning.search import Purse, Task, _of_two_parts, grown
from scoresolve.tuning.shooting import root_mean, themselves
from scoresolve.tuning.teacher import converge


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
    assert [student.calls for student in found] == [8, 8, 8, 8]
    assert min(errors) < 0.5 * lead.error  # none of them has been fitted to all of the way yet
    assert task.purse.spent > 3 * 192 * 256  # the teacher's alone: two of the four share a time between
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
