"""Nothing between two network calls: operations of the loop, counted, and what it keeps in memory."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

import scoresolve as ss
from benchmarks.operations import Operations
from scoresolve import copies
from scoresolve.adams import integrated_differences
from scoresolve.copies import on_device
from scoresolve.pairs import _moved
from scoresolve.registers import Registers
from scoresolve.row import Row
from scoresolve.watch import READ

TABLES = [info.name for info in ss.solvers() if not info.adaptive and info.name != "annealed_langevin"]


class Zeros(ss.SampleStreams):
    """Noise for nothing: what is counted is the loop's."""

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        return NOISE


Zeros.__module__ = ss.noise.__name__  # the values of a stranger's noise are looked at, one read a draw
NOISE = torch.ones(4, 3)
ANSWER = torch.ones(4, 3)


def operations(solver: str, predicts: str, calls: int) -> tuple[Operations, int]:
    model = ss.ScoreModel(lambda x, t: ANSWER, ss.VPSDE(), predicts=predicts)  # type: ignore[arg-type]
    table = ss.sample(model, (4, 3), solver=solver, nfe=calls, seed=0).table
    with Operations() as counted:
        ss.sample(model, (4, 3), solver=table, seed=0, noise=Zeros(0, range(4)))
    return counted, table.nfe


