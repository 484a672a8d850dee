"""What must not change a run: torch's compiler, its default device, the number of threads, the number of processes."""

from __future__ import annotations

import ast
import copy
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import PROCESSES
from strategies import SOLVERS, named, work
from torch import Tensor

import scoresolve as ss
from scoresolve.optimised import optimal_lams


class Net(torch.nn.Module):
    """A small network told the time by any label."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Parameter(0.1 * torch.arange(9.0).view(3, 3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ self.mix) + 1e-3 * t.to(x.dtype)[:, None]


@pytest.mark.property(42)
@pytest.mark.parametrize("time", ["t", "index", "sigma"])
def test_a_compiled_network_is_compiled_once(time: Any) -> None:
    """Whatever the step, the sample, the seed and the solver, for states of one shape."""
    torch._dynamo.reset()
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    plain = ss.ScoreModel(Net(), ss.DiscreteVPSDE.linear(), predicts="noise", time=time)
    model = ss.ScoreModel(torch.compile(plain.net, backend=backend), plain.sde, predicts="noise", time=time)
    torch._dynamo.utils.counters.clear()
    for solver in ("ddim", "dpmpp_2m", "ddpm", "heun"):
        for seed in range(2):
            asked: dict[str, Any] = {"shape": (4, 3), "solver": solver, "nfe": 5, "seed": seed, "denoise": True}
            assert torch.equal(ss.sample(model, **asked).samples, ss.sample(plain, **asked).samples)
    assert len(compiled) == torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["recompiles"]


# -- the default device: what is kept on the host is made there -----------------------------------------------------


def both(found: Callable[[ss.SDE], Any], process: ss.SDE) -> tuple[Any, Any]:
    """What is found where tensors are by default on a device that holds no values, and what as usual."""
    here = found(copy.deepcopy(process))  # first: other libraries keep what they make when they are imported
    optimal_lams.cache_clear()
    with torch.device("meta"):
        return found(copy.deepcopy(process)), here


@pytest.mark.parametrize("info", SOLVERS, ids=named)
def test_the_default_device_does_not_change_a_sample(info: ss.SolverInfo) -> None:
    net = Net()

    def samples(sde: ss.SDE) -> Tensor:
        model = ss.ScoreModel(net, sde, predicts="v")
        found = ss.sample(model, (2, 3), seed=3, device="cpu", on_error="mask", **work(info, nfe=4))
        return found.samples.nan_to_num()

    for process in PROCESSES.values():
        assert torch.equal(*both(samples, process)), process


HOW: dict[str, Callable[[ss.ScoreModel, Tensor], Tensor]] = {
    "latents": lambda model, x: ss.decode(model, ss.encode(model, x, nfe=8).samples, nfe=8).samples,
    "exact": lambda model, x: ss.log_likelihood(model, x, nfe=8).log_prob,
    "hutchinson": lambda model, x: ss.log_likelihood(model, x, divergence="hutchinson", probes=2, rtol=0.1).log_prob,
    "bound": lambda model, x: ss.variational_bound(model, x).nats,
    "chunks": lambda model, x: ss.sample(model, start=x, nfe=4, batch_size=1).samples,
    "picard": lambda model, x: ss.sample(model, start=x, solver="ddim", nfe=8, parallel=ss.Picard()).samples,
    **{
        noise.__name__: lambda model, x, noise=noise: (
            ss.sample(  # type: ignore[misc]
                model, (2, 3), device="cpu", seed=3, solver="ddpm", nfe=4, noise=noise
            ).samples
        )
        for noise in (ss.Antithetic, ss.QuasiRandom, ss.BrownianPath)
    },
    "labels": lambda model, x: ss.ScoreModel(model.net, model.sde, time=lambda t: 9 * t).score(x, 0.3),
    "law": lambda model, x: ss.exact.Gaussian([0.0, 1.0, 2.0], 0.5).model(model.sde).score(x, 0.3),
}


@pytest.mark.parametrize("how", HOW)
def test_the_default_device_does_not_change_other_runs(how: str) -> None:
    net, x = Net(), torch.linspace(-1, 1, 6).view(2, 3)
    for process in (PROCESSES["vp"], PROCESSES["ddpm_table"]):
        away, here = both(lambda sde: HOW[how](ss.ScoreModel(net, sde, predicts="noise"), x), process)
        assert torch.equal(away, here), process


@pytest.mark.parametrize("process", PROCESSES)
def test_the_default_device_does_not_change_a_process(process: str) -> None:
    """Its functions of floats, arrays and tensors, and every grid."""
    names = ("alpha", "sigma", "rho", "lam", "alpha_rate", "sigma_rate", "drift_rate", "diffusion", "squared_diffusion")
    some = torch.linspace(0.1, 0.9, 5, device="cpu")

    def values(sde: ss.SDE) -> list[Any]:
        found: list[Any] = [getattr(sde, name)(t) for name in names for t in (0.3, some.numpy(), some)]
        grids = [grid(sde, 10, sde.t_max, sde.t_eps) for grid in ss.grids.GRIDS.values()]
        return [*found, *grids, *(sde.time(sde.lam(t)) for t in (0.3, some.numpy(), some))]

    for away, here in zip(*both(values, PROCESSES[process]), strict=True):
        assert type(away) is type(here)
        assert np.array_equal(np.asarray(away), np.asarray(here))


MAKES = frozenset([
    "arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "zeros",
])  # fmt: skip
"""Functions of torch that make a tensor, on the default device unless it is said where."""


def test_every_tensor_is_made_where_it_is_said() -> None:
    """In all of the library; the buffers of a module are made where its parameters are, on the default device."""
    left = []
    for path in sorted(Path(ss.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in MAKES):
                continue
            if ast.unparse(call.func.value) == "torch" and "device" not in [word.arg for word in call.keywords]:
                left.append(f"{path.stem}: {ast.unparse(call)}")
    assert left == ["time_laws: torch.zeros(bins, dtype=torch.float64)"]


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def network(x: Tensor, t: Tensor) -> Tensor:
    """One that treats samples, and their elements, apart."""
    return torch.tanh(x) * (1 + t.view(-1, *[1] * (x.ndim - 1)))


@pytest.mark.parametrize(
    "solver", ["ddim", "dpmpp_2m", "unipc_3", "ddpm", "adaptive_abm", "adaptive_sde_sra", "annealed_langevin"]
)
def test_threads_do_not_change_a_sample(threads: None, solver: str) -> None:
    """One state so large that its operations, norms and blocks of noise are divided among the threads."""
    model = ss.ScoreModel(network, ss.VPSDE(), predicts="v")
    adaptive = ss.get_solver(solver).adaptive
    work: dict[str, Any] = {"rtol": 0.5, "atol": 0.5} if adaptive else {"nfe": 4}
    shape = (1, 3, 128, 128) if adaptive else (1, 3, 256, 256)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(ss.sample(model, shape, solver=solver, seed=0, **work).samples)
    assert torch.equal(*found)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import torch
from test_same_runs import digests
torch.set_num_threads(1)
print(*digests(range({first}, {last})))
"""


def digests(indices: range) -> list[str]:
    """Of each sample of seed 7 with each of some solvers."""
    model, found = ss.ScoreModel(network, ss.VPSDE(), predicts="v"), []
    for solver, much in (("dpmpp_2m", {"nfe": 6}), ("sra1", {"steps": 4}), ("adaptive_abm", {"rtol": 0.01})):
        asked: dict[str, Any] = {"shape": (len(indices), 3, 5), "solver": solver, "seed": 7, "indices": indices, **much}
        samples = ss.sample(model, **asked).samples
        found += [hashlib.sha256(one.numpy().tobytes()).hexdigest()[:16] for one in samples]
    return found


def test_processes_do_not_change_a_sample() -> None:
    script = SCRIPT.format(path=sys.path, first=3, last=8)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here, there, whole = digests(range(3)), done.stdout.split(), digests(range(8))
    for solver in range(3):
        parts = here[3 * solver : 3 * solver + 3] + there[5 * solver : 5 * solver + 5]
        assert parts == whole[8 * solver : 8 * solver + 8]
