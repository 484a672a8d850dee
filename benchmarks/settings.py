"""How one of our solvers is run: its name and options, written ``name`` or ``name:option=value,option=value``.

``default`` is what ``ss.sample`` does if no solver is named; it may be another solver at each budget.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import scoresolve as ss

DEFAULT = "default"
VARIANTS = (
    "dpmpp_2m:lower_order_final=True",
    "dpmpp_3m:lower_order_final=True",
    "unipc_2:lower_order_final=True",
    "unipc_3:lower_order_final=True",
    "deis_log_rho2:lower_order_final=True",
    "deis_tab2:lower_order_final=True",
    "velocity_ab3:lower_order_final=True",
    "exponential_3:start=low",
    "sa_solver:tau=0,predictor_order=2,corrector_order=2,weights=bh1,lower_order_final=True",
    "dpmpp_2m_sde:lower_order_final=True",
    "sa_solver:lower_order_final=True",
)
"""Options worth their own line beside other libraries, some of which set them unasked."""


@dataclass(frozen=True)
class Setting:
    """A solver with options.

    Attributes: label (how it was written), solver (None for the default), kind, grid (its own), adaptive, options.
    """

    label: str
    solver: str | None
    kind: Literal["ode", "sde"]
    grid: str
    adaptive: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_tolerance(self) -> bool:
        """Whether it is run over tolerances."""
        return self.solver is not None and "rtol" in ss.get_solver(self.solver).options


@cache
def setting(label: str) -> Setting:
    """The setting of that label. Raises: ValueError for a solver, TypeError for an option, that does not exist."""
    if label == DEFAULT:
        return Setting(label, None, "ode", "balanced")
    name, _, text = label.partition(":")
    info = ss.get_solver(name)
    options = {}
    for part in filter(None, text.split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{label!r}: expected option=value, got {part!r}")
        options[option] = _value(value)
    ss.registry.check_options(info, options)
    # what a solver adds no noise to is deterministic, whatever its kind by default
    kind = "ode" if options.get("tau") == 0 or options.get("eta") == 0 else info.kind
    return Setting(f"{info.name}:{text}" if text else info.name, info.name, kind, info.grid, info.adaptive, options)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
