"""Adaptive solvers of the probability flow with a step for each sample: Adams' methods and embedded pairs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..adams import Adams
from ..adaptive import AdaptiveFlow
from ..coordinates import Clock
from ..pairs import BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, ClassicalPair, ExponentialPair, Tableau
from ..registry import solver
from ..sde import SDE


@solver(
    "adaptive_abm", order=6, evaluations=1, adaptive=True,
    reference="Hairer, Noersett and Wanner 1993, sect. III.5-7; Adams 1883, Moulton 1926",
)  # fmt: skip
def adaptive_abm(
    sde: SDE, times: np.ndarray, *, rtol: float = 1e-3, atol: float = 1e-3, order: int = 5, clock: Clock = "log_flow",
    dense: bool = False,
) -> AdaptiveFlow:  # fmt: skip
    """Adaptive Adams-Bashforth-Moulton of variable order and step, one network call a step.

    order: the highest order of its predictor, 1 to 8. rtol, atol: local tolerances on x / (alpha + sigma), each sample
    for itself. clock: "log_flow", "flow", "log_rho"; or "rho" and "t", on which steps of very different lengths follow
    each other and its error can be 50 tolerances. dense: keep what ``solution.at(t)`` needs.
    """
    return AdaptiveFlow(times, rtol, atol, method=Adams(order, clock), dense=dense)


def _register(name: str, tableau: Tableau, title: str, reference: str) -> None:
    def build(
        sde: SDE, times: np.ndarray, *, rtol: float = 1e-3, atol: float = 1e-3, clock: Clock = "log_flow",
        dense: bool = False,
    ) -> AdaptiveFlow:  # fmt: skip
        return AdaptiveFlow(times, rtol, atol, method=ClassicalPair(tableau, clock), dense=dense)

    build.__doc__ = f"""{title}, each sample with its own steps.

    rtol, atol: local tolerances on x / (alpha + sigma). clock: "log_flow", "flow", "log_rho", "rho" or "t". dense:
    keep what ``solution.at(t)`` needs.
    """
    calls = len(tableau.places)
    solver(name, order=tableau.order, evaluations=calls, reference=reference, adaptive=True)(build)


_register("adaptive_dp5", DORMAND_PRINCE, "Adaptive Dormand-Prince 5(4)", "Dormand and Prince 1980")
_register("adaptive_tsit5", TSITOURAS, "Adaptive Tsitouras 5(4)", "Tsitouras 2011")
_register("adaptive_bs3", BOGACKI_SHAMPINE, "Adaptive Bogacki-Shampine 3(2)", "Bogacki and Shampine 1989")


def _register_exponential(name: str, order: Literal[2, 3]) -> None:
    def build(
        sde: SDE, times: np.ndarray, *, rtol: float = 1e-3, atol: float = 1e-3,
        prediction: Literal["data", "noise"] = "data", dense: bool = False,
    ) -> AdaptiveFlow:  # fmt: skip
        return AdaptiveFlow(times, rtol, atol, method=ExponentialPair(order, prediction), dense=dense)

    build.__doc__ = f"""Adaptive DPM-Solver-{order - 1}{order}: exponential pair in lam, each sample with its own steps.

    rtol, atol: local tolerances on x / (alpha + sigma). prediction: what is integrated, "data" or "noise". dense: keep
    what ``solution.at(t)`` needs.
    """
    reference = "Lu et al. 2022, arXiv:2206.00927, app. C"
    solver(name, order=order, evaluations=order, reference=reference, adaptive=True)(build)


_register_exponential("adaptive_dpm_12", 2)
_register_exponential("adaptive_dpm_23", 3)
