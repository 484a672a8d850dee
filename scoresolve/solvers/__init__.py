"""The solvers; importing this package registers them all. One file for each derivation."""

from . import (
    adams,
    adaptive,
    adaptive_flow,
    adaptive_sde,
    ancestral,
    dpm_solver_v3,
    euler_maruyama,
    exponential,
    langevin,
    restart,
    runge_kutta,
    sa,
    single,
    srk,
    unipc,
)

__all__ = [
    "adams",
    "adaptive",
    "adaptive_flow",
    "adaptive_sde",
    "ancestral",
    "dpm_solver_v3",
    "euler_maruyama",
    "exponential",
    "langevin",
    "restart",
    "runge_kutta",
    "sa",
    "single",
    "srk",
    "unipc",
]
