r"""What general-purpose integrators are given: the probability flow, or the reverse SDE, on a clock of one's choice.

On a clock u (``coordinates.py``):

- torchdiffeq and scipy: the flow ``dz/du = rate(u) m(x, u)`` with ``z = x / size(u)``. Tolerances are on z.
- torchsde: the reverse SDE of ``dynamics.py`` by a change of time alone. Its own clock v increases as t falls, v = -u;
  with ``c = |dt/du|`` and ``E (dB)^2 = dv`` the law of ``dx = f(x, t) dt + eta g(t) dw`` is that of

      dx = -f(x, t) c dv + eta g(t) sqrt(c) dB.

  The noise does not depend on the state: Ito's and Stratonovich's methods integrate the same equation. A state of any
  shape is a matrix (batch, d) to torchsde.

The network is never asked beyond the two ends of a run, whatever a method rounds to.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .backend_libraries import METHODS, Call, DiagonalSDE, scipy_solve, torchdiffeq_solve, torchsde_solve
from .brownian_interval import BrownianIntervals
from .coordinates import Clock, coordinates
from .dynamics import ReverseSDE
from .model import ScoreModel
from .noise import NoiseSource
from .sde import derivative, over_batch


def flow(call: Call, clock: Clock, model: ScoreModel, x: Tensor, times: np.ndarray) -> list[Tensor]:
    """The states of the probability flow at ``times[1:]``. Raises: ValueError for gradients through scipy."""
    on_host = call.library == "scipy" or call.method == "scipy_solver"
    if on_host and torch.is_grad_enabled():
        raise ValueError(
            f"gradients do not flow through {call.library}:{call.method}: use torchdiffeq's dopri5, or grad=False"
        )
    way = coordinates(model.sde, clock)
    low, high = float(times.min()), float(times.max())

    def field(u: Tensor, z: Tensor) -> Tensor:
        t = way.time(u.double()).clamp(low, high)
        output = model.evaluate(z * over_batch(way.size(t), z), t, way.predicts)
        return output * over_batch(way.rate(t), z)

    sizes = way.size(torch.from_numpy(times.copy())).tolist()
    solve = scipy_solve if call.library == "scipy" else torchdiffeq_solve
    states = solve(call, field, x / sizes[0], way.places(times))
    return [state * size for state, size in zip(states, sizes[1:], strict=True)]


def reverse_sde(
    call: Call, clock: Clock, eta: float, model: ScoreModel, x: Tensor, times: np.ndarray, noise: NoiseSource
) -> list[Tensor]:
    """The states of the reverse SDE at ``times[1:]``; upwards in time (eta 0) those of the flow by the same methods."""
    way, reverse = coordinates(model.sde, clock), ReverseSDE(model.sde, model, eta)
    low, high, forward = float(times.min()), float(times.max()), times[-1] > times[0]
    sign = 1.0 if forward else -1.0

    def time_and_speed(v: float) -> tuple[float, float]:
        t = way.time(torch.tensor(sign * v, dtype=torch.float64, device="cpu")).clamp(low, high)
        return t.item(), 1 / derivative(way.place, t).item()

    def drift(v: float, y: Tensor) -> Tensor:
        t, speed = time_and_speed(v)
        return (sign * speed * reverse.drift(y.reshape(x.shape), t)).reshape(y.shape)

    def scale(v: float) -> float:
        t, speed = time_and_speed(v)
        return eta * model.sde.diffusion(t) * math.sqrt(speed)

    y = x.reshape(len(x), -1)
    sde = DiagonalSDE(METHODS["torchsde"]()[call.method].sde_type, drift, scale)
    path = BrownianIntervals(noise, y)
    states = torchsde_solve(call, sde, y, sign * way.places(times), path)
    return [state.reshape(x.shape) for state in states]
