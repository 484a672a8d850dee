"""Memory: what a run keeps does not grow with its steps, unless a trajectory or a graph is asked for."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from faults import ADAPTIVE, FIXED, SDE, START, answer
from torch import Tensor

import scoresolve as ss

pytestmark = pytest.mark.slow


class Alive:
    """A network that knows how many of the tensors it was given, and gave, still have their memory.

    Memory is that of a storage, so that views and what a graph holds count. Attributes: most, of them at any call.
    """

    def __init__(self) -> None:
        self.kept: list[weakref.ref[Any]] = []
        self.most = 0
        self.weight = torch.ones((), requires_grad=True)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        plain = answer(x, t)  # kept by a graph, for the gradient of the weight
        out = plain * self.weight
        self.kept = [one for one in self.kept if one() is not None]
        self.kept += [weakref.ref(one.untyped_storage()) for one in (x, plain, out)]
        self.most = max(self.most, len(self.kept))
        return out


def most(solver: str, calls: int, **more: Any) -> tuple[int, int]:
    """(tensors alive at most, calls) of a run."""
    net = Alive()
    model = ss.ScoreModel(net, SDE, predicts="noise")
    return_ = ss.sample(model, **{"start": START, "solver": solver, "nfe": calls, "seed": 0, **more})
    return net.most, return_.nfe


@pytest.mark.parametrize("solver", FIXED)
def test_a_run_of_400_calls_keeps_what_one_of_20_does(solver: str) -> None:
    """Labels and numbers of draws, a few bytes a call, are left out."""
    (few, short), (many, long) = most(solver, 20), most(solver, 400)
    assert long > 10 * short or solver == "restart"
    assert many <= few + 1
    assert many < 30


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_tighter_tolerances_keep_no_more(solver: str) -> None:
    own = {"nfe": None, "t_min": 0.5, "t_max": 0.9}
    tight = 0.02 if solver.startswith("adaptive_sde") else 1e-4
    (few, short), (many, long) = (most(solver, 0, **own, rtol=tol, atol=tol) for tol in (0.5, tight))
    assert long > 1.3 * short
    assert many <= few + 8


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "sra1"])
def test_a_graph_or_a_trajectory_is_kept_where_it_is_asked_for_only(solver: str) -> None:
    """The count can see both: it grows with the steps then."""
    for more in ({"grad": True}, {"trajectory": True}):
        few, many = most(solver, 20, **more)[0], most(solver, 80, **more)[0]
        assert many > 2 * few
    kept = ss.sample(ss.ScoreModel(Alive(), SDE, predicts="noise"), (4, 2), solver=solver, nfe=8, seed=0)
    assert not kept.samples.requires_grad
    graph = ss.sample(ss.ScoreModel(Alive(), SDE, predicts="noise"), (4, 2), solver=solver, nfe=8, seed=0, grad=True)
    assert graph.samples.requires_grad
