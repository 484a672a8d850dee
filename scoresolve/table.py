"""A fixed-grid solver is a table: one row of numbers for each network call, and one loop that runs any of them.

What a row says is in ``row.py``. Multistep methods do their work in ``commit``; Runge-Kutta stages are ``propose``,
and the last stage commits. The number of network calls is the number of rows. The numbers are made once, on the host,
in float64.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
from torch import Tensor

from .durable import write_file
from .errors import require
from .loop import Loop
from .model import ScoreModel
from .noise import NoiseSource
from .predictions import Prediction
from .reading import as_number, parse_json, read_file
from .row import IDENTITY, Row
from .sde import SDE

Stats: TypeAlias = dict[str, Any]
AfterStep: TypeAlias = Callable[[int, float, Tensor], Tensor]
"""``after_step(step, time, x) -> x``: called when the base state has reached the end of a step."""


def only_shown(after_step: AfterStep, step: int, t: float, x: Tensor, run: str) -> None:
    """Let ``after_step`` see a state that it cannot change. Raises: ValueError if it does, naming the run."""
    if after_step(step, t, x) is not x:
        raise ValueError(f"a callback cannot change the state of {run}: return None")


_FORMAT = "scoresolve table 2"
_CLAIMS = ("data", "noise", "flow", "velocity")


@dataclass(frozen=True)
class Table:
    """The rows of a solver on a grid, for one path. Printable, and saved as JSON.

    Attributes:
        rows: one for each network call.
        predicts: what the outputs m are: "data", "noise", "velocity", ...
        start: the time at which it starts.
        solver, path, options: where it comes from, for people and for checks.
        exact_on: "data", "noise", "flow" or "velocity" if every step is exact where that prediction is constant, "" if
            no such claim is made; the claim is checked by :meth:`verify`.

    Raises: ValueError for weights that are not finite, refer to outputs not yet made, or times out of place.

    >>> import scoresolve as ss
    >>> rows = (ss.Row(t=1.0, s=0.5, commit=(1.0, -0.5)), ss.Row(t=0.5, s=0.0, commit=(1.0, -0.75, 0.25)))
    >>> table = ss.Table(rows, predicts="velocity", start=1.0, solver="two_step")
    >>> print(table)
    two_step on a path: 2 calls, deterministic, m = velocity
    call          t       -> s  weights
       0          1        0.5  x <- +1 x -0.5 m0
       1        0.5          0  x <- +1 x -0.75 m0 +0.25 m1
    >>> ss.Table.from_json(table.to_json()) == table
    True
    """

    rows: tuple[Row, ...]
    predicts: Prediction
    start: float
    solver: str = ""
    path: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    exact_on: str = ""

    def __post_init__(self) -> None:
        require(len(self.rows) > 0, "a table of at least one row")
        require(self.predicts in get_args(Prediction), f"predicts to be one of {get_args(Prediction)}")
        require(self.exact_on in ("", *_CLAIMS), f"exact_on to be one of {_CLAIMS} or '', got {self.exact_on!r}")
        require(math.isfinite(self.start), f"a finite start, got {self.start}")
        require(isinstance(self.options, Mapping), f"options by their names, got {self.options!r}")
        require(isinstance(self.solver, str) and isinstance(self.path, str), "solver and path to be strings")
        drawn, most = list[bool](), max(row.normals for row in self.rows)
        for number, row in enumerate(self.rows):
            drawn = [row.draws, *drawn[: most - 1]] if row.normals else drawn
            problem = row.problem(number, drawn)
            if problem:
                raise ValueError(f"expected {problem} in row {number} of {self.solver or 'the table'}, got {row}")
            size = sum(map(abs, (*row.commit, *row.propose)))
            if size > 1e3:
                warnings.warn(f"{self.solver}: the weights of row {number} sum to {size:.3g}", stacklevel=3)
        require(self.rows[-1].s is not None, "the last row to complete a step")
        require(self.rows[-1].propose == IDENTITY, "the last row to propose nothing")

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        times: np.ndarray,
        sde: SDE,
        solver: str,
        *,
        predicts: Prediction = "data",
        options: Mapping[str, object] | None = None,
        exact_on: str = "",
    ) -> Table:
        """The table of a builder: its rows on a grid and a path, with the solver's name and the options not None."""
        said = {name: value for name, value in (options or {}).items() if value is not None}
        return cls(tuple(rows), predicts, float(times[0]), solver, repr(sde), said, exact_on)

    # -- facts ------------------------------------------------------------------------------------------------

    @property
    def nfe(self) -> int:
        """Network calls of a run."""
        return len(self.rows)

    @property
    def times(self) -> np.ndarray:
        """The times at which the base state stands: the start, and the end of each step."""
        return np.array([self.start, *(row.s for row in self.rows if row.s is not None)])

    @property
    def asked(self) -> list[Prediction]:
        """What the output of each row is."""
        return [row.asks or self.predicts for row in self.rows]

    @property
    def history(self) -> int:
        """How many outputs must be kept."""
        return max(1, *(row.outputs for row in self.rows))

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return any(row.draws for row in self.rows)

    @property
    def one_step(self) -> bool:
        """Whether no step uses an output of an earlier one, nor proposes a point other than its own end."""
        fresh = 0
        for row in self.rows:
            fresh += 1
            if row.outputs > fresh:
                return False
            if row.s is not None:
                fresh = 0
                if row.propose != IDENTITY:
                    return False
        return True

    def verify(self, sde: SDE) -> Table:
        """Check the claim ``exact_on`` on a path, step by step to 1e-9; returns the table itself.

        A step from t to s that is exact for a constant data prediction D must take ``alpha_t D`` to ``alpha_s D``; for
        a constant noise or flow prediction (of data zero) ``sigma_t eps`` to ``sigma_s eps``; for a constant
        velocity x to ``x + (s - t) velocity``. Raises: ValueError.
        """
        if not self.exact_on:
            return self
        times, step = self.times, 0
        sigma = sde.sigma(times)
        solution = {"data": sde.alpha(times), "noise": sigma, "flow": sigma, "velocity": times - times[0]}
        for number, row in enumerate(self.rows):
            if row.s is None:
                continue
            claim = row.asks or self.exact_on
            truth, scale = solution[claim], max(1.0, abs(row.commit[0]))
            error = row.commit[0] * truth[step] + sum(row.commit[1:]) - truth[step + 1]
            if claim == "velocity":
                error += abs(row.commit[0] - 1)
            require(abs(error) < 1e-9 * scale, f"row {number} to be exact for constant {claim}, off by {error:.3g}")
            step += 1
        return self

    # -- the loop ---------------------------------------------------------------------------------------------

    def run(
        self, model: ScoreModel, x: Tensor, noise: NoiseSource, after_step: AfterStep | None = None
    ) -> tuple[Tensor, Stats]:
        """Take the state from the first time to the last. Cost: ``nfe`` network calls, and history outputs of memory.

        Args: x of shape (batch, ...), at time ``times[0]``; noise is asked for draw ``number of the row``;
        ``after_step(step, time, x)`` may return a changed state. Returns the state at ``times[-1]`` and no statistics.
        """
        return Loop(self, model, x, noise)(x, after_step), {}

    # -- printing and JSON ------------------------------------------------------------------------------------

    def __str__(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        kind = "stochastic" if self.stochastic else "deterministic"
        name = f"{self.solver or 'table'}{options} on {self.path or 'a path'}"
        head = f"{name}: {self.nfe} calls, {kind}, m = {self.predicts}"
        lines = [head, f"{'call':>4} {'t':>10} {'-> s':>10}  weights"]
        for number, row in enumerate(self.rows):
            reached = "" if row.s is None else f"{row.s:.6g}"
            lines.append(f"{number:>4} {row.t:>10.6g} {reached:>10}  {row.formulas()}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The table as JSON text (numbers to the last bit)."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Table:
        """A table from its JSON text. Raises: ValueError if the text is not one of a valid table."""
        return cls._read(text, "the text")

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, so that the file is whole or as it was. Raises: ValueError, OSError."""
        write_file(Path(path), f"{self.to_json()}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Read a table that :meth:`save` wrote; data only, nothing is executed. Raises: ValueError, OSError."""
        return cls._read(read_file(path), str(path))

    @classmethod
    def _read(cls, text: str | bytes, name: str) -> Table:
        try:
            content = parse_json(text)
            require(isinstance(content, dict) and content.pop("format", None) == _FORMAT, f"{_FORMAT!r} in JSON")
            rows = tuple(Row.from_content(row) for row in content.pop("rows"))
            return cls(rows=rows, **{**content, "start": as_number(content["start"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"expected the JSON of a table, as Table.save writes it, in {name}: {error}") from error
