"""The registry: what solvers declare of themselves, and registering one's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import PROCESSES, mixture_2d

import scoresolve as ss
from scoresolve.registry import unregister


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


@pytest.mark.parametrize("info", ss.solvers(), ids=lambda info: info.name)
def test_kind_says_whether_noise_is_drawn_and_evaluations_what_a_step_costs(info: ss.SolverInfo) -> None:
    for sde in PROCESSES.values():
        times = ss.grids.uniform(sde, 5, 0.9 * sde.t_max, 0.2 * sde.t_max)
        runner = ss.registry.build(info.name, sde, times)
        assert runner.stochastic == (info.kind == "sde")
        assert info.adaptive == (runner.nfe is None)
        if runner.nfe is not None:
            assert runner.nfe == 5 * info.evaluations


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
