"""A run of a table captured once and replayed: nothing of the host is left between two network calls.

The loop of a table is the same operations on the same memory whatever the values (``loop.py``), so a device that can
record what it is asked to do can do it again by itself: a CUDA graph of all calls of a run. What differs from run to
run is copied into the memory that it works on: the start, the keys of the noise, the tensors of the conditioning. What
it leaves there is read afterwards: the last state, the states on the way, and of each answer the sum that tells
whether it was finite. They are the operations of the run that is not captured, and so are its samples.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from .guidance import each
from .loop import Loop
from .model import ScoreModel
from .noise import NoiseSource, StillSource, goes_with_draw
from .registry import Runner
from .table import AfterStep, Stats, Table
from .watch import Watch

WARM_UP = 3
"""Network calls before a capture, as torch asks for: libraries choose their algorithms and set up their memory then."""
Result = TypeVar("Result")


class Recorder(Protocol):
    """What a device offers to record operations."""

    def warm_up(self, function: Callable[[], object]) -> None:
        """Run it as it will be run for the record."""
        ...

    def capture(self, function: Callable[[], Result]) -> Result:
        """Record what it asks of the device; its tensors stay where they are and have their values after a replay."""
        ...

    def replay(self) -> None:
        """Do again what was recorded."""
        ...


class CudaGraph:
    """A graph of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._graph = device, torch.cuda.CUDAGraph()

    def warm_up(self, function: Callable[[], object]) -> None:
        """On a stream of its own, as a capture is."""
        with torch.cuda.device(self._device):
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                function()
            current.wait_stream(stream)

    def capture(self, function: Callable[[], Result]) -> Result:
        """Record it; nothing is computed yet."""
        with torch.cuda.device(self._device), torch.cuda.graph(self._graph):
            return function()

    def replay(self) -> None:
        """Launch the graph; the host does not wait for it."""
        self._graph.replay()


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaGraph}
"""By the type of the device."""


class Tape:
    """A run of a table on record, for states like x.

    Args: table; model, a session's; x (batch, ...); noise; recorder; observed, whether states on the way are kept.
    Raises: as the network does; :class:`NotRecordedError` where the recorder cannot follow it.
    """

    def __init__(
        self, table: Table, model: ScoreModel, x: Tensor, noise: NoiseSource, recorder: Recorder, observed: bool
    ) -> None:
        self._recorder, self._x, self._stochastic = recorder, x.clone(), table.stochastic
        self._noise = cast(StillSource, noise).still(x) if self._stochastic else noise
        self._conditioning = _still(model.door(len(x)).conditioning)
        self._warm_up(table, model)
        self._watch = Watch(on_nonfinite="mask", deferred=True)
        self._loop = self._made_ready(table, model, self._watch)  # kept, as the record works on its tensors
        self._watch.parent = None  # what is counted are the replays
        self._states: list[tuple[int, float, Tensor]] = []

        def note(step: int, t: float, state: Tensor) -> Tensor:
            self._states.append((step, t, state))
            return state

        outer = sys.exception()
        try:
            self._final = recorder.capture(lambda: self._loop(self._x, note if observed else None))
        except Exception as error:  # whatever a network may raise where the host waits for the device
            raise NotRecordedError(f"its capture failed ({_first(error, outer)})") from error

    def _warm_up(self, table: Table, model: ScoreModel) -> None:
        watch = Watch()
        loop = self._made_ready(table, model, watch)
        assert watch.parent is not None
        watch.parent = watch.parent.parent  # calls of the model, not of the run
        self._recorder.warm_up(lambda: loop(self._x, calls=WARM_UP))

    def _made_ready(self, table: Table, model: ScoreModel, watch: Watch) -> Loop:
        loop = Loop(table, model.session(watch), self._x, self._noise)
        assert loop.ask.door is not None
        loop.ask.door.conditioning = self._conditioning
        return loop

    def is_for(self, x: Tensor) -> bool:
        """Whether it is for such states."""
        return (x.shape, x.dtype, x.device) == (self._x.shape, self._x.dtype, self._x.device)

    def replay(self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None) -> Tensor:
        """The last state. Counted as a run is; ``after_step`` sees the states on the way when all is done.

        Raises: NotRecordedError if the conditioning differs in more than the values of its tensors.
        """
        door = model.door(len(x))
        if not _alike(self._conditioning, door.conditioning):
            raise NotRecordedError(
                "the conditioning differs from the first run's in more than the values of its tensors"
            )
        self._x.copy_(x)
        if self._stochastic:
            cast(Any, self._noise).adopt(noise, x)
        _adopt(self._conditioning, door.conditioning)
        self._recorder.replay()
        door.watch.again(self._watch)
        if after_step is not None:
            for step, t, state in self._states:
                after_step(step, t, state)
        return self._final.clone()


