"""What the solvers of a family share: from a form and a rule to a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from ..errors import require
from ..forms import Form
from ..multistep import RULES, Corrector, Multistep, Start
from ..registry import solver
from ..row import Row
from ..sde import SDE
from ..single_step import Scheme, first_free, step_table_rows
from ..table import Table

Correction = Literal["exact", "bh1", "bh2"]
Weights = Literal["exact", "published", "bh1", "bh2", "adams", "ipndm_v"]
CORRECTIONS: tuple[str, ...] = get_args(Correction)


def counted(outputs: int) -> str:
    """ "1 output", "2 outputs", ..."""
    return f"{outputs} output{'s' * (outputs > 1)}"


def multistep_solver(
    name: str,
    summary: str,
    form: Callable[[SDE], Form],
    *,
    outputs: int,
    order: int,
    reference: str,
    weights: Weights = "exact",
    start: Start = "low",
    unic: Correction | None = None,
    aliases: tuple[str, ...] = (),
) -> None:
    """Register a deterministic multistep method: its form, how many outputs it uses and how it weighs them."""
    default, default_start, default_unic = weights, start, unic

    def build(
        sde: SDE,
        times: np.ndarray,
        *,
        weights: Weights = default,
        start: Start = default_start,
        lower_order_final: bool | None = None,
        unic: Correction | None = default_unic,
    ) -> Table:
        return multistep_table(name, form(sde), times, outputs, weights, start, lower_order_final, unic)

    build.__doc__ = f"""{summary}

    weights: "exact", "published", "bh1", "bh2" or "adams", how the polynomial through the outputs is integrated. start:
    "low" (the order ramps up) or "high" (first steps of full order). lower_order_final: True ends at lower order; None
    does so only where the last noise level is zero. unic: a corrector, "exact", "bh1" or "bh2", one order more; None.
    """
    # a start at full order costs more calls than steps: where the budget has no room for it the order ramps up
    spare = ({"start": "low"},) if start == "high" else ()
    solver(name, order=order, reference=reference, aliases=aliases, spare=spare)(build)


def multistep_table(
    name: str,
    form: Form,
    times: np.ndarray,
    order: int,
    weights: str,
    start: Start,
    lower_order_final: bool | None,
    unic: str | None = None,
    said: Mapping[str, object] | None = None,
    **options: object,
) -> Table:
    """The table of a multistep method of one form; ``weights`` and ``unic`` are names of ``RULES``.

    ``said`` replaces these options, and ``options`` adds to them, in the record of how the table was made.
    """
    require(weights in RULES, f"weights= to be one of {', '.join(RULES)}, got {weights!r}")
    require(unic is None or unic in CORRECTIONS, f"unic= to be one of {', '.join(CORRECTIONS)}, got {unic!r}")
    corrector = Corrector(RULES[unic], order + 1) if unic else None
    method = Multistep.started(lambda _: form, order, RULES[weights], corrector, start, lower_order_final)
    own = {"weights": weights, "start": start, "lower_order_final": lower_order_final, "unic": unic}
    rows = method.rows(form.sde, times)
    # these published weights do not sum to one where the steps grow unevenly
    exact_on = "" if weights == "ipndm_v" else form.exact_on
    return table_of(name, form, times, rows, {**options, **(own if said is None else said)}, exact_on)


def table_of(
    name: str,
    form: Form,
    times: np.ndarray,
    rows: Sequence[Row],
    options: Mapping[str, object],
    exact_on: str | None = None,
) -> Table:
    """The table of rows made of a form, with the form's claim of exactness or another."""
    claim = form.exact_on if exact_on is None else exact_on
    return Table.of(rows, times, form.sde, name, predicts=form.predicts, options=options, exact_on=claim)


def lower(schemes: Mapping[int, Scheme]) -> tuple[dict[str, int], ...]:
    """The options by which a single-step method meets any budget: fewer stages in its first step.

    At high noise the flow is nearly linear in rho and the data prediction nearly constant: a low order costs least
    there.
    """
    return tuple({"first": stages} for stages in sorted(schemes)[:-1])


def single_step_table(
    name: str, form: Form, times: np.ndarray, schemes: Mapping[int, Scheme], first: int | None, **options: object
) -> Table:
    """The table of a single-step method; ``first``: stages of the first step (default all).

    ``schemes`` holds the family's scheme for each number of stages; the largest is the method itself.
    """
    require(first is None or first in schemes, f"first= to be one of {sorted(schemes)}, got {first!r}")
    counts = [max(schemes)] * (len(times) - 1)
    begin = first_free(form.sde.points(times), form)
    counts[begin : begin + 1] = [first or max(schemes)] * len(counts[begin : begin + 1])
    rows = step_table_rows(form.sde, times, form, [schemes[count] for count in counts])
    return table_of(name, form, times, rows, {**options, "first": first})
