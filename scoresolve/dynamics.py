"""The two ways back: the reverse-time SDE and the probability-flow ODE, as the integrators of others want them."""

from __future__ import annotations

from torch import Tensor

from .errors import require
from .model import ScoreFunction, ScoreModel
from .sde import SDE, over_batch


class ReverseSDE:
    """The reverse-time SDE of a process, run from t_max down to t_min:

        dx = [f(t) x - (1 + eta^2)/2 g(t)^2 score(x, t)] dt + eta g(t) dw

    Its marginals are those of the process for every eta >= 0; eta = 1 is Anderson's reverse SDE, eta = 0 the
    probability flow. ``drift`` and ``diffusion`` are these coefficients at time t, with dt < 0.

    ``torchsde.sdeint`` integrates it as it is. That library wants increasing times, so its clock is ``-t``:

    >>> import torch, torchsde, scoresolve as ss
    >>> sde = ss.VPSDE()
    >>> reverse = sde.reverse(lambda x, t: -x)  # the score of standard normal data
    >>> clock = torch.tensor([-1.0, -1e-3])
    >>> path = torchsde.sdeint(reverse, torch.randn(8, 2), clock, dt=0.1, method="euler")
    >>> path.shape
    torch.Size([2, 8, 2])

    Args:
        sde: the forward process.
        model: a ``ScoreModel`` (seen along ``sde`` if it belongs to another process) or a function score(x, t).
        eta: multiplier of the noise's standard deviation, at least 0.

    Source: Anderson 1982; Song et al. 2021, arXiv:2011.13456, eq. 6; Zhang and Chen 2023, arXiv:2204.13902, eq. 6.
    """

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, sde: SDE, model: ScoreModel | ScoreFunction, eta: float = 1.0) -> None:
        require(eta >= 0, f"eta >= 0, got {eta}")
        self.sde, self.eta = sde, float(eta)
        self.model = _as_model(model, sde)

    def drift(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``f x - (1 + eta^2)/2 g^2 score``; x (batch, ...), t a float or a tensor of shape () or (batch,). 1 NFE."""
        score = self.model.score(x, t)
        strength = over_batch(self.sde.squared_diffusion(t), x) * (0.5 * (1 + self.eta**2))
        return self.sde.drift(x, t) - strength * score

    def diffusion(self, t: float | Tensor) -> float | Tensor:
        """``eta g(t)``."""
        return self.eta * self.sde.diffusion(t)

    def f(self, clock: Tensor, x: Tensor) -> Tensor:
        """torchsde's drift, on the increasing clock -t: minus ``drift``."""
        return -self.drift(x, self._time(clock))

    def g(self, clock: Tensor, x: Tensor) -> Tensor:
        """torchsde's diagonal diffusion, on the increasing clock -t."""
        return over_batch(self.diffusion(self._time(clock)), x).expand_as(x)

    def _time(self, clock: Tensor) -> Tensor:
        if clock.device.type == "cpu" and bool((clock > 0).any()):
            raise ValueError(
                f"the reverse SDE runs on the increasing clock -t, got {clock.max().item():g}: "
                f"integrate over times such as torch.tensor([{-self.sde.t_max:g}, {-self.sde.t_eps:g}])"
            )
        return -clock


class ProbabilityFlow:
    """The probability-flow ODE ``dx/dt = f(t) x - g(t)^2/2 score(x, t)``, a function of (t, x).

    It carries the marginals of the process, in both directions. ``torchdiffeq.odeint`` integrates it as it is:

    >>> import torch, torchdiffeq, scoresolve as ss
    >>> sde = ss.VPSDE()
    >>> flow = sde.probability_flow(lambda x, t: -x)  # the score of standard normal data: nothing moves
    >>> x = torch.randn(8, 3, 4, 4)
    >>> end = torchdiffeq.odeint(flow, x, torch.tensor([1.0, 1e-3]))[-1]
    >>> torch.allclose(end, x, atol=1e-4)
    True

    It is computed as ``alpha' data + sigma' noise``, which stays finite where f and g diverge (``RectifiedFlow``).

    Args: sde, model as in :class:`ReverseSDE`. Cost: 1 NFE a call.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 13.
    """

    def __init__(self, sde: SDE, model: ScoreModel | ScoreFunction) -> None:
        self.sde = sde
        self.model = _as_model(model, sde)

    def __call__(self, t: float | Tensor, x: Tensor) -> Tensor:
        return self.model.velocity(x, t)


def _as_model(model: ScoreModel | ScoreFunction, sde: SDE) -> ScoreModel:
    """The model along ``sde``; a plain function is taken as a score function of (x, t)."""
    if not isinstance(model, ScoreModel):
        return ScoreModel(model, sde, predicts="score")
    return model if model.sde is sde else model.on(sde)
