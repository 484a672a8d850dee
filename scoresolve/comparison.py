"""``compare``: the error of solvers against the number of network calls, for one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .defaults import default_solver
from .errors import ScoreSolveError, call_counts, require
from .model import ScoreModel
from .presets import resolve
from .reference import Reference, converge
from .registry import get_solver
from .sampling import sample
from .starting import check_model, start_state

COMPARED = ("ddim", "dpmpp_2m", "unipc_3", "heun")
"""The solvers that are compared if none are named, beside the default one at each number of calls."""


@dataclass(frozen=True)
class Compared:
    """One run.

    Attributes: solver; nfe, network calls, counted; asked, the budget; error, the root mean square difference from the
    converged samples, over all elements; relative, the same over the standard deviation of these; failure, why there is
    no error (it is then NaN).
    """

    solver: str
    nfe: int
    asked: int
    error: float
    relative: float
    failure: str = ""


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes: rows, in the order of solvers, then budgets; reference, the converged samples and how far they may be
    trusted (``consistency``): errors below that are not told apart; nfe, network calls of everything.
    """

    rows: tuple[Compared, ...]
    reference: Reference
    nfe: int

    def best(self, asked: int) -> Compared:
        """The smallest error at a budget. Raises: ValueError if nothing ran there."""
        ran = [row for row in self.rows if row.asked == asked and not row.failure]
        require(bool(ran), f"a budget that was run, got {asked}")
        return min(ran, key=lambda row: row.error)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        found = self.reference
        return {
            "rows": [asdict(row) for row in self.rows],
            "reference": {"method": found.method, "consistency": found.consistency, "nfe": found.calls},
            "nfe": self.nfe,
        }


def compare(
    model: ScoreModel,
    shape: Sequence[int],
    *,
    solvers: Sequence[str] = (),
    nfe: int | Sequence[int] = (5, 10, 20, 40),
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    advance: Callable[[str], object] | None = None,
) -> Comparison:
    """Errors of solvers against network calls, from one noise, against the converged probability flow.

    The flow is integrated to 1e-6 (float32 networks: 1e-4) from the starts of all runs, and what is compared are end
    points, sample by sample: so only deterministic solvers can be. It says how well the *network's* flow is solved,
    not how good its samples are.

    Args:
        model: the network with its process, its conditioning and its guidance.
        shape: (batch, ...), as in :func:`sample`.
        solvers: names as :func:`sample` takes them; default ``COMPARED`` and the default one of each budget.
        nfe: budget, or several, each at least 1.
        seed, dtype, device: as in :func:`sample`.
        advance: called with a word about what comes next, before it.

    Returns: a :class:`Comparison`. Cost: the sum of the budgets for each solver, and 100 to some 1000 calls for the
    reference. Raises: ValueError before the network is called for a solver that draws noise, or an unknown one; a run
    that fails is a row with the reason.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.GaussianMixture([0.7, 0.3], [[-1.0], [1.0]], [0.05, 0.1])
    >>> found = ss.compare(law.model(ss.EDM()), (64, 1), solvers=["ddim", "heun"], nfe=[10, 40], dtype=torch.float64)
    >>> [(row.solver, row.nfe) for row in found.rows], found.best(40).solver
    ([('ddim', 10), ('ddim', 40), ('heun', 10), ('heun', 40)], 'heun')
    """
    check_model(model)
    budgets = call_counts(nfe)
    for name in solvers or COMPARED:
        require(
            get_solver(resolve(name).solver).kind == "ode",
            f"deterministic solvers, whose samples can be compared one by one; {name!r} draws noise",
        )
    unit, _, _ = start_state(model, shape, None, seed, None, None, None, dtype, device)
    start, before, tell = unit * model.sde.prior_std(model.t_max), model.nfe, advance or (lambda _: None)
    tell("reference")
    reference = converge(model, start)
    spread, rows = float(reference.ends.double().std()), []
    for name in solvers or ("", *COMPARED):
        for calls in budgets:
            solver = name or default_solver(calls)
            tell(f"{solver}, {calls} calls")
            rows.append(_row(model, start, solver, calls, reference.ends, spread))
    rows = list({(row.solver, row.asked): row for row in rows}.values())  # the default may be one of those compared
    return Comparison(tuple(rows), reference, model.nfe - before)


def _row(model: ScoreModel, start: Tensor, solver: str, calls: int, ends: Tensor, spread: float) -> Compared:
    try:
        found = sample(model, start=start, solver=solver, nfe=calls)
    except (ScoreSolveError, ValueError) as failure:
        return Compared(solver, 0, calls, math.nan, math.nan, str(failure))
    error = float((found.samples - ends).double().square().mean().sqrt())
    return Compared(solver, found.nfe, calls, error, error / spread if spread > 0 else math.nan)
