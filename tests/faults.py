"""Networks, sources of noise and callbacks that go wrong at one call, in every way that was thought of.

A fault is what is done in place of answering, and what must come of it: an exception with a message that names it, or
the samples of a run without the fault.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import scoresolve as ss

SDE = ss.VPSDE()
HIT = 2
"""The sample that a fault of one sample is in."""


def answer(x: Tensor, t: Tensor) -> Tensor:
    """What the network says when nothing is wrong: smooth, bounded, each element of each sample by itself."""
    return 0.8 * torch.tanh(x) + 0.1 * t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


class OwnError(Exception):
    """An exception of the caller's own."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong. Attributes: act(net, x, t) is done in place of answering; error is what must come of it, None
    for a harmless one; match, its message; alone, whether only sample ``HIT`` is lost."""

    act: Callable[[FaultyNet, Tensor, Tensor], Any]
    error: type[BaseException] | None = None
    match: str = ""
    alone: bool = False


class FaultyNet(torch.nn.Module):
    """A network that answers as it should but at one call.

    Args: fault; at_call, counted from 1, 0 for every call. Attributes: calls; shared, memory that it keeps.
    """

    def __init__(self, fault: Fault | None = None, at_call: int = 0) -> None:
        super().__init__()
        self.fault, self.at_call, self.calls = fault, at_call, 0
        self.shared: dict[torch.Size, Tensor] = {}

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """The answer, or what the fault has in its place."""
        self.calls += 1
        hit = self.fault is not None and self.at_call in (0, self.calls)
        return self.fault.act(self, x, t) if hit else answer(x, t)  # type: ignore[union-attr]

    def model(self) -> ss.ScoreModel:
        """The network as a model."""
        return ss.ScoreModel(self, SDE, predicts="noise")


def _changed(change: Callable[[Tensor], Any]) -> Callable[[FaultyNet, Tensor, Tensor], Any]:
    return lambda net, x, t: change(answer(x, t))


def _with(value: float, *place: Any) -> Callable[[FaultyNet, Tensor, Tensor], Tensor]:
    def act(net: FaultyNet, x: Tensor, t: Tensor) -> Tensor:
        out = answer(x, t)
        out[place] = value
        return out

    return act


def _alternating(net: FaultyNet, x: Tensor, t: Tensor) -> Tensor:
    out = answer(x, t)
    return out if net.calls % 2 else out.index_fill(0, torch.tensor([HIT]), math.nan)


def _raising(error: BaseException) -> Callable[[FaultyNet, Tensor, Tensor], Any]:
    def act(net: FaultyNet, x: Tensor, t: Tensor) -> Any:
        raise error

    return act


def _doing(deed: Callable[[FaultyNet, Tensor, Tensor], object]) -> Callable[[FaultyNet, Tensor, Tensor], Tensor]:
    def act(net: FaultyNet, x: Tensor, t: Tensor) -> Tensor:
        out = answer(x, t)
        deed(net, x, t)
        return out

    return act


def _same_buffer(net: FaultyNet, x: Tensor, t: Tensor) -> Tensor:
    return net.shared.setdefault(x.shape, torch.empty_like(x)).copy_(answer(x, t).detach())


def _sample_within(net: FaultyNet, x: Tensor, t: Tensor) -> object:
    inner = ss.ScoreModel(answer, SDE, predicts="noise")
    return [ss.sample(inner, (2, 3), solver=solver, nfe=4, seed=5) for solver in ("dpmpp_2m", "sra1")]


def _draw_globally(net: FaultyNet, x: Tensor, t: Tensor) -> object:
    with torch.random.fork_rng():  # the tests leave the generator alone
        return torch.manual_seed(net.calls)


LOST, WRONG = ss.NonFiniteError, ss.NetworkOutputError
VALUES = {
    f"{name}_{where}": Fault(_with(value, *place), LOST, "NaN or infinity|nonfinite", alone=where != "all")
    for name, value in {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf}.items()
    for where, place in {"element": (HIT, 0), "sample": (HIT,), "all": ()}.items()
}
VALUES["alternating_nan"] = Fault(_alternating, LOST, "NaN or infinity|nonfinite", alone=True)
SHAPES = {
    name: Fault(_changed(change), WRONG, "must be equal")
    for name, change in {
        "one_feature": lambda out: out[:, :1],  # would broadcast
        "one_sample": lambda out: out[:1],
        "no_batch": lambda out: out[0],
        "scalar": lambda out: out.mean(),
        "transposed": lambda out: out.mT,
        "more_dimensions": lambda out: out[:, None],
        "doubled": lambda out: torch.cat([out, out]),
        "empty": lambda out: out[:0],
    }.items()
}
KINDS = {
    "int": Fault(_changed(lambda out: out.long()), WRONG, "int64"),
    "bool": Fault(_changed(lambda out: out > 0), WRONG, "bool"),
    "complex": Fault(_changed(lambda out: torch.complex(out, out)), WRONG, "complex"),
    "meta": Fault(_changed(lambda out: out.to("meta")), WRONG, "on meta"),
    "sparse": Fault(_changed(lambda out: out.to_sparse()), WRONG, "sparse"),
    "none": Fault(_changed(lambda out: None), WRONG, "NoneType"),
    "tuple": Fault(_changed(lambda out: (out,)), WRONG, "tuple"),
    "dict": Fault(_changed(lambda out: {"sample": out}), WRONG, "dict"),
    "numpy": Fault(_changed(lambda out: out.detach().numpy()), WRONG, "ndarray"),
    "float": Fault(_changed(lambda out: 0.5), WRONG, "float"),
    "writes_x": Fault(lambda net, x, t: x.mul_(2.0), WRONG, "wrote into its input"),
    "writes_t": Fault(_doing(lambda net, x, t: t.fill_(0.3)), WRONG, "wrote into its time label"),
}
RAISED = {
    type(error).__name__: Fault(_raising(error), type(error), "from the network")
    for error in (
        OwnError("from the network"), ValueError("from the network"), RuntimeError("from the network"),
        TypeError("from the network"), AssertionError("from the network"), UserWarning("from the network"),
        torch.OutOfMemoryError("from the network"), StopIteration("from the network"),
        KeyboardInterrupt("from the network"), SystemExit("from the network"), GeneratorExit("from the network"),
    )
}  # fmt: skip
HARMFUL = VALUES | SHAPES | KINDS | RAISED
HARMLESS = {
    "double": Fault(_changed(lambda out: out.double())),
    "column_major": Fault(_changed(lambda out: out.mT.contiguous().mT)),
    "a_view_of_more": Fault(_changed(lambda out: torch.cat([out, out], 1)[:, : out.shape[1]])),
    "same_buffer": Fault(_same_buffer),
    "requires_grad": Fault(_changed(lambda out: out.detach().requires_grad_())),
    "grad_mode_on": Fault(_doing(lambda net, x, t: torch.set_grad_enabled(True))),
    "grad_mode_off": Fault(_doing(lambda net, x, t: torch.set_grad_enabled(False))),
    "default_dtype": Fault(_doing(lambda net, x, t: torch.set_default_dtype(torch.float64))),
    "module_mode": Fault(_doing(lambda net, x, t: net.train(not net.training))),
    "global_generator": Fault(_doing(_draw_globally)),
    "samples_within": Fault(_doing(_sample_within)),
}
"""At every call; the samples are those of a run without them."""
ALIASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "the_input": (lambda x: x, lambda x: x.clone()),
    "a_view_of_the_input": (lambda x: x.flip(0).flip(0)[:], lambda x: x.clone()),
    "expanded": (lambda x: x.new_full((), 0.3).expand(x.shape), lambda x: torch.full_like(x, 0.3)),
    "row_of_the_input": (lambda x: x[:1].expand(x.shape), lambda x: x[:1].expand(x.shape).clone()),
}
"""Answers that share memory with the input or with themselves, and the same in memory of their own."""


@contextmanager
def unchanged(*tensors: Tensor) -> Iterator[None]:
    """What is the caller's is as it was, whatever is raised: tensors to the byte, modes, threads, warnings."""
    before, bytes_before = _state(tensors), [x.detach().clone() for x in tensors]
    generator = torch.get_rng_state()
    try:
        yield
    finally:
        assert _state(tensors) == before
        assert all(torch.equal(x, old) for x, old in zip(tensors, bytes_before, strict=True))
        assert torch.equal(torch.get_rng_state(), generator), "the global generator was moved"


