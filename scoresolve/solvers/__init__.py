"""The solvers; importing this package registers them all. One file for each derivation."""

from . import adaptive, ancestral, euler_maruyama, exponential, langevin, runge_kutta

__all__ = ["adaptive", "ancestral", "euler_maruyama", "exponential", "langevin", "runge_kutta"]
