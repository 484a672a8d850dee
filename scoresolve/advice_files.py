"""What ``advise`` has measured, in a folder: so that a run that was stopped goes on, and others read what was found.

DIR/plan.json             the request, every measurement, and at the end the advice
DIR/ends.safetensors      the converged ends
DIR/tuned-8.json          the table tuned for 8 calls, for ``ss.Table.load``
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from .durable import make_folder, publish, sweep
from .errors import require
from .identity import describe
from .reading import fits, parse_arrays, parse_json
from .table import Table
from .tuning.teacher import Converged

_FORMAT = "scoresolve plan 1"
_CHOICE = {"nfe": int, "solver": str, "grid": str, "rmse": float, "median": float}
_FORMS: dict[str, Any] = {
    "format": str,
    "request": {str: object},
    "surveys": {str: {"complete": bool, "choices": [_CHOICE]}},
    "tuned": {str: {"finished": bool, "choice": _CHOICE}},
    "taught": {"gap": float, "calls": int, "rows": int},
}


class Record:
    """The measurements of a request, by number of calls; in memory alone if there is no folder."""

    def __init__(self, folder: Path | None, content: dict[str, Any]) -> None:
        self._folder, self._content = folder, content
        self._tables: dict[int, Table] = {}
        self._taught: Converged | None = None

    @classmethod
    def open(cls, folder: str | Path | None, request: Mapping[str, Any]) -> Record:
        """The record of a request, with what its folder holds. Raises: ValueError if that is of another request."""
        fresh = {"format": _FORMAT, "request": describe(request), "surveys": {}, "tuned": {}}
        if folder is None:
            return cls(None, fresh)
        path = Path(folder) / "plan.json"
        make_folder(path.parent)
        if not path.exists():
            return cls(path.parent, fresh)
        try:
            found = parse_json(path.read_bytes())
            known = isinstance(found, dict) and {*fresh} <= {*found} <= {*_FORMS, "advice"}
            require(known and found["format"] == _FORMAT, f"{_FORMAT!r}")
            wrong = [name for name, form in _FORMS.items() if name in found and not fits(found[name], form)]
            require(not wrong, f"what advise writes of {', '.join(wrong)}")
        except ValueError as error:
            raise ValueError(
                f"expected a plan of advise in {path}, got another file or a damaged one ({error}): "
                "choose another folder"
            ) from error
        differ = [name for name, value in fresh["request"].items() if found["request"].get(name) != value]
        require(
            not differ,
            f"the same request as that of {path}, which differs in {', '.join(differ)}: choose another folder",
        )
        return cls(path.parent, found)

    def taught(self) -> Converged | None:
        """The converged ends, if they are kept and whole."""
        if self._folder is None or "taught" not in self._content or not (self._folder / "ends.safetensors").exists():
            return self._taught
        try:
            ends = parse_arrays((self._folder / "ends.safetensors").read_bytes(), "safetensors")["ends"]
        except (ValueError, KeyError):
            return None
        return Converged(ends, **self._content["taught"])

    def keep_taught(self, taught: Converged) -> None:
        """Keep the converged ends, unless they are."""
        if self.taught() is not None:
            return
        self._taught = taught
        self._content["taught"] = {"gap": taught.gap, "calls": taught.calls, "rows": taught.rows}
        self._write({"ends.safetensors": save({"ends": taught.ends.contiguous().cpu()})})

    def surveyed(self, nfe: int) -> bool:
        """Whether every published solver was tried at a number of calls."""
        return bool(self._content["surveys"].get(str(nfe), {}).get("complete"))

    def keep_survey(self, nfe: int, choices: list[dict[str, Any]], *, complete: bool) -> None:
        """Keep the best published solvers at a number of calls."""
        self._content["surveys"][str(nfe)] = {"complete": complete, "choices": choices}
        self._write({})

    def choices(self, nfe: int) -> list[dict[str, Any]]:
        """Everything measured at a number of calls."""
        tuned = self._content["tuned"].get(str(nfe))
        return [*self._content["surveys"].get(str(nfe), {}).get("choices", []), *([tuned["choice"]] if tuned else [])]

    def finished(self, nfe: int) -> bool:
        """Whether the search for a table had the time that it needed."""
        return bool(self._content["tuned"].get(str(nfe), {}).get("finished"))

    def table(self, nfe: int) -> Table | None:
        """The table tuned for a number of calls."""
        if nfe not in self._tables and str(nfe) in self._content["tuned"]:
            assert self._folder is not None
            table = Table.load(self._folder / f"tuned-{nfe}.json")
            require(table.nfe == nfe, f"a table of {nfe} calls in {self._folder}/tuned-{nfe}.json, got {table.nfe}")
            self._tables[nfe] = table
        return self._tables.get(nfe)

    def keep_table(self, nfe: int, table: Table, choice: dict[str, Any], *, finished: bool) -> None:
        """Keep a tuned table."""
        self._tables[nfe] = table
        self._content["tuned"][str(nfe)] = {"finished": finished, "choice": choice}
        self._write({f"tuned-{nfe}.json": f"{table.to_json()}\n".encode()})

    def keep_advice(self, advice: Mapping[str, Any]) -> None:
        """Keep what was concluded."""
        self._content["advice"] = advice
        self._write({})

    def _write(self, files: Mapping[str, bytes]) -> None:
        """The other files first: the plan says what is there."""
        if self._folder is None:
            return
        if files:
            publish({self._folder / name: content for name, content in files.items()}, self._folder, ".plan")
        content = json.dumps(self._content, indent=1)
        publish({self._folder / "plan.json": f"{content}\n".encode()}, self._folder, ".plan")
        sweep(self._folder, ".plan")
