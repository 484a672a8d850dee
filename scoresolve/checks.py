"""What was looked at, and how it is told: shared by ``doctor``, of networks, and ``conform``, of samplers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes: name; status, "ok", "warn" (something will not work, or not well), "fail" (samples will be wrong) or
    "skip" (could not be looked at); found, what was seen; advice, what to write instead.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """Checks in the order in which they were made; print it.

    Attributes: checks; nfe, network calls.
    """

    checks: tuple[Check, ...]
    nfe: int

    @property
    def ok(self) -> bool:
        """Whether nothing failed; there may be warnings."""
        return all(check.status != "fail" for check in self.checks)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to write instead, of every check that failed or warns."""
        return tuple(check.advice for check in self.checks if check.advice and check.status in ("fail", "warn"))

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"ok": self.ok, "nfe": self.nfe, "checks": [vars(check) for check in self.checks]}

    def to_json(self) -> str:
        """As JSON; NaN and infinity, which it has not, are null."""
        return json.dumps(finite(self.as_dict()), indent=1)

    def __str__(self) -> str:
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:4}  {check.name:18} {check.found}")
            if check.advice and check.status in ("fail", "warn"):
                lines.append(f"{'':24} -> {check.advice}")
        return "\n".join(
            [*lines, f"{'no fault found' if self.ok else 'something is wrong'} ({self.nfe} network calls)"]
        )


def finite(value: Any) -> Any:
    """The same with numbers that JSON has not as None."""
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
