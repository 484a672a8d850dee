"""The registry: what solvers declare of themselves, and registering one's own."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import PROCESSES, TABLES, mixture_2d

import scoresolve as ss
from scoresolve.registry import unregister
from scoresolve.remembered import MOST, Remembered


@pytest.mark.parametrize("info", ss.solvers(), ids=lambda info: info.name)
def test_every_solver_declares_itself_fully(info: ss.SolverInfo) -> None:
    assert info.kind in ("ode", "sde")
    assert info.order >= 0
    assert info.evaluations >= 1
    assert info.reference
    assert info.summary.endswith(".")
    assert info.grid in ss.grids.GRIDS
    assert info.build.__doc__
    assert all(option in info.build.__doc__ for option in info.options), "an option is not explained"
    assert all(ss.get_solver(name) is info for name in (info.name, *info.aliases))


# without a costlier start, mixed orders or returns to higher noise
PLAIN = {
    "exponential_3": {"start": "low"},
    "exponential_4": {"start": "low"},
    "pndm": {"start": "low"},
    "dpm_fast": {"ends": ()},
    "restart": {"repeats": 0, "euler_steps": 0},
}


@pytest.mark.parametrize("info", ss.solvers(), ids=lambda info: info.name)
def test_kind_says_whether_noise_is_drawn_and_evaluations_what_a_step_costs(info: ss.SolverInfo) -> None:
    for sde in PROCESSES.values():
        times = ss.grids.log_snr(sde, 9, sde.time(-2.5), sde.time(3.0))
        runner = ss.registry.build(info.name, sde, times)
        assert runner.stochastic == (info.kind == "sde")
        assert info.adaptive == (runner.nfe is None)
        if runner.nfe is not None:
            plain = ss.registry.build(info.name, sde, times, **PLAIN.get(info.name, {}))
            assert plain.nfe == 9 * info.evaluations


@pytest.fixture
def own_solver() -> Iterator[str]:
    @ss.solver("own_midpoint", order=2, evaluations=2, aliases=("my_midpoint",), grid="uniform")
    def midpoint(sde: ss.SDE, times: np.ndarray, *, where: float = 0.5) -> ss.Table:
        """The midpoint rule. where: the place of the stage."""
        rows = []
        for t, s in pairwise(times.tolist()):
            rows.append(ss.Row(t=t, s=None, propose=(1.0, where * (s - t))))
            rows.append(ss.Row(t=t + where * (s - t), s=s, commit=(1.0, s - t)))
        return ss.Table(tuple(rows), predicts="velocity", start=float(times[0]), exact_on="velocity")

    yield "own_midpoint"
    unregister("own_midpoint")


def test_a_registered_solver_is_found_everywhere(own_solver: str) -> None:
    model = mixture_2d().model(ss.VPSDE())
    solution = ss.sample(model, (3, 2), solver="my_midpoint", nfe=8, seed=0)
    assert solution.nfe == 8
    assert own_solver in [info.name for info in ss.solvers()]
    with pytest.raises(TypeError, match="did you mean 'where'"):
        ss.sample(model, (3, 2), solver=own_solver, nfe=8, wher=0.5)
    with pytest.raises(ValueError, match="registered already"):
        ss.solver(own_solver, order=1)(lambda sde, times: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="registered already"):
        ss.solver("fresh", order=1, aliases=("my_midpoint",))(lambda sde, times: None)  # type: ignore[arg-type, return-value]
    assert "fresh" not in [info.name for info in ss.solvers()]


@pytest.mark.parametrize("name", ["DPM++ 2M", "dpmpp-2m", "heun_karras", "Euler a", "DDIMScheduler"])
def test_a_name_that_sample_takes_for_another_solver_is_not_registered(name: str) -> None:
    before = ss.presets.resolve(name)
    for how in ({"name": name}, {"name": "fresh", "aliases": (name,)}):
        with pytest.raises(ValueError, match=f"is a name for {before.solver!r} in ss.sample: choose another"):
            ss.solver(**how, order=1)(lambda sde, times: None)  # type: ignore[arg-type, return-value]
    assert ss.presets.resolve(name) == before
    with pytest.raises(ValueError, match=r"get_solver\('" + before.solver):
        ss.get_solver(name)


def test_a_kind_is_ode_or_sde() -> None:
    with pytest.raises(ValueError, match=r"unknown kind of solver 'ODE'.* ode, sde"):
        ss.solver("fresh", kind="ODE", order=1)  # type: ignore[arg-type]


def test_a_solver_is_named_by_its_facts_too_and_a_file_is_not_its_name() -> None:
    model, x0 = mixture_2d().model(ss.VPSDE()), torch.ones(2, 2)
    info = ss.get_solver("heun")
    for run in (
        lambda solver: ss.sample(model, (3, 2), solver=solver, nfe=6, seed=0),
        lambda solver: ss.encode(model, x0, solver=solver, nfe=6),
        lambda solver: ss.decode(model, x0, solver=solver, nfe=6),
    ):
        found = run(info)
        assert torch.equal(found.samples, run("heun").samples)
        assert found.stats["solver"] == "heun"
    with pytest.raises(ValueError, match=r"solver=ss.Table.load\('t.json'\)"):
        ss.sample(model, (3, 2), solver="t.json")


def test_a_solver_that_is_not_a_table_says_so() -> None:
    with pytest.raises(ValueError, match="'rk45' is not a table"):
        ss.build_table("rk45", ss.VPSDE(), np.array([1.0, 0.1]))
    with pytest.raises(ValueError, match="unknown solver 'none'"):
        unregister("none")


def test_the_package_exports_what_the_documentation_promises() -> None:
    for name in ss.__all__:
        assert getattr(ss, name) is not None
    assert isinstance(ss.solvers(), tuple)
    assert torch.is_tensor(ss.sample(mixture_2d().model(ss.VPSDE()), (1, 2), nfe=1).samples)


def test_a_builder_that_makes_no_table_is_refused() -> None:
    @ss.solver("nothing", order=1)
    def build(sde: ss.SDE, times: np.ndarray) -> ss.Table:
        return 3  # type: ignore[return-value]

    try:
        with pytest.raises(TypeError, match=r"the builder of 'nothing' must return a ss.Table, got int"):
            ss.sample(mixture_2d().model(ss.VPSDE()), (1, 2), solver="nothing", steps=3)
    finally:
        unregister("nothing")


def test_an_option_that_sample_takes_itself_is_refused() -> None:
    known = set(inspect.signature(ss.sample).parameters) - {"options", "start"}
    assert known == ss.registry.RESERVED
    with pytest.raises(ValueError, match="rename grid, steps"):

        @ss.solver("clashing", order=1)
        def build(sde: ss.SDE, times: np.ndarray, *, steps: int = 1, grid: str = "", own: int = 0) -> ss.Table:
            raise NotImplementedError

    assert "clashing" not in {info.name for info in ss.solvers()}


def test_start_is_a_state_or_a_word() -> None:
    model = ss.exact.Gaussian(torch.zeros(2), 1.0).model(ss.VPSDE())
    high = ss.sample(model, (2, 2), solver="lms_3", start="high", steps=5, seed=0)
    assert (high.nfe, ss.sample(model, (2, 2), solver="lms_3", start="low", steps=5, seed=0).nfe) == (6, 5)
    state = torch.ones(2, 2)
    assert ss.sample(model, start=state, solver="lms_3", steps=5, solver_options={"start": "high"}).nfe == 6
    with pytest.raises(TypeError, match="unknown option 'start'"):
        ss.sample(model, (2, 2), solver="ddim", start="high", steps=5, seed=0)


@pytest.mark.parametrize("info", TABLES, ids=lambda info: info.name)
def test_a_table_records_the_options_it_was_made_with(info: ss.SolverInfo) -> None:
    """Built again from its own record it is the same table."""
    sde = PROCESSES["vp"]
    times = ss.grids.log_snr(sde, 7, 1.0, 1e-3)
    table = ss.build_table(info.name, sde, times)
    assert set(table.options) <= set(info.options)
    assert ss.build_table(info.name, sde, times, **table.options).rows == table.rows


def test_a_table_is_built_once_for_a_process_times_and_options() -> None:
    sde, times = ss.VPSDE(), np.linspace(1.0, 0.01, 6)
    table = ss.build_table("dpmpp_2m", sde, times)
    assert ss.build_table("dpmpp_2m", sde, times.copy()) is table
    others = [
        ss.build_table("dpmpp_2m", ss.VPSDE(), times),
        ss.build_table("dpmpp_2m", sde, times * 0.9),
        ss.build_table("dpmpp_2m", sde, times, start="high"),
        ss.build_table("dpmpp_3m", sde, times),
    ]
    assert all(other is not table for other in others)
    assert others[0] == table
    assert len({other.to_json() for other in others[1:]} | {table.to_json()}) == 4


def test_what_is_remembered_of_a_process_is_bounded_and_goes_with_it() -> None:
    made, remembered, sde = [], Remembered(), ss.VPSDE()
    for key in range(100):
        remembered.of(sde, None, key, lambda: made.append(0))
    assert sum(len(kept) for kept in remembered._kept.values()) <= MOST
    gone = weakref.ref(sde)
    for grid in ("log_snr", "optimised"):
        ss.sample(ss.ScoreModel(lambda x, t: x, sde, predicts="noise"), (1, 1), solver="dpmpp_2m", grid=grid, nfe=4)
    del sde
    gc.collect()
    assert gone() is None
    assert not remembered._kept


@pytest.mark.parametrize("grid", ss.grids.GRIDS)
def test_a_path_that_was_changed_or_learned_is_another_one(grid: str) -> None:
    def path(power: torch.Tensor) -> ss.GaussianPath:
        return ss.GaussianPath(alpha=lambda t: 1 - 0.9 * t**power, sigma=lambda t: t)

    def samples(sde: ss.SDE) -> torch.Tensor:
        model = ss.ScoreModel(lambda x, t: 0.5 * x, sde, predicts="noise")
        return ss.sample(model, (2, 3), solver="dpmpp_2m", grid=grid, nfe=6, seed=0).samples

    power, vp = torch.tensor(1.0), ss.VPSDE()
    learned = path(power)
    before = samples(learned), samples(vp)
    power.fill_(3.0)
    vp.beta_max = 5.0
    for was, changed, fresh in zip(
        before, (learned, vp), (path(torch.tensor(3.0)), ss.VPSDE(beta_max=5.0)), strict=True
    ):
        assert torch.equal(samples(changed), samples(fresh))
        assert not torch.equal(samples(changed), was)


def test_predictions_of_a_path_that_was_changed_are_those_of_the_new_one() -> None:
    vp, x = ss.VPSDE(), torch.ones(2, 3)
    model = ss.ScoreModel(lambda x, t: x, vp, predicts="data")
    ss.build_table("ddim", vp, np.array([1.0, 0.5, 0.1])).run(model, x, ss.SampleStreams(0, range(2)))
    model.noise(x, 0.5)
    vp.beta_max = 5.0
    assert torch.equal(model.noise(x, 0.5), ss.ScoreModel(lambda x, t: x, vp, predicts="data").noise(x, 0.5))
