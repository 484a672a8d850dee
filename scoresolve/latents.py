r"""Latents: the way back from them, and paths between them.

**Between two latents** a and b the straight line ``(1 - w) a + w b`` passes too near to the origin: independent normals
in d dimensions have norms near sqrt(d), and their mean has sqrt(d/2). The spherical path turns the direction along the
great circle and takes the norm linearly. With unit vectors u_a, u_b at the angle theta and e the unit vector of the
part of u_b that is orthogonal to u_a,

    u(w) = cos(w theta) u_a + sin(w theta) e,      |x(w)| = (1 - w) |a| + w |b|.

This is Shoemake's formula ``(sin((1 - w) theta) u_a + sin(w theta) u_b) / sin(theta)`` without its division: parallel
vectors are nothing special, and for opposite ones, where every great circle is as short, e is taken along the axis that
u_a is farthest from. ``theta = 2 atan2(|u_a - u_b|, |u_a + u_b|)`` is accurate at both ends, arccos is not.

Source: Shoemake 1985, doi:10.1145/325165.325242; Song et al. 2021, arXiv:2010.02502, app. D.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from .backends import Backend
from .defaults import REVERSIBLE_TOLERANCE, chosen
from .errors import require, unknown
from .grids import GridLike
from .model import ScoreModel
from .presets import resolve
from .registry import SolverInfo, get_solver
from .running import OnError
from .sampling import sample
from .sde import as_float64
from .solution import Callback, Solution
from .starting import check_network, check_state, noisy_end
from .table import Table

Interpolation = Literal["spherical", "linear"]
ELSEWHERE = {"slerp": "spherical", "lerp": "linear"}
"""Other words for interpolations."""
Weights: TypeAlias = float | Sequence[float] | np.ndarray | Tensor


def decode(
    model: ScoreModel,
    latent: Tensor,
    *,
    solver: str | SolverInfo | Table | Backend | None = None,
    nfe: int | None = None,
    steps: int | None = None,
    grid: GridLike | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    batch_size: int | None = None,
    trajectory: bool = False,
    callback: Callback | None = None,
    progress: bool = False,
    grad: bool = False,
    on_error: OnError = "raise",
    **options: Any,
) -> Solution:
    """Take latents back to data along the probability flow: the inverse of ``encode`` with the same arguments.

    Args:
        model, solver, nfe, steps, grid, t_min, t_max, batch_size, trajectory, callback, progress, grad, on_error,
            options: as in :func:`encode`, with its defaults; the inverse is exact up to the solver's error both ways.
            A deterministic table is a solver here, as it is in :func:`sample`.
        latent: the state at t_max, shape (batch, ...), float32 or float64.

    Returns: a :class:`Solution` whose ``samples`` are the data at t_min. Raises as ``encode``. Cost: as ``encode``.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), 0.25).model(ss.VPSDE())
    >>> x0 = torch.tensor([[0.5, -0.2]], dtype=torch.float64)
    >>> latent = ss.encode(model, x0, nfe=100).samples
    >>> torch.allclose(ss.decode(model, latent, nfe=100).samples, x0, atol=1e-3)
    True
    """
    check_network(model)
    check_state(latent, "latent")
    fixed = nfe is not None or steps is not None or grid is not None
    if solver is None and not fixed:
        solver, options = chosen(None, options, REVERSIBLE_TOLERANCE)
    if _adds_noise(solver, options):
        said = solver if isinstance(solver, str | Backend) else "this one"
        raise ValueError(f"decode follows the probability flow, {said!r} adds noise: use a solver of kind 'ode'")
    # an array and a table say themselves where they end
    named = (grid is None or isinstance(grid, str) or callable(grid)) and not isinstance(solver, Table)
    return sample(
        model,
        start=latent,
        solver=solver,
        nfe=nfe,
        steps=steps,
        grid=grid,
        t_min=noisy_end(model) if named and t_min is None else t_min,
        t_max=t_max,
        batch_size=batch_size,
        trajectory=trajectory,
        callback=callback,
        progress=progress,
        grad=grad,
        on_error=on_error,
        solver_options=options,
    )


def _adds_noise(solver: str | SolverInfo | Table | Backend | None, options: Mapping[str, Any]) -> bool:
    if solver is None or isinstance(solver, Table):
        return solver is not None and solver.stochastic
    info = solver.info if isinstance(solver, Backend) else get_solver(resolve(solver).solver)
    return info.kind != "ode" or bool(options.get("eta"))


def interpolate(a: Tensor, b: Tensor, weight: Weights, *, method: Interpolation = "spherical") -> Tensor:
    """Points between two latents, each sample for itself.

    Args:
        a, b: (batch, ...), of one shape, dtype and device; reached at weight 0 and 1.
        weight: a number in [0, 1], or several.
        method: "spherical", along the great circle of each whole sample with a norm that changes linearly, or "linear".

    Returns: the shape of a for one weight, (number of weights, batch, ...) for several. 0 NFE.

    Raises: ValueError for shapes that differ, weights outside [0, 1], or an unknown method.

    >>> import torch, scoresolve as ss
    >>> a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> ss.interpolate(a, b, 0.5)
    tensor([[1.4142, 1.4142]])
    >>> ss.interpolate(a, b, [0.0, 0.5, 1.0], method="linear").shape
    torch.Size([3, 1, 2])
    """
    if method not in get_args(Interpolation):
        raise ValueError(unknown("interpolation", method, get_args(Interpolation), elsewhere=ELSEWHERE))
    check_state(a, "a")
    check_state(b, "b")
    require(a.shape == b.shape, f"a and b of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    weights = as_float64("weight", weight)
    inside = weights.ndim <= 1 and bool(((weights >= 0) & (weights <= 1)).all())
    require(inside, f"weights in [0, 1], one or a list of them, got {weight}")
    w = weights.reshape(-1, 1, 1).to(a)
    ends = a.reshape(1, len(a), -1), b.reshape(1, len(b), -1)
    path = _spherical(*ends, w) if method == "spherical" else torch.lerp(*ends, w)
    return path.reshape(*weights.shape, *a.shape)


def _spherical(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """The path of the module's docstring; the last dimension is that of the vectors."""
    norm_a, norm_b = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (a, b))
    u_a, u_b = (torch.where(norm > 0, x / norm, 0.0) for x, norm in ((a, norm_a), (b, norm_b)))
    u_a, u_b = torch.where(norm_a > 0, u_a, u_b), torch.where(norm_b > 0, u_b, u_a)  # zero has no direction of its own
    apart, together = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (u_a - u_b, u_a + u_b))
    angle = 2 * torch.atan2(apart, together)
    flat = torch.minimum(apart, together) < 8 * torch.finfo(a.dtype).eps  # parallel or opposite, up to rounding
    axis = torch.zeros_like(u_a).scatter_(-1, u_a.abs().argmin(dim=-1, keepdim=True), 1.0)
    other = torch.where(flat, axis, u_b)
    across = other - (other * u_a).sum(dim=-1, keepdim=True) * u_a
    length = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    across = torch.where(length > 0, across / length, 0.0)
    norm = torch.lerp(norm_a, norm_b, w)
    return norm * ((w * angle).cos() * u_a + (w * angle).sin() * across)
