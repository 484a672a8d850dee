"""Counting and checking the network's calls, at the one place where they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor

from .errors import BudgetError, NetworkOutputError, NonFiniteError

READ = 16
ASTRAY = "check the network at that time, its time label and its prediction type"
_WITHIN = tuple(range(1, 64))
"""The dimensions of a sample: torch has at most 64."""
FAR = 1e6
"""Of answers to states of data, scaled as it should be, no sum is as large."""
TAMED = "so the solution ran away: take more steps or a solver of lower order, less guidance, or ss.threshold(model)"


class _Place(NamedTuple):
    """A call, for the messages."""

    call: int
    step: int
    t: float | Tensor
    subject: str

    def __str__(self) -> str:
        return f"network call {self.call} (step {self.step}, {_time(self.t)}): {self.subject}"


class Watch:
    """Counts network calls, and looks whether what comes back is finite.

    What it does with an answer that is not: "raise" an error, "mask" the samples (:meth:`failed_at` then says which,
    and when), or "ignore" it. Of each answer one sum a sample is kept, unread: reading waits for an accelerator, and
    costs something everywhere. :meth:`close` reads them all at the end. To raise an error before much work is lost,
    they are read every ``READ`` calls on the CPU, at every call for solvers that decide by what they see (``prompt``);
    on an accelerator, and with ``deferred``, at the end only. Sums are of float32 at least: one that overflows, of
    answers of 1e38 and more, is taken for infinite.

    Attributes: calls (network calls, a batch counting once), rows (samples seen by the network, guidance twice),
    step (the solver's current step, for the messages), limit (the most calls allowed, or None), differentiates
    (whether the answers are differentiated, so that one without a gradient is an error), casts (the context that the
    network is called in: torch.autocast is the network's, the solver's own arithmetic keeps the state's precision).
    """

    def __init__(
        self,
        *,
        on_nonfinite: Literal["raise", "mask", "ignore"] = "ignore",
        limit: int | None = None,
        on_call: Callable[[], object] | None = None,
        deferred: bool = False,
        prompt: bool = False,
    ) -> None:
        self.calls = self.rows = self.step = 0
        self.differentiates = False
        self.parent: Watch | None = None
        self.casts: Callable[[], AbstractContextManager[object]] = nullcontext
        self._on_nonfinite, self._limit, self._on_call = on_nonfinite, limit, on_call
        self._deferred, self._prompt = deferred, prompt
        self._pending: list[tuple[Tensor, _Place]] = []

    def count(self, rows: int, t: float | Tensor) -> None:
        """Note a call that is about to be made. Raises BudgetError if it would exceed the limit."""
        if self._limit is not None and self.calls >= self._limit:
            raise BudgetError(
                f"the solver needs more than nfe={self._limit} network calls (it stands at {_time(t)}): "
                "raise nfe=, loosen rtol= and atol=, or take a solver with a fixed number of steps"
            )
        watch: Watch | None = self
        while watch is not None:
            watch.calls += 1
            watch.rows += rows
            watch = watch.parent
        if self._on_call is not None:
            self._on_call()

    def again(self, other: Watch) -> None:
        """Count and note the calls that another watch has seen: those of a run that was replayed, its sums in place."""
        rows = other.rows // max(other.calls, 1)
        for _, place in other._pending:
            self.count(rows, place.t)
        if self._on_nonfinite != "ignore":
            self._pending += other._pending

    def check(
        self, output: Any, inputs: Tensor, version: int | None, t: float | Tensor, differentiates: bool = False
    ) -> None:
        """Raise NetworkOutputError unless the answer to ``inputs`` is a tensor that can be worked with."""
        problem = _problem(output, inputs, version)
        if problem:
            self.refuse(problem, t)
        if differentiates and not output.requires_grad:
            self.refuse(
                "returned what carries no gradient, which the divergence or the guidance is made of: it runs "
                "under torch.no_grad or torch.inference_mode, detaches, or leaves torch; let it run with gradients "
                "(an answer that really does not depend on x can say so with + 0 * x)",
                t,
            )

    def refuse(self, problem: str, t: float | Tensor) -> NoReturn:
        """Raise NetworkOutputError: at this call the network did what it must not."""
        raise NetworkOutputError(self.place(t, f"the network {problem}"))

    def place(self, t: float | Tensor, subject: str) -> str:
        """What is to be said of the last call, with its number, step and time."""
        return str(_Place(self.calls, self.step, t, subject))

    def check_finite(self, output: Tensor, t: float | Tensor, subject: str = "the network returned") -> None:
        """Note the answer, to raise NonFiniteError at a later call or at the end if it holds a NaN or an infinity."""
        if self._on_nonfinite == "ignore":
            return
        output = output.detach() if output.requires_grad else output
        wide = torch.float32 if output.dtype.itemsize < 4 else None
        sums = output.sum(dim=_WITHIN[: output.ndim - 1], dtype=wide) if output.ndim > 1 else output.clone()
        self._pending.append((sums, _Place(self.calls, self.step, t, subject)))
        if self._on_nonfinite == "mask" or self._deferred or sums.device.type != "cpu":
            return
        if self._prompt and not math.isfinite(float(sums.sum())):
            require_finite(output, str(self._pending[-1][1]))
        if len(self._pending) > READ:
            _read(self._pending)
            del self._pending[:-1]  # the last one stays: was it large already?

    def close(self, final: Tensor) -> None:
        """Read what was kept. Raises NonFiniteError for the first call that went wrong, or for the final state."""
        pending, self._pending = self._pending, []
        _read(pending)
        require_finite(final, "after the last step the state holds")

    def failed_at(self, batch: int) -> Tensor:
        """The time of each sample's first answer that was not finite, NaN for the others; float64 (batch,), host."""
        found = torch.full((batch,), math.nan, dtype=torch.float64, device="cpu")
        for sums, place in self._pending:
            bad = ~torch.isfinite(sums).cpu() & torch.isnan(found)
            found = torch.where(bad, torch.as_tensor(place.t, dtype=torch.float64, device="cpu"), found)
        self._pending = []
        return found


def _problem(output: Any, inputs: Tensor, version: int | None) -> str:
    """What is wrong with a network's answer; "" if nothing."""
    if not isinstance(output, Tensor):
        got, shape = type(output).__name__, tuple(inputs.shape)
        return f"returned {got}, expected a tensor of shape {shape}: wrap it, such as lambda x, t: net(x, t).sample"
    if output.shape != inputs.shape:
        shapes = f"shape {tuple(output.shape)} for an input of shape {tuple(inputs.shape)}"
        return f"returned {shapes}; they must be equal (nothing is broadcast)"
    if not output.is_floating_point():
        return f"returned {output.dtype}, expected a real floating dtype"
    if output.layout != torch.strided:
        return f"returned a tensor of layout {output.layout}, expected a dense one: write .to_dense() behind it"
    if output.device != inputs.device:
        return f"returned a tensor on {output.device}, expected {inputs.device}"
    if version_of(inputs) != version:
        return "wrote into its input; have it work on a copy (x.clone())"
    return ""


def dtype_of(net: object) -> torch.dtype | None:
    """The dtype of a network's parameters, or None where there is nothing to cast to."""
    if isinstance(net, torch.nn.Module):
        for parameter in net.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
    return None


def version_of(x: Tensor) -> int | None:
    """A number that grows when x is written into; None for a tensor of inference mode, which has none."""
    return None if x.is_inference() else x._version


def autocast_of(kind: str) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context of automatic casts that the caller is in, on a kind of device."""
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return nullcontext
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind))


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """A context without automatic casts on a kind of device."""
    return nullcontext() if autocast_of(kind) is nullcontext else torch.autocast(kind, enabled=False)


def lent(x: Tensor) -> Tensor:
    """x for code that is not ours: in inference mode a copy, as nothing would tell whether it is written into."""
    return x.clone() if x.is_inference() else x


def _read(pending: Sequence[tuple[Tensor, _Place]]) -> None:
    """Raise NonFiniteError for the first call with a sum that is not finite."""
    if not pending or math.isfinite(float(torch.cat([sums for sums, _ in pending]).sum())):
        return  # a total that overflows alone is looked at below, and passes
    before = None
    for sums, place in pending:
        bad = ~torch.isfinite(sums)
        if bool(bad.any()):
            size = 0.0
            if before is not None and before.shape == bad.shape:  # batches may differ in size
                size = float(before[bad].abs().max())
            grown = f"its answers had grown to {size:.0e} the call before, {TAMED}"
            raise _error(bad, str(place), grown if size > FAR else ASTRAY)
        before = sums


def require_finite(x: Tensor, subject: str, hint: str = ASTRAY) -> None:
    """Raise NonFiniteError, naming the samples (rows) of x that hold a NaN or an infinity."""
    bad = ~torch.isfinite(x.reshape(len(x), -1)).all(dim=1)
    if bool(bad.any()):
        raise _error(bad, subject, hint)


def _error(bad: Tensor, subject: str, hint: str) -> NonFiniteError:
    samples = bad.nonzero().flatten().tolist()
    shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
    return NonFiniteError(f"{subject} NaN or infinity in {len(samples)} of {len(bad)} samples ({shown}): {hint}")


def _time(t: float | Tensor) -> str:
    if isinstance(t, Tensor):
        return f"t = {t.detach().flatten()[0].item():.6g}" if t.device.type == "cpu" else "t on the device"
    return f"t = {t:.6g}"
