"""Promise 5: a sample is the same to the bit, whatever it is computed together with, in what order, and where.

The networks here treat samples apart to the last bit (``strategies.py``). Chunks: test_chunks.py; threads and
processes: test_same_runs.py; both hold for every solver, or for one of each kind of loop.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracles import PROCESSES
from strategies import APART, TOGETHER, mixing, named, pointwise, work
from torch import Tensor

import scoresolve as ss
from scoresolve.controller import Controller
from scoresolve.rounding import power, sigmoid, softplus

BATCHES = (1, 2, 3, 7, 15, 16, 17)
"""Beside 64: below, at and above what a vector register and torch's blocks of random numbers hold."""
SDE = ss.VPSDE()


def model(net: object = mixing) -> ss.ScoreModel:
    return ss.ScoreModel(net, SDE, predicts="v")  # type: ignore[arg-type]


@pytest.mark.property(2, 3, beyond=TOGETHER)
@pytest.mark.parametrize("info", APART, ids=named)
def test_batches_of_any_size_in_any_order(info: ss.SolverInfo) -> None:
    """A start is given: sample i has the noise of index i, and row i of the states."""
    start = ss.SampleStreams(1, range(64)).draw(0, 0, torch.empty(64, 3))
    asked = {**work(info, nfe=5), "seed": 3}
    whole = ss.sample(model(), start=start, **asked)
    for size in BATCHES:
        part = ss.sample(model(), start=start[:size], **asked)
        assert torch.equal(part.samples, whole.samples[:size]), size
        assert torch.equal(part.nfe_per_sample, whole.nfe_per_sample[:size])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:17]
    some = ss.sample(model(), start=start[order], indices=order.tolist(), **asked).samples
    assert torch.equal(some, whole.samples[order])


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same numbers (n, c, h, w) in other places of memory."""
    wide = torch.full((2 * len(x), *x.shape[1:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype)
    wide[::2, ..., 1::2] = x
    return {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "reversed": x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "every other": wide[::2, ..., 1::2],
        "not at the start": torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
    }


@pytest.mark.parametrize("info", APART, ids=named)
def test_memory_layouts(info: ss.SolverInfo) -> None:
    """Of the start, and of the network's answers."""
    start = ss.SampleStreams(1, range(3)).draw(0, 0, torch.empty(3, 2, 5, 3))
    asked = {**work(info, nfe=4), "seed": 3}
    plain = ss.sample(model(pointwise), start=start, **asked).samples
    for name, x in layouts(start).items():
        assert torch.equal(x, start)
        assert torch.equal(ss.sample(model(pointwise), start=x, **asked).samples, plain), name
    for name in layouts(start):
        turned = model(lambda x, t, name=name: layouts(pointwise(x, t))[name])
        assert torch.equal(ss.sample(turned, start=start, **asked).samples, plain), name


@pytest.mark.parametrize("info", APART, ids=named)
def test_a_wild_neighbour(info: ss.SolverInfo) -> None:
    """A sample beside one of ten thousand times its size, which takes steps of its own."""
    start = ss.SampleStreams(1, range(3)).draw(0, 0, torch.empty(3, 2, dtype=torch.float64))
    wild = start * torch.tensor([[1.0], [1e4], [1.0]])
    asked = {**work(info, nfe=5), "seed": 3}
    beside = ss.sample(model(), start=wild, **asked)
    alone = ss.sample(model(), start=wild[:1], **asked)
    assert torch.equal(beside.samples[:1], alone.samples)
    assert beside.nfe_per_sample[0] == alone.nfe_per_sample[0]
    assert torch.isfinite(beside.samples).all()


# -- lint: what could couple samples, or rounds by the place in a tensor, does not appear ------------------------------

PACKAGE = Path(ss.__file__).parent
REDUCTIONS = {"mean", "var", "std", "norm", "quantile", "median", "vector_norm"}
"""None has a meaning for samples taken together; sums, maxima and counts are needed to know who is still on the way."""
PLACED = {"sigmoid", "logaddexp", "atan2", "atanh", "sinh", "cosh", "softplus", "exp2", "hypot"}
"""Of torch: rounded by the place of a number in its tensor, see ``rounding.py``."""
JUDGES = "what is said of all samples together, or of data, or of a law"
ALLOWED = {
    **dict.fromkeys(("adams", "pairs"), "flow.norm is over the elements of a sample"),
    "latents": "a path between two latents is no sample",
    **dict.fromkeys(("bound", "backends"), "over draws; one step for the batch"),
    **dict.fromkeys(("comparison", "contract", "diagnosis", "empirical", "exact", "opening", "reference"), JUDGES),
    **dict.fromkeys(("custom", "shrinkage", "wiring", "optimised", "time_laws", "zero_terminal"), JUDGES),
}


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def along(call: ast.Call) -> object:
    """The dimension that a reduction is taken over; None where it is all of them."""
    given = [word.value for word in call.keywords if word.arg == "dim"] + call.args
    said = next((ast.unparse(each) for each in given), "")
    return int(said) if said.lstrip("-").isdigit() else None


def coupling(path: Path) -> list[str]:
    """The calls of a file that could make a sample depend on its batch."""
    found = []
    for call in calls(path):
        if not isinstance(call.func, ast.Attribute):
            continue
        name, of_torch = call.func.attr, ast.unparse(call.func.value) in ("torch", "torch.nn.functional")
        over = along(call)
        if name in REDUCTIONS and over not in (1, -1) and path.stem not in ALLOWED:
            found.append(f"{path.name}:{call.lineno}: {ast.unparse(call)} is not over the elements of a sample")
        if name in PLACED and of_torch and path.stem not in ALLOWED:
            found.append(f"{path.name}:{call.lineno}: torch.{name} depends on the place: see rounding.py")
    return found


def test_nothing_averages_over_the_batch(tmp_path: Path) -> None:
    files = [*sorted(PACKAGE.glob("*.py")), *sorted((PACKAGE / "solvers").glob("*.py"))]
    assert [line for path in files for line in coupling(path)] == []
    wrong = tmp_path / "wrong.py"
    wrong.write_text("a = x.norm()\nb = x.mean(dim=0)\nc = torch.sigmoid(x)\nd = x.square().mean(dim=1)\n")
    assert len(coupling(wrong)) == 3


def placed(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """How many values of a function differ between a vector and pieces of it."""
    whole, starts = function(x), range(0, len(x) - 7, 4)
    return sum(int((function(x[i : i + n]) != whole[i : i + n]).sum()) for i in starts for n in (1, 3, 7))


def test_functions_do_not_depend_on_the_place() -> None:
    """Those of ``rounding.py``, and those of torch that it says are alike."""
    x = torch.linspace(0.01, 9.0, 253, dtype=torch.float64)
    alike = [torch.exp, torch.expm1, torch.log, torch.log1p, torch.sqrt, torch.sin, torch.cos, torch.atan, torch.asinh]
    ours = [sigmoid, softplus, lambda x: power(x, 1 / 3), lambda x: Controller(proportional=0.3).factor(x, x, 3)]
    for function in (*alike, *ours):
        assert placed(function, x) == 0, function


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_do_not_depend_on_the_place(name: str) -> None:
    sde = PROCESSES[name]
    t = torch.linspace(sde.t_eps, sde.t_max * 0.99, 253, dtype=torch.float64)
    for each in ("alpha", "sigma", "lam", "drift_rate", "squared_diffusion"):
        assert placed(getattr(sde, each), t) == 0, each
    assert placed(sde.time, sde.lam(t)) == 0
