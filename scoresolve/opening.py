r"""A Gaussian start: where the noise dwarfs the data, the flow of the data's mean and covariance, at no network call.

The density of ``x_t = alpha x_0 + sigma eps`` is that of pure noise times ``E exp(alpha x.x_0 / sigma^2 - alpha^2
|x_0|^2 / (2 sigma^2))``. Expanded in alpha / sigma, the Gaussian of the same mean and covariance agrees with it up to
the second order; the first term that tells them apart is the third cumulant of the data, of order (alpha / sigma)^3. So
the probability flow of that Gaussian, which is known in closed form (``exact.py``), takes a start from t_max to a time
at which ``alpha^2 S / sigma^2`` is still small, S being the largest variance of the data, and a solver goes on from
there: no call is spent where there is little to be learned of the network.

Source: Wang and Vastola 2024, arXiv:2412.09726, who call it the analytical teleportation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .errors import require
from .exact import Gaussian
from .model import ScoreModel
from .table import Table

SAME = 1e-3
"""How far the facts of two laws may differ, relative to the law's size, for the laws to be taken for one."""


def opened(law: Gaussian, model: ScoreModel, x: Tensor, first: float) -> Tensor:
    """Starts x (batch, ...) at the process' t_max, moved along the law's exact flow to the time ``first``.

    Returns: (batch, ...), of x's dtype, on its device. Cost: a product with a (d, d) matrix, twice; no network call.

    >>> import torch, scoresolve as ss
    >>> from scoresolve.opening import opened
    >>> law, sde = ss.exact.Gaussian(torch.zeros(2), 0.25), ss.VPSDE()
    >>> x = torch.ones(1, 2, dtype=torch.float64)
    >>> torch.equal(opened(law, law.model(sde), x, 0.5), law.flow(sde, x, 1.0, 0.5))
    True
    """
    check_law(law, tuple(x.shape[1:]))
    require(
        first < model.t_max,
        f"a first time below {model.t_max:g}, where the opening begins, got {first:g}: give t_max= to say where it "
        "ends, or a grid that begins lower",
    )
    return law.flow(model.sde, x, model.t_max, first)


def check_law(law: Gaussian, shape: tuple[int, ...]) -> None:
    """Raises: TypeError unless it is a Gaussian, ValueError unless it is one of samples of that shape."""
    if not isinstance(law, Gaussian):
        raise TypeError(
            f"opening must be the Gaussian of the data, got {type(law).__name__}: ss.exact.Gaussian.fit(data)"
        )
    require(tuple(law.shape) == shape, f"opening= a Gaussian of samples of shape {shape}, got {tuple(law.shape)}")


def facts_of(law: Gaussian) -> dict[str, float]:
    """What a table that begins with a law's flow says of the law: root mean squares of mean and deviations."""
    mean, variance = law.means.square().mean().sqrt(), law.variances.mean().sqrt()
    return {"mean": float(mean), "std": float(variance)}


def check_opened(table: Table, law: Gaussian | None) -> None:
    """Raises: ValueError unless the law is the one that the table begins with, or neither is there."""
    asked: Any = table.options.get("opening")
    if asked is None:
        return
    said = f"mean of rms {asked['mean']:.6g}, deviations of rms {asked['std']:.6g}"
    require(
        law is not None,
        f"opening= the Gaussian that this table was tuned with ({said}): it starts at t = {table.start:g}, and "
        "sample(..., solver=table, opening=law) takes the noise there, law = ss.exact.Gaussian.fit(data)",
    )
    assert law is not None
    got = facts_of(law)
    size = np.hypot(asked["mean"], asked["std"])
    same = all(abs(got[name] - asked[name]) <= SAME * size for name in got)
    require(
        same,
        f"opening= the Gaussian that this table was tuned with ({said}), got one of mean {got['mean']:.6g}, "
        f"deviations {got['std']:.6g}",
    )