@pytest.mark.parametrize("predicts", ["noise", "data"])
@pytest.mark.parametrize("solver", TABLES)
def test_operations_of_a_network_call(solver: str, predicts: str) -> None:
    """What 40 more calls cost. Drawing the noise is counted in test_noise.py."""
    (few, first), (many, second) = (operations(solver, predicts, calls) for calls in (40, 80))
    more, reads = many.found - few.found, many.reads - few.reads
    assert reads <= (second - first) / READ + 1, more  # on the CPU; on an accelerator there is none (test_captured.py)
    checks = sum(more[name] for name in ("aten.cat.default", "aten.sum.default"))
    each = (sum(more.values()) - reads - checks) / (second - first)
    noisy = ss.get_solver(solver).kind == "sde"
    assert each <= (6 if noisy else 4) + 0.5 * solver.startswith(("restart", "seeds")), more


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "flow_abm_4", "rk4", "unipc_3"])
def test_memory_does_not_grow_with_steps(solver: str) -> None:
    """States alive at a call, beside the network's own, the start and its copy: at most the history and two."""
    alive: list[int] = []
    size = 1009

    def net(x: Tensor, t: Tensor) -> Tensor:
        if model.nfe not in (6, 11, 20):
            return -x
        found = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in gc.get_objects() if tensor(o)}
        alive.append(sum(found.values()) // (8 * size))
        return -x

    def tensor(o: object) -> bool:
        return type(o) is Tensor and o.dtype == torch.float64 and o.numel() and o.numel() % size == 0

    model = ss.ScoreModel(net, ss.VPSDE(), predicts="noise")
    start = torch.zeros(1, size, dtype=torch.float64)
    table = ss.sample(model, start=start, solver=solver, nfe=20, seed=0).table
    assert table is not None
    assert max(alive) - 2 <= table.history + 2
    assert alive[-1] <= alive[0]


def test_of_samples_that_have_arrived_only_the_state_is_kept() -> None:
    """States alive when one sample is left of a run of Adams' method, whose samples arrive one after the other."""
    batch, size = 8, 1009
    alive: dict[int, int] = {}

    def net(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        if len(x) in {1, batch} - alive.keys() and model.nfe > 2:
            states = [o for o in gc.get_objects() if type(o) is Tensor and o.numel() and o.numel() % size == 0]
            alive[len(x)] = sum({o.untyped_storage().data_ptr(): o.numel() // size for o in states}.values())
        return -x * (1 + (rate[:, None] * t[:, None]).sin())

    start = torch.ones(batch, size, dtype=torch.float64)
    model = ss.ScoreModel(net, ss.VPSDE()).condition(rate=10 * torch.arange(batch).double())
    ss.sample(model, start=start, solver="adaptive_abm", rtol=1e-6, atol=1e-6)
    assert {1, batch} <= alive.keys()
    given = 2 * batch  # the start and its copy
    assert alive[1] <= given + batch + (alive[batch] - given) // batch + 2


def test_registers_are_the_weighted_sum(monkeypatch) -> None:
    """The three ways, against the sum written out, for any a and b, a = 0 and b = 0 among them."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    for a, b in ((0.7, -2.0), (3.0, 0.1), (0.0, 1.5), (2.0, 0.0), (1e-9, 1e9)):
        for history, propose in ((1, False), (1, True), (3, False), (4, True)):
            rows = []
            for number in range(6):
                known = min(number + 1, history)
                weights = tuple(normal(known + 1).tolist())
                rows.append(Row(t=1.0, s=0.5, commit=weights, propose=weights[::-1] if propose else (1.0,)))
            for grad in (False, True):
                with torch.set_grad_enabled(grad):
                    x = y = normal(2, 3)
                    registers, outputs = Registers(rows, [a] * 6, [b] * 6, x), []
                    registers.begin(x)
                    for number, row in enumerate(rows):
                        answer = normal(2, 3)
                        outputs.insert(0, a * y + b * answer)
                        registers.keep(number, answer, y)
                        expected = row.commit[0] * x + sum(w * m for w, m in zip(row.commit[1:], outputs, strict=False))
                        x = registers.commit(number, x)
                        scale = float(expected.abs().max()) + sum(float(m.abs().max()) for m in outputs)
                        assert (x - expected).abs().max() < 1e-13 * scale
                        expected = (
                            x
                            if not propose
                            else row.propose[0] * x + sum(w * m for w, m in zip(row.propose[1:], outputs, strict=False))
                        )
                        y = registers.propose(number, x)
                        assert (y - expected).abs().max() < 1e-13 * scale


AWAY, BETAS, KNOWN = torch.empty(2, 3, device="meta"), ss.DiscreteVPSDE.linear(), torch.tensor([[True, False, True]])
LAW = ss.exact.Gaussian([0.0, 1.0, 2.0], 0.5)
RATES = AWAY.new_empty(2, dtype=torch.float64)
PUT = ss.Replacement(BETAS, ss.operators.Mask(KNOWN), torch.ones(1, 3), seed=1)
GUIDED = ss.posterior_guidance(
    ss.ScoreModel(lambda x, t: 0.5 * x, BETAS), ss.operators.matrix(torch.ones(2, 3)), torch.ones(1, 2), 0.1
)
SPAN = RATES.new_empty(2, 3)
KEPT = {
    "alpha of a table of betas": lambda: BETAS.alpha(RATES),
    "time of a table of betas": lambda: BETAS.time(RATES),
    "weights of Adams": lambda: integrated_differences(RATES.new_empty(2, 4)),
    "weights of a pair": lambda: _moved(SPAN, SPAN, (SPAN, 0.5), 1.0, RATES, RATES, 1.0),
    "posterior guidance": lambda: GUIDED.data(AWAY, 0.5),
    "replacement": lambda: PUT(ss.Step(1, 0.5, AWAY, 1)),
    "exact denoiser": lambda: LAW.denoise(AWAY, 0.5, 0.5),
    "exact density": lambda: LAW.log_prob(SPAN),
    "exact flow": lambda: LAW.flow(BETAS, SPAN, 0.5, 0.3),
}


class Crossings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that take something of the host to the device without memory."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        hosts = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, Tensor) and not one.is_meta]
        self.count += bool(hosts) and isinstance(out, Tensor) and out.is_meta
        return out


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_on_the_host_is_copied_to_a_device_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_COPIES", WeakTensorKeyDictionary())
    found = []
    for _ in range(2):
        with Crossings() as crossed:
            assert KEPT[name]().is_meta
        found.append(crossed.count)
    assert 1 <= found[0] <= 6
    assert found[1] == 0


def test_a_copy_is_good_until_it_or_what_it_is_of_is_written_into() -> None:
    """It goes with what it is of, and nothing is kept where a graph goes through it."""
    value = torch.ones(3)
    copy = on_device(value, "meta")
    assert on_device(value, AWAY.device) is copy
    assert on_device(value, "meta", torch.float64).dtype == torch.float64
    value.add_(1)
    other = on_device(value, "meta")
    assert other is not copy
    other.add_(1)
    copy = on_device(value, "meta")
    assert other is not copy
    gone = weakref.ref(copy)
    del copy, value
    assert gone() is None
    wanted = torch.ones(3, requires_grad=True)
    assert on_device(wanted, "meta").requires_grad
    with torch.inference_mode():
        made = torch.ones(3)
        assert on_device(made, "meta") is not on_device(made, "meta")
    some = torch.ones(3)
    with torch.inference_mode():
        on_device(some, "meta")
    assert not on_device(some, "meta").is_inference()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert on_device(some, "lazy").device.type == "lazy"
    assert [where.type for where, _ in copies._COPIES[some]] == ["meta"]


class Half(torch.nn.Module):
    """The noise in data N(0, 1/4) along VP, in a network's own dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.variance = torch.nn.Parameter(torch.tensor(0.25, dtype=dtype))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = ss.VPSDE().alpha(t.double()), ss.VPSDE().sigma(t.double())
        return (sigma / (alpha**2 * self.variance + sigma**2)).to(x.dtype)[:, None] * x


def test_the_state_does_not_drift_with_a_network_of_half_precision() -> None:
    """In bfloat16 a state loses what a small step adds: its error grows with the steps, ours stays the network's."""

    def drift(steps: int, callback: Any = None) -> float:
        model = ss.ScoreModel(Half(torch.bfloat16), ss.VPSDE(), predicts="noise")
        found = ss.sample(model, start=start.float(), solver="ddim", steps=steps, callback=callback).samples
        exact = ss.ScoreModel(Half(torch.float64), ss.VPSDE(), predicts="noise")
        truth = ss.sample(exact, start=start, solver="ddim", steps=steps).samples
        return float((found - truth).square().mean().sqrt() / truth.std())

    start = torch.randn(2048, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rounded = lambda step: step.x.bfloat16().float()  # noqa: E731
    assert drift(400) < 1.5 * drift(25) < 0.01  # 0.0048 and 0.0045
    assert drift(400, rounded) > 5 * drift(25, rounded) > 0.04  # 0.12 and 0.011
