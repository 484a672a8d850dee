"""The solvers; importing this package registers them all. One file for each derivation."""

from . import exponential, unipc, adams, runge_kutta, single, ancestral, euler_maruyama, sa, restart, srk, langevin, adaptive  # noqa: I001  the order of the tables

__all__ = [
    "adams",
    "adaptive",
    "ancestral",
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
