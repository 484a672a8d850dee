"""What must not change a run: torch's compiler, the number of threads, the number of processes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresolve as ss


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
    for solver, work in (("dpmpp_2m", {"nfe": 6}), ("sra1", {"steps": 4}), ("adaptive_abm", {"rtol": 0.01})):
        asked: dict[str, Any] = {"shape": (len(indices), 3, 5), "solver": solver, "seed": 7, "indices": indices, **work}
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