def _state(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    threads = [one.name for one in threading.enumerate() if type(one).__name__ != "TMonitor"]  # tqdm's own, once
    filters = [one for one in warnings.filters if "sympy" not in one[2].__module__]  # torch imports it when it likes
    return (
        [(x._version, x.requires_grad, x.grad) for x in tensors], torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_default_device(),
        torch.get_num_threads(), threads, filters, torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled(),
    )  # fmt: skip


# -- what is run ------------------------------------------------------------------------------------------------------

START = torch.linspace(-1.5, 1.5, 8).reshape(4, 2)
SOLVERS = {info.name: info for info in ss.solvers()}
ADAPTIVE = [name for name, info in SOLVERS.items() if info.adaptive]
FIXED = [name for name in SOLVERS if name not in ADAPTIVE]


def solved(model: ss.ScoreModel, solver: Any, **more: Any) -> ss.Solution:
    """A short run of a solver from a state of four samples: about six network calls, of an adaptive one 10 to 30."""
    adaptive = getattr(solver, "adaptive", solver in ADAPTIVE)
    loose = {} if not isinstance(solver, str) else {"rtol": 0.3, "atol": 0.3}
    work: dict[str, Any] = {"t_min": 0.4, "t_max": 0.9, **loose} if adaptive else {"nfe": 6}
    return ss.sample(model, **{"start": START, "solver": solver, "seed": 0, **work, **more})


def family(solver: str, **how: Any) -> Callable[..., ss.Solution]:
    """Runs of a solver."""
    return lambda model, **more: solved(model, solver, **how, **more)


ONE_EACH = ("ddim", "dpmpp_2m", "heun", "unipc_3", "ddpm", "sra1", "annealed_langevin", "restart", "dpm_solver_v3")
FAMILIES: dict[str, Callable[..., Any]] = {
    **{solver: family(solver) for solver in ONE_EACH},
    "corrector": family("ddpm", corrector="langevin"),
    "picard": family("dpmpp_2m", parallel=ss.Picard(tolerance=0.0)),
    "denoise": family("flow_abm_3", denoise=True),
    "trajectory": family("euler_maruyama", trajectory=True),
    "grad": family("dpmpp_2m", grad=True),
    "threshold": lambda model, **more: solved(ss.threshold(model), "dpmpp_2m", **more),
    "torchdiffeq": family(ss.backend("torchdiffeq", "euler", clock="flow")),
    "log_prob": family("dpmpp_2m", log_prob="exact"),
    "encode": lambda model, **more: ss.encode(model, START, solver="heun", nfe=6, **more),
    "decode": lambda model, **more: ss.decode(model, START, solver="heun", nfe=6, **more),
    "likelihood": lambda model, **more: ss.log_likelihood(model, START, nfe=6, **more),
}
"""One solver of each family, and the other ways in: (model, **more) -> a solution."""
EVERY: dict[str, Callable[..., Any]] = {**{name: family(name) for name in SOLVERS}}


def samples_of(found: Any) -> Tensor:
    """The last states of a run."""
    return found.latents if isinstance(found, ss.LogLikelihood) else found.samples
