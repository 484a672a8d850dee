"""How a run ended for each sample: which failed, where, and after how many network calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from .errors import BudgetError, NonFiniteError, ScoreSolveError, StepUnderflowError


class Status(StrEnum):
    """How the run of one sample ended."""

    OK = "ok"
    MAX_NFE = "max_nfe"
    NONFINITE = "nonfinite"
    STEP_UNDERFLOW = "step_underflow"


CODES = tuple(Status)
"""The order in which a tensor of codes numbers them: 0 is ok."""
OK, MAX_NFE, NONFINITE, STEP_UNDERFLOW = range(len(CODES))

_ERRORS: dict[Status, type[ScoreSolveError]] = {
    Status.MAX_NFE: BudgetError,
    Status.NONFINITE: NonFiniteError,
    Status.STEP_UNDERFLOW: StepUnderflowError,
}
_ADVICE = {
    Status.MAX_NFE: "raise nfe=, or loosen rtol= and atol=",
    Status.NONFINITE: "check the network at that time, its time label and its prediction type",
    Status.STEP_UNDERFLOW: "loosen rtol= and atol=, compute in dtype=torch.float64, or keep away from the ends with "
    "t_min= and t_max=",
}


@dataclass(frozen=True)
class Failure:
    """One sample that did not arrive. Attributes: sample (its row), status, time (where it stood), nfe (its calls)."""

    sample: int
    status: Status
    time: float
    nfe: int

    def __str__(self) -> str:
        return f"sample {self.sample}: {self.status} at t = {self.time:.6g} after {self.nfe} calls"


@dataclass(frozen=True)
class Outcome:
    """How each sample ended, on the host.

    Attributes: codes (int64, index into ``CODES``), times (float64, where the sample stood last), nfe (int64, the
    network calls that it took part in); each of shape (batch,).
    """

    codes: Tensor
    times: Tensor
    nfe: Tensor

    @property
    def ok(self) -> Tensor:
        """Which samples arrived, bool (batch,)."""
        return self.codes == OK

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The samples that did not."""
        rows = self.codes.nonzero().flatten().tolist()
        found = zip(rows, self.codes[rows].tolist(), self.times[rows].tolist(), self.nfe[rows].tolist(), strict=True)
        return tuple(Failure(row, CODES[code], time, nfe) for row, code, time, nfe in found)

    def require_ok(self) -> None:
        """Raise BudgetError, NonFiniteError or StepUnderflowError, as the first failure has it, unless all arrived."""
        failures = self.failures
        if not failures:
            return
        status, batch = failures[0].status, len(self.codes)
        shown = "; ".join(map(str, failures[:4])) + ("; ..." if len(failures) > 4 else "")
        raise _ERRORS[status](
            f"{len(failures)} of {batch} samples did not arrive ({shown}): {_ADVICE[status]}"
            + ("; on_error='mask' returns the others" if len(failures) < batch else "")
        )

    def with_end(self, final: Tensor, end: float) -> Outcome:
        """The same, but that samples which arrived with a state that is not finite have failed, at time ``end``."""
        finite = torch.isfinite(final.detach().reshape(len(final), -1)).all(dim=1).cpu()
        lost = self.ok & ~finite
        return replace(self, codes=torch.where(lost, NONFINITE, self.codes), times=torch.where(lost, end, self.times))

    @classmethod
    def join(cls, parts: Sequence[Outcome]) -> Outcome:
        """Of the samples of all parts, in their order."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "times", "nfe")))

    @classmethod
    def of_calls(cls, batch: int, calls: int, end: float, failed_at: Tensor) -> Outcome:
        """Of a run whose samples went together: ``failed_at`` (batch,) is the time of the first failure, or NaN."""
        failed = ~torch.isnan(failed_at)
        codes = torch.where(failed, NONFINITE, OK)
        return cls(codes, torch.where(failed, failed_at, end), torch.full((batch,), calls, device="cpu"))


class Ended:
    """What results say of the samples they are of; a base of those that have an ``outcome``."""

    outcome: Outcome

    @property
    def ok(self) -> Tensor:
        """Which samples arrived, bool (batch,) on the host; all do unless ``on_error="mask"`` was asked for."""
        return self.outcome.ok

    @property
    def status(self) -> tuple[Status, ...]:
        """How each sample ended: "ok", "max_nfe", "nonfinite" or "step_underflow"."""
        return tuple(CODES[code] for code in self.outcome.codes.tolist())

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The samples that did not arrive, each with its status, the time where it stood and its network calls."""
        return self.outcome.failures

    @property
    def nfe_per_sample(self) -> Tensor:
        """The network calls that each sample took part in, int64 (batch,) on the host."""
        return self.outcome.nfe
