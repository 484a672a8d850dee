"""Which solver, on which grid, at which number of network calls, for *this* network: ``advise``.

The same starts for all, their ends under the converged flow of the network itself as the truth, and at every number of
calls: every published deterministic solver on every grid, tried on a few starts; the best of them on all; and the
table that ``tune`` finds. What was measured is kept in a folder, so that a run that is stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .advice_files import Record
from .errors import call_counts, real_number, require, whole_number
from .grids import GRIDS
from .identity import describe_model
from .model import ScoreModel
from .registry import SolverInfo, solvers
from .starting import check_ends, check_model, check_shape
from .table import Table
from .tuning import facts_of, labels_of, table_of
from .tuning.candidates import Candidate, Trial, published, tried
from .tuning.lesson import Asked, prepare
from .tuning.lifting import lift
from .tuning.search import Purse, Task, grown, search
from .tuning.shooting import Starts, themselves

NFE = (4, 5, 6, 8, 10, 12, 16, 20)
MOST_TUNED = 12
"""Calls beyond which a search takes long and brings little."""
FEW, KEPT = 32, 8
"""Starts that every solver is tried on, and how many solvers are then measured on all."""


@dataclass(frozen=True)
class Choice:
    """A solver that was measured: its root mean square and its median error over the held-out starts."""

    nfe: int
    solver: str
    grid: str
    rmse: float
    median: float

    @property
    def tuned(self) -> bool:
        """Whether it was made for this network."""
        return self.solver == "tuned"

    def __str__(self) -> str:
        return "the tuned table" if self.tuned else f"{self.solver}, grid {self.grid}"


@dataclass(frozen=True)
class Advice:
    """What to use at each number of network calls.

    Attributes:
        choices: everything measured on all held-out starts.
        tables: the tuned ones, by their number of calls.
        facts: what was measured on: shape, seed, number of starts, the teacher's calls and accuracy.
        complete: whether there was time for everything.
    """

    choices: tuple[Choice, ...]
    tables: dict[int, Table]
    facts: dict[str, Any]
    complete: bool = True

    @property
    def nfe(self) -> list[int]:
        """The numbers of calls that something was measured at."""
        return sorted({choice.nfe for choice in self.choices})

    def best(self, nfe: int, *, tuned: bool = True) -> Choice:
        """The solver of the smallest error at a number of calls; ``tuned=False``: of the published ones.

        Raises: ValueError if nothing was measured there.
        """
        found = [one for one in self.choices if one.nfe == nfe and (tuned or not one.tuned)]
        require(bool(found), f"one of the numbers of calls that were measured, {self.nfe}, got nfe={nfe}")
        return min(found, key=lambda one: one.rmse)

    def use(self, nfe: int) -> dict[str, Any]:
        """The arguments of ``ss.sample`` for the best solver at a number of calls."""
        best = self.best(nfe)
        return {"solver": self.tables[nfe]} if best.tuned else {"solver": best.solver, "grid": best.grid, "nfe": nfe}

    def sentences(self) -> list[str]:
        """What to do, a line for each number of calls."""
        lines = []
        for nfe in self.nfe:
            best, plain = self.best(nfe), self.best(nfe, tuned=False)
            beside = f", {best.rmse / plain.rmse:.2f} of {plain}" if best.tuned else ""
            lines.append(f"at {nfe} calls use {best}: error {best.rmse:.3g}{beside}")
        return lines

    def __str__(self) -> str:
        lines = [f"{'calls':>5}  {'published':<34} {'error':>9} {'median':>9}   {'tuned':>9} {'median':>9}  ratio"]
        for nfe in self.nfe:
            plain, best = self.best(nfe, tuned=False), self.best(nfe)
            line = f"{nfe:>5}  {plain!s:<34} {plain.rmse:>9.3g} {plain.median:>9.3g}"
            tuned = f"   {best.rmse:>9.3g} {best.median:>9.3g}  {best.rmse / plain.rmse:.2f}" if best.tuned else ""
            lines.append(line + tuned)
        lines += ["", *self.sentences()]
        if not self.complete:
            lines += ["", "There was not time enough for everything: run the same again to go on."]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: facts, choices, and what to do."""
        return {
            "facts": self.facts,
            "complete": self.complete,
            "choices": [asdict(choice) for choice in self.choices],
            "advice": {str(nfe): asdict(self.best(nfe)) for nfe in self.nfe},
        }


