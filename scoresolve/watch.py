"""Counting and checking the network's calls, at the one place where they are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import BudgetError, NetworkOutputError, NonFiniteError

ASTRAY = "check the network at that time, its time label and its prediction type"
FAR = 1e6
"""No state of data, scaled as it should be, is as large."""
TAMED = "solution ran away: take more steps or a solver of lower order, less guidance, or ss.threshold(model)"


class Watch:
    """Counts network calls, and looks whether what comes back is finite.

    What it does with an answer that is not: "raise" an error, "mask" the samples (:meth:`failed_at` then says which,
    and when), or "ignore" it. To raise, each answer is checked as it comes on the CPU; on an accelerator that would
    wait for the device at every call, so one sum a sample is kept there, unread, and :meth:`close` reads them all at
    the end (``deferred`` has it so on the CPU, too).

    Attributes: calls (network calls, a batch counting once), rows (samples seen by the network, guidance twice),
    step (the solver's current step, for the messages), limit (the most calls allowed, or None), differentiates
    (whether the answers are differentiated, so that one without a gradient is an error).
    """

    def __init__(
        self,
        *,
        on_nonfinite: Literal["raise", "mask", "ignore"] = "ignore",
        limit: int | None = None,
        on_call: Callable[[], object] | None = None,
        deferred: bool = False,
    ) -> None:
        self.calls = self.rows = self.step = 0
        self.differentiates = False
        self.parent: Watch | None = None
        self._on_nonfinite, self._limit, self._on_call, self._deferred = on_nonfinite, limit, on_call, deferred
        self._pending: list[tuple[Tensor, str, float | Tensor]] = []

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

    def check(
        self, output: Any, inputs: Tensor, version: int | None, t: float | Tensor, differentiates: bool = False
    ) -> None:
        """Raise NetworkOutputError unless the answer to ``inputs`` is a tensor that can be worked with."""
        problem = _problem(output, inputs, version)
        if problem:
            raise NetworkOutputError(f"{self._where(t)}: the network {problem}")
        if differentiates and not output.requires_grad:
            raise NetworkOutputError(
                f"{self._where(t)}: the network's answer carries no gradient, which the divergence or the guidance is "
                "made of: it runs under torch.no_grad or torch.inference_mode, detaches, or leaves torch; let it run "
                "with gradients (an answer that really does not depend on x can say so with + 0 * x)"
            )

    def check_finite(
        self, output: Tensor, t: float | Tensor, subject: str = "the network returned", given: Tensor | None = None
    ) -> None:
        """Raise NonFiniteError if the answer holds a NaN or an infinity, now or, on an accelerator, at the end.

        ``given``: what it is the answer to; its size tells a network that is wrong from a solution that ran away.
        """
        if self._on_nonfinite == "ignore":
            return
        if self._on_nonfinite == "mask" or self._deferred or output.device.type != "cpu":
            sums = output.detach().reshape(len(output), -1).sum(dim=1)
            self._pending.append((sums, f"{self._where(t)}: {subject}", t))
        elif not math.isfinite(output.detach().sum().item()):  # one pass; a non-finite element shows in the sum
            size = 0.0 if given is None else float(given.detach().abs().max())
            hint = f"its input had grown to {size:.1e}, so the {TAMED}" if not size < FAR else ASTRAY
            require_finite(output, f"{self._where(t)}: {subject}", hint)

    def _where(self, t: float | Tensor) -> str:
        return f"network call {self.calls} (step {self.step}, {_time(t)})"

    def close(self) -> None:
        """Read what was kept on the device. Raises NonFiniteError for the first call that went wrong."""
        pending, self._pending = self._pending, []
        if pending and not bool(torch.isfinite(torch.stack([sums.sum() for sums, _, _ in pending])).all()):
            for sums, subject, _ in pending:
                require_finite(sums, subject)

    def failed_at(self, batch: int) -> Tensor:
        """The time of each sample's first answer that was not finite, NaN for the others; float64 (batch,), host."""
        found = torch.full((batch,), math.nan, dtype=torch.float64)
        for sums, _, t in self._pending:
            bad = ~torch.isfinite(sums).cpu() & torch.isnan(found)
            found = torch.where(bad, torch.as_tensor(t, dtype=torch.float64).cpu(), found)
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


def require_finite(x: Tensor, subject: str, hint: str = ASTRAY) -> None:
    """Raise NonFiniteError, naming the samples (rows) of x that hold a NaN or an infinity."""
    bad = ~torch.isfinite(x.reshape(len(x), -1)).all(dim=1)
    if bool(bad.any()):
        samples = bad.nonzero().flatten().tolist()
        shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        raise NonFiniteError(
            f"{subject} NaN or infinity in {len(samples)} of {x.shape[0]} samples ({shown}): {hint}"
        )


def _time(t: float | Tensor) -> str:
    if isinstance(t, Tensor):
        return f"t = {t.detach().flatten()[0].item():.6g}" if t.device.type == "cpu" else "t on the device"
    return f"t = {t:.6g}"