class NotRecordedError(Exception):
    """Why a run cannot be captured or replayed."""


@dataclass
class Capture:
    """Where a record is kept, that of the first run; failed, if there can be none."""

    tape: Tape | None = None
    failed: bool = False


@dataclass(frozen=True)
class CapturedRunner:
    """A table whose run is captured the first time, and replayed; statistics "replays" and "warmup_calls".

    States of another shape, such as a last chunk that is smaller, are run as always.
    """

    table: Table
    kept: Capture

    @property
    def nfe(self) -> int:
        """Network calls of a run."""
        return self.table.nfe

    @property
    def stochastic(self) -> bool:
        """Whether a run uses noise."""
        return self.table.stochastic

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take the state from the first time to the last; ``after_step`` cannot change it."""
        stats = {"replays": 0, "warmup_calls": 0}
        kept = self.kept
        try:
            if kept.tape is None and not kept.failed:
                stats["warmup_calls"] = min(WARM_UP, self.table.nfe)
                kept.tape = self._recorded(model, x, noise, after_step is not None)
            if kept.tape is not None and kept.tape.is_for(x):
                return kept.tape.replay(model, x, noise, after_step), {**stats, "replays": 1}
        except NotRecordedError as reason:
            kept.failed = kept.tape is None  # conditioning that does not fit says nothing of the next
            _warn(str(reason), stacklevel=6)
        return self.table.run(model, x, noise, after_step)[0], stats

    def _recorded(self, model: ScoreModel, x: Tensor, noise: NoiseSource, observed: bool) -> Tape:
        kind = x.device.type
        # casts that autocast remembers would be forgotten at its end, and the record read what is no longer there
        casts = torch.autocast(kind, enabled=False, cache_enabled=False)
        with torch.inference_mode(False), torch.no_grad(), casts:
            return Tape(self.table, model, x, noise, RECORDERS[kind](x.device), observed)


def captured(
    runner: Runner, kept: Capture, model: ScoreModel, x: Tensor, noise: NoiseSource, *, callback: bool, grad: bool
) -> Runner:
    """The runner with its runs captured; where that cannot be itself, and the first time a warning that says why."""
    reason = ""
    if x.device.type not in RECORDERS:
        reason = f"the state is on {x.device.type!r}, and it takes a CUDA device"
    elif not isinstance(runner, Table):
        reason = "the host decides between its calls (it is not a table of fixed steps alone)"
    elif callback:
        reason = "callback= is the host's"
    elif grad:
        reason = "grad=True keeps a graph of another kind"
    elif not model.plain:
        reason = "the model is refined (a guidance, a threshold), or has an evaluation of its own"
    elif runner.stochastic and not (isinstance(noise, StillSource) and goes_with_draw(noise, "adopt")):
        reason = f"noise={type(noise).__name__} has no still(like) and adopt(other, like) that go with its draw"
    if isinstance(runner, Table) and not reason:
        return CapturedRunner(runner, kept)
    if not kept.failed:
        _warn(reason, stacklevel=4)
        kept.failed = True
    return runner


def _warn(reason: str, stacklevel: int) -> None:
    warnings.warn(f"this run is not captured, each call is launched by itself: {reason}", stacklevel=stacklevel)


def _first(error: BaseException, outer: BaseException | None) -> str:
    """What began it, in a line: the end of a capture that failed raises an error of its own."""
    while error.__context__ not in (None, outer):
        error = error.__context__
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


# -- the conditioning: tensors, and mappings and lists of them, in memory of their own --------------------------------


def _still(value: Any) -> Any:
    return each(value, lambda one: one.clone() if isinstance(one, Tensor) else one)


def _alike(still: Any, new: Any) -> bool:
    """Whether they differ in values of tensors at most."""
    if isinstance(still, Tensor) and isinstance(new, Tensor):
        return (still.shape, still.dtype, still.device) == (new.shape, new.dtype, new.device)
    if isinstance(still, dict) and isinstance(new, dict):
        return still.keys() == new.keys() and all(_alike(one, new[name]) for name, one in still.items())
    if isinstance(still, list | tuple) and type(still) is type(new):
        return len(still) == len(new) and all(map(_alike, still, new))
    return still is new or (isinstance(still, str | int | float) and type(still) is type(new) and still == new)


def _adopt(still: Any, new: Any) -> None:
    each(still, lambda one, its: one.copy_(its) if isinstance(one, Tensor) else None, new)
