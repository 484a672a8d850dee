r"""Adams-Bashforth methods on the probability flow, in rho, log rho and t.

With x scaled by alpha the flow is ``d(x/alpha)/d rho = eps``; as it stands it is ``dx/dt = velocity``. An
Adams-Bashforth method integrates the polynomial through the last outputs (``multistep.py``). What differs is the clock
u the polynomial lives in, and the variable of the integral:

    name              output    polynomial in    weights
    deis_tab*         noise     t                exact integral against d rho (DEIS t-AB)
    deis_log_rho*     noise     log rho          exact integral against d rho (as in diffusers' DEIS)
    lms*              noise     rho              exact: the linear multistep method of k-diffusion, DEIS rho-AB
    ipndm*, pndm      noise     rho              those of equal steps, on any steps
    ipndm_v*          noise     rho              those of variable steps as published, wrong from the third on
    velocity_ab*      velocity  t or u           exact; u = sigma / (alpha + sigma), the clock of the rectified flow
    flow_abm_*        eps - D   u                exact, with the Adams-Moulton corrector (UniC) at no network call

In u the slope ``eps - D`` of ``x/(alpha + sigma)`` is bounded from pure noise to data, and both ends are finite: with a
corrector this is the most accurate family of those measured, at nearly every number of calls (``docs/choosing.md``).

Equal-step weights are wrong by O(h^2) a step wherever the steps change, so iPNDM and PNDM are of order 2 on a smoothly
graded grid (1 on a rough one), whatever their number of outputs; they are nevertheless hard to beat at 4 to 10 calls.
The exact variable-step weights are ``lms``.

Published iPNDM_v (diff-sampler) misplaces a parenthesis: with h, h', h'' the last steps its third-order term is
``(1 - a b)/2`` in place of ``(1 - a) b / 2`` (a = h / (3 (h + h')), b = h (h + h') / (h' (h' + h''))).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from ..errors import require
from ..forms import Clock, Form, flow_form, noise_form, velocity_form
from ..multistep import RULES, Multistep, Start, adams, exact
from ..registry import solver
from ..sde import SDE, Point
from ..single_step import FOUR_STAGE, HEUN, Scheme
from ..table import Table
from .families import Correction, counted, multistep_solver, multistep_table, table_of

DEIS = "Zhang and Chen 2023, arXiv:2204.13902"
PNDM = "Liu et al. 2022, arXiv:2202.09778"


def ipndm_v(form: Form, nodes: Sequence[Point], here: Point, there: Point) -> np.ndarray:
    """The variable-step weights as published."""
    if len(nodes) < 3:
        return exact(form, nodes, here, there)
    places = [form.place(there), *(form.place(node) for node in nodes)]
    h, h1, h2 = (a - b for a, b in list(pairwise(places))[:3])
    third = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2
    weights = [1 + h / h1 / 2 + third, -h / h1 / 2 - (1 + h1 / h2) * third, third * h1 / h2]
    if len(nodes) == 4:
        h3 = places[3] - places[4]
        fourth = (1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
        fourth *= h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
        far = h1 * (h1 + h2) / (h2 * (h2 + h3))
        weights[0] += fourth
        weights[1] -= (1 + h1 / h2 + far) * fourth
        weights[2] += (h1 / h2 + far * (1 + h2 / h3)) * fourth
        weights.append(-fourth * far * h1 / h2)
    return form.step(here, there)[1] * np.array(weights)


RULES["ipndm_v"] = ipndm_v
_OPENINGS: dict[str, tuple[Scheme, ...]] = {"heun": (HEUN,), "runge_kutta": (FOUR_STAGE,) * 3, "low": ()}


def _noise_in(clock: Clock) -> Callable[[SDE], Form]:
    return lambda sde: noise_form(sde, clock=clock)


for _n in (1, 2, 3):
    multistep_solver(
        f"deis_tab{_n}", f"DEIS t-AB{_n}: the noise through {counted(_n + 1)} in t, integrated exactly.",
        _noise_in("t"), outputs=_n + 1, order=_n + 1, reference=f"{DEIS}, eq. 15",
    )  # fmt: skip
for _n in (1, 2, 3):
    multistep_solver(
        f"deis_log_rho{_n}", f"DEIS in log rho: the noise through {counted(_n + 1)}, integrated exactly.", noise_form,
        outputs=_n + 1, order=_n + 1, reference=f"{DEIS}; the variant of diffusers",
    )  # fmt: skip
for _n in (1, 2, 3, 4):
    multistep_solver(
        f"lms_{_n}", f"Linear multistep in rho through {counted(_n)}: Adams-Bashforth of variable steps.",
        _noise_in("rho"), outputs=_n, order=_n, reference=f"Crowson 2022, k-diffusion; {DEIS} (rho-AB)",
    )  # fmt: skip
for _n in (1, 2, 3, 4):
    multistep_solver(
        f"ipndm_{_n}", f"iPNDM-{_n}: {counted(_n)} of noise in rho with the Adams weights of equal steps.",
        _noise_in("rho"), outputs=_n, order=min(_n, 2), weights="adams", reference=f"{DEIS}, app. H.2; {PNDM}",
    )  # fmt: skip
for _n, _order in ((1, 1), (2, 2), (3, 3), (4, 2)):
    multistep_solver(
        f"ipndm_v_{_n}", f"iPNDM_v-{_n}: {counted(_n)} of noise in rho, variable-step weights as published.",
        _noise_in("rho"), outputs=_n, order=_order, weights="ipndm_v", reference="Zhou et al. 2024, arXiv:2312.00094",
    )  # fmt: skip


def _register_velocity(outputs: int) -> None:
    name = f"velocity_ab{outputs}"

    def build(
        sde: SDE,
        times: np.ndarray,
        *,
        clock: Literal["flow", "t"] = "flow",
        start: Start = "low",
        lower_order_final: bool | None = None,
        unic: Correction | None = None,
    ) -> Table:
        require(clock in ("flow", "t"), f'clock="flow" or "t", got {clock!r}')
        form = flow_form(sde) if clock == "flow" else velocity_form(sde)
        said = {"clock": clock, "start": start, "lower_order_final": lower_order_final, "unic": unic}
        return multistep_table(name, form, times, outputs, "exact", start, lower_order_final, unic, said)

    build.__doc__ = f"""Adams-Bashforth on the velocity through {counted(outputs)}.

    clock: "flow" (noise minus data, in sigma / (alpha + sigma), the same on every path) or "t" (the path's velocity).
    start, lower_order_final, unic: as in ``lms_{outputs}``.
    """
    solver(name, order=outputs, reference="Bashforth and Adams 1883; azula (vAB)")(build)


for _n in (2, 3, 4):
    _register_velocity(_n)


@solver("pndm", order=2, reference=f"{PNDM}, eq. 9 to 13", aliases=("plms",), spare=({"start": "low"},))
def pndm(
    sde: SDE,
    times: np.ndarray,
    *,
    start: Literal["heun", "runge_kutta", "low"] = "heun",
    lower_order_final: bool | None = None,
) -> Table:
    """PNDM: four outputs of noise with the Adams weights of equal steps (PLMS); of order 2.

    start: "runge_kutta" (the paper's three steps of four calls; the middle of a step is taken in rho, where the weights
    are of order 4), "heun" (one step of two calls, as in latent diffusion) or "low" (the order ramps up).
    lower_order_final: as in ``ipndm_4``.
    """
    require(start in _OPENINGS, f'start="heun", "runge_kutta" or "low", got {start!r}')
    form = noise_form(sde, clock="rho")
    method = Multistep(lambda _: form, 4, adams, lower_order_final=lower_order_final, opening=_OPENINGS[start])
    options = {"start": start, "lower_order_final": lower_order_final}
    return table_of("pndm", form, times, method.rows(sde, times), options)


for _n in (1, 2, 3, 4):
    multistep_solver(
        f"flow_abm_{_n}", f"Adams-Bashforth-Moulton on noise minus data through {counted(_n)}, in the flow's clock.",
        flow_form, outputs=_n, order=_n + 1, unic="exact",
        reference="Adams 1883; Moulton 1926; Zhao et al. 2023, arXiv:2302.04867 (UniC)",
    )  # fmt: skip
