r"""UniPC: a multistep predictor (UniP) and a corrector (UniC) that reuses the next output, at no network call.

Both are the exponential multistep rule in lam (``multistep.py``): the predictor through p outputs, the corrector
through p + 1 with the output at the end of the step among them. Their linear systems ``R rho = b / B(h)`` ask that
polynomials of degree below the number of nodes are integrated exactly, and the factor B cancels: for three nodes and
more the weights are the exact ones whatever B is. Only where a system would have a single unknown is it replaced by
rho = 1/2, and there B decides, "bh1" with B = h and "bh2" with B = e^h - 1. Order p + 1 with its corrector.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import require
from ..forms import data_form, noise_form
from ..multistep import Start
from ..registry import solver
from ..sde import SDE
from ..table import Table
from .families import Correction, multistep_table


def _register(order: int) -> None:
    def build(
        sde: SDE,
        times: np.ndarray,
        *,
        variant: Correction = "bh2",
        predicts: Literal["data", "noise"] = "data",
        start: Start = "low",
        lower_order_final: bool | None = None,
        unic: bool = True,
    ) -> Table:
        require(predicts in ("data", "noise"), f'predicts="data" or "noise", got {predicts!r}')
        form = data_form(sde) if predicts == "data" else noise_form(sde)
        name, again = f"unipc_{order}", variant if unic else None
        ends = {"start": start, "lower_order_final": lower_order_final}
        said = {"variant": variant, "predicts": predicts, **ends, "unic": unic}
        return multistep_table(name, form, times, order, variant, start, lower_order_final, again, said)

    build.__doc__ = f"""UniPC-{order}: {order} output{"s" * (order > 1)} to predict, the next to correct.

    variant: "bh1", "bh2" or "exact" (they differ only where a step has two nodes). predicts: "data" or "noise".
    start: "low" (as published) or "high". lower_order_final: end at lower order; None: only where the last noise level
    is zero. unic: False leaves the predictor alone (UniP).
    """
    solver(f"unipc_{order}", order=order + 1, reference="Zhao et al. 2023, arXiv:2302.04867, alg. 1 and 2")(build)


for _order in (1, 2, 3, 4):
    _register(_order)