def advise(
    model: ScoreModel,
    shape: Sequence[int],
    *,
    nfe: int | Sequence[int] = NFE,
    minutes: float = 15.0,
    seed: int = 0,
    starts: int | None = None,
    held_out: int | None = None,
    tuned: bool = True,
    out: str | Path | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Advice:
    """Which solver at which number of network calls, measured on this network.

    Args:
        model: the network with its process.
        shape: of one sample, (3, 32, 32).
        nfe: the number of network calls to advise on, or several.
        minutes: how long it may take, the converged solution apart: that comes first, and all else needs it. Published
            solvers come next, and tuned tables take what is left.
        seed, starts, held_out, t_min, t_max, batch_size, dtype, device: as in :func:`tune`.
        tuned: whether to tune a table for each number of calls up to 12.
        out: a folder for ``plan.json`` and the tuned tables. What it holds of the same request is not measured again.
        progress: show a progress bar.

    Returns: an :class:`Advice`, to be printed; ``advice.use(8)`` are the arguments of ``ss.sample`` at 8 calls.

    Raises: ValueError for arguments that make no sense, or a folder that holds the plan of another request.

    Cost: as much as fits into the time; the converged solution 192 or more calls on all starts.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.01]))).model(ss.VPSDE())
    >>> advice = ss.advise(model, (2,), nfe=[4], minutes=0.2, starts=128, held_out=64)
    >>> ss.sample(model, shape=(3, 2), seed=0, **advice.use(4)).nfe
    4
    """
    check_model(model)
    counts = call_counts(nfe)
    require(real_number("minutes", minutes) > 0, f"minutes > 0, got {minutes}")
    sizes, starts = check_shape(shape), None if starts is None else whole_number("starts", starts)
    asked = Asked(sizes, seed, starts, held_out, check_ends(model, t_min, t_max), batch_size, dtype, device)
    asked.counts()
    record = Record.open(out, {**describe_model(model), **asdict(asked), "dtype": str(dtype), "device": str(device)})
    lesson = prepare(model, asked, min(counts[-1], MOST_TUNED), taught=record.taught())
    record.keep_taught(lesson.taught)
    purse = Purse(seconds=60 * minutes)
    task = Task(lesson, themselves, False, asked.ends, labels_of(model, asked.ends), published(False), purse)
    facts = {**facts_of(model, asked, lesson), "teacher_calls": lesson.taught.calls}
    with tqdm(total=60 * minutes, unit="s", disable=not progress, bar_format=_BAR) as bar:
        study = _Study(task, record, facts, bar)
        done = [study.survey(count) for count in counts]
        if tuned:
            done += [study.tune(count, left) for left, count in _countdown(counts)]
    choices = [Choice(**one) for count in counts for one in record.choices(count)]
    tables = {count: table for count in counts if (table := record.table(count)) is not None}
    advice = Advice(tuple(choices), tables, facts, all(done))
    record.keep_advice(advice.as_dict())
    return advice


_BAR = "{desc}: {n:.0f}/{total:.0f} s |{bar}|"


def _countdown(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(how many are left, count) for the numbers of calls that are tuned."""
    chosen = [count for count in counts if count <= MOST_TUNED]
    return list(zip(range(len(chosen), 0, -1), chosen, strict=True))


class _Study:
    """The measurements of a request, one after the other, as long as there is time."""

    def __init__(self, task: Task, record: Record, facts: dict[str, Any], bar: Any) -> None:
        self._task, self._record, self._facts, self._bar = task, record, facts, bar
        everything = [(info.name, grid) for info in solvers() if _simple(info) for grid in GRIDS]
        self._candidates = list(dict.fromkeys([*task.candidates, *everything]))  # the usual winners first

    def _tick(self, what: str = "") -> bool:
        purse = self._task.purse
        if what:
            self._bar.set_description(what, refresh=False)
        self._bar.update(min(time.monotonic() - purse.began, self._bar.total) - self._bar.n)
        return purse.open()

    def survey(self, count: int) -> bool:
        """Try the published solvers at a number of calls, and measure the best; returns whether all were tried.

        They may take 40 % of the time in all.
        """
        if self._record.surveyed(count):
            return True
        held = self._task.lesson.held_out
        few = held.take(torch.arange(min(FEW, len(held.x)), device=held.x.device))
        share = 0.4 * (self._task.purse.seconds or 0.0)
        found: list[Trial] = []
        complete = True
        for candidate in self._candidates:
            late = time.monotonic() - self._task.purse.began > share
            if not self._tick(f"published solvers, {count} calls") or (late and len(found) >= KEPT):
                complete = False
                break
            found += self._tried([candidate], count, few)
        best = sorted(found, key=lambda trial: trial.error)[:KEPT]
        measured = self._tried([trial.candidate for trial in best], count, held)
        lines = [asdict(Choice(count, *trial.candidate, trial.error, trial.median)) for trial in measured]
        self._record.keep_survey(count, lines, complete=complete)
        return complete

    def _tried(self, candidates: Sequence[Candidate], count: int, starts: Starts) -> list[Trial]:
        task = self._task
        rows = torch.arange(len(starts.x), device=starts.x.device)
        return tried(
            task.lesson.models[1].take(rows, len(task.lesson.held_out.x)), candidates, count, starts, task.features,
            laws=False, ends=task.ends, batch_size=task.lesson.size,
        )  # fmt: skip

    def tune(self, count: int, left: int) -> bool:
        """Search for a table, with a fair share of the time that is left; returns whether it was long enough."""
        if self._record.finished(count):
            return True
        if not self._tick(f"tuning {count} calls"):
            return False
        whole, sde, labels = self._task.purse, self._task.lesson.models[0].sde, self._task.labels
        rest = (whole.seconds or 0.0) - (time.monotonic() - whole.began)
        task = replace(self._task, purse=Purse(seconds=rest / left))
        before, fewer = self._record.table(count), map(self._record.table, range(count - 1, 0, -1))
        more = [] if before is None else [lift(before, sde, labels)]
        more += next((grown(lift(table, sde, labels), count) for table in fewer if table is not None), [])
        found = search(task, count, more, self._tick)
        finished = task.purse.open()
        if found.student is not None:
            table = table_of(found, {**self._facts, "network_rows": task.purse.spent})
            choice = Choice(count, "tuned", "its own", found.error, found.median)
            self._record.keep_table(count, table, asdict(choice), finished=finished)
        return finished


def _simple(info: SolverInfo) -> bool:
    return info.kind == "ode" and not info.adaptive
