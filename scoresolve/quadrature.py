"""The primitive behind every multistep rule: weights of a kernel against an interpolating polynomial.

Through the nodes ``u_0, ..., u_{q-1}`` passes the polynomial ``sum_j L_j(u) y_j`` with the Lagrange basis L_j. An
integral of it against a kernel is a combination of the values,

    int_a^b kernel(u) sum_j L_j(u) y_j du = sum_j w_j y_j,      w_j = int_a^b kernel(u) L_j(u) du,

and is exact whenever y is a polynomial of degree below q. The clock u and the kernel make the family: lam with an
exponential kernel gives the exponential (DPM-Solver++, SDE-DPM-Solver++) rules, rho with kernel 1 Adams-Bashforth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .errors import require

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def lagrange_basis(nodes: np.ndarray, u: np.ndarray) -> np.ndarray:
    """``L_j(u)`` for q distinct nodes, shape (q, *u.shape): 1 at node j and 0 at the others.

    >>> import numpy as np
    >>> lagrange_basis(np.array([0.0, 1.0]), np.array([0.25])).ravel().tolist()
    [0.75, 0.25]
    """
    basis = np.ones((len(nodes), *u.shape))
    for j, node in enumerate(nodes):
        for k, other in enumerate(nodes):
            if k != j:
                basis[j] *= (u - other) / (node - other)
    return basis


def lagrange_weights(
    nodes: np.ndarray,
    a: float,
    b: float,
    kernel: Callable[[np.ndarray], np.ndarray],
    panel: float = 4.0,
    clock: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """``w_j = int_a^b kernel(v) L_j(u(v)) dv``, by 32-point Gauss-Legendre quadrature on panels, in float64.

    Args:
        nodes: q distinct finite numbers of the clock u, shape (q,).
        a, b: the limits of v, finite, in either order.
        kernel: a smooth function of an array.
        panel: the longest interval given to one rule; a kernel exp(c v) with c up to 5 is then exact to rounding.
        clock: u(v), smooth; v itself if not given.

    Returns: float64 array of shape (q,). Raises: ValueError if nodes repeat or anything is infinite.

    >>> import numpy as np
    >>> lagrange_weights(np.array([0.0, -1.0]), 0.0, 1.0, np.ones_like).round(12).tolist()  # Adams-Bashforth 2
    [1.5, -0.5]
    """
    require(bool(np.isfinite([*nodes, a, b]).all()), f"finite nodes and limits, got {nodes}, {a}, {b}")
    require(len(set(nodes.tolist())) == len(nodes), f"distinct nodes, got {nodes}")
    edges = np.linspace(0.0, b - a, max(1, int(np.ceil(abs(b - a) / panel))) + 1)
    half = 0.5 * np.diff(edges)[:, None]
    r = edges[:-1, None] + half * (1 + _POINTS)  # counted from a: a short step far from 0 keeps its digits
    v = a + r
    basis = lagrange_basis(nodes - a, r) if clock is None else lagrange_basis(nodes, clock(v))
    return np.asarray((basis * (kernel(v) * half * _WEIGHTS)).sum(axis=(1, 2)))
