r"""``log_likelihood``: log p of data under a score network, in nats and in bits per dimension.

The probability flow carries x0, taken as the state at t_min, to its latent x_T, and (``augmented.py``)

    log p(x0) = log p_T(x_T) + log |det dx_T/dx0|.

It is the density **at t_min**: of data with the noise sigma(t_min) in it (and scaled by alpha(t_min)); and the law at
t_max is taken to be the prior N(0, prior_std^2 I), or the one given. What that costs is known: with the exact law of
x_T as ``prior`` the result is exact for an exact network, and the difference of the two log-densities at x_T is the
mismatch of the prior.

**Bits per dimension.** Whole numbers k in 0 ... levels - 1 become densities by noise that fills each unit cube:
``x0 = low + width (k + U)/levels``, U uniform (:func:`dequantise`). The density of k + U is ``p(x0) (width/levels)^d``,
and by Jensen's inequality its expected logarithm is at most the log-probability of k. In bits per dimension

    -log p(x0) / (d log 2) + log2(levels / width),

that is + 7 for 256 levels on (-1, 1), and + 8 on (0, 1). A density of continuous data has no such offset: its bits
depend on the unit of x0.

**Errors.** The standard error is that of the probes. That of the solver shows when ``nfe=`` is doubled, or rtol= and
atol= are tightened: adaptive solvers count log p among what they control.

Source: Chen et al. 2018, arXiv:1806.07366; Song et al. 2021, arXiv:2011.13456, sec. 4.3; Theis et al. 2016,
arXiv:1511.01844, sec. 3.1 (uniform dequantisation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .backends import Backend
from .divergence import Divergence, Method
from .errors import real_number, require, whole_number
from .exact import Gaussian, Law
from .grids import GridLike
from .model import ScoreModel
from .noise import DEQUANTISATION, SampleStreams
from .outcome import Ended, Outcome
from .registry import SolverInfo
from .running import OnError
from .sampling import encode
from .solution import Solution
from .starting import check_network, check_noisy_ends, check_state

Prior: TypeAlias = Law | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LogLikelihood(Ended):
    """The result of :func:`log_likelihood`; tensors are of shape (batch,) unless said otherwise.

    Attributes:
        log_prob: log p(x0) in nats, float64.
        standard_error: of log_prob over the probes, in nats, float64: zero if exact, NaN for a single probe.
        bits_per_dim: ``-log_prob / (d log 2) + offset_bits``.
        offset_bits: ``log2(levels / width)``, or 0 where no levels were given.
        latents: the states at t_max, in the shape and dtype of x0.
        nfe: network calls, counted where they were made; a call with its backward passes counts once.
        outcome: how each sample ended: see ``ok``, ``failures`` and ``nfe_per_sample``.
        stats: "solver", "backward_passes", "network_rows".
    """

    log_prob: Tensor
    standard_error: Tensor
    bits_per_dim: Tensor
    offset_bits: float
    latents: Tensor
    nfe: int
    outcome: Outcome
    stats: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        bits = self.bits_per_dim.detach()
        return f"LogLikelihood({len(bits)} samples, mean {bits.nanmean().item():.4g} bits/dim, nfe={self.nfe})"


def log_likelihood(
    model: ScoreModel,
    x0: Tensor,
    *,
    divergence: Method | Divergence = "exact",
    probes: int = 1,
    control: Gaussian | None = None,
    prior: Prior | None = None,
    solver: str | SolverInfo | Backend | None = None,
    nfe: int | None = None,
    steps: int | None = None,
    grid: GridLike | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    levels: int | None = None,
    data_range: tuple[float, float] | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    grad: bool = False,
    progress: bool = False,
    on_error: OnError = "raise",
    **options: Any,
) -> LogLikelihood:
    """log p of data under a score network, by the change of variables along the probability flow.

    Args:
        model: the network with its process.
        x0: the data, shape (batch, ...), float32 or float64: the state at t_min, so the density is that of t_min.
        divergence: "exact", d backward passes a network call, or "hutchinson", one for each probe; or a
            :class:`Divergence`, which has the next two arguments in it.
        probes: probes of Hutchinson's estimator, at least 1; two or more give a standard error.
        control: a Gaussian like the data (``ss.exact.Gaussian.fit``), which takes much of the probes' variance away.
        prior: the law of the state at t_max: an exact law (``law.marginal(sde, t_max)``), or a function from states
            (batch, ...), float64, to log-densities (batch,); default N(0, prior_std^2 I).
        solver, nfe, steps, grid, t_max, options: as in :func:`encode`; by default it is
            adaptive, with tolerances of 1e-6.
        rtol, atol: tolerances of an adaptive solver, for x; for log p, in nats, d times atol beside rtol |log p|.
        t_min: where x0 stands; default the process' ``t_min``, or ``t_eps`` where that is noise zero.
        levels, data_range: of data that was whole numbers in 0 ... levels - 1 and is now in (low, high), for
            bits_per_dim; give both or neither. Data out of it are refused.
        seed, indices: of the probes; sample i of a seed has the same probes in any batch.
        batch_size: how many samples go through the network at once; all by default.
        grad: keep the graph, so that gradients flow from log_prob to x0 and to the network's parameters.
        progress: show a progress bar.
        on_error: "raise" if any sample fails, or "mask": NaN for those.

    Returns: a :class:`LogLikelihood`. Cost: ``nfe`` network calls for each chunk, each with its backward passes.

    Raises: ValueError or TypeError, before the network is called, for a request that makes no sense, among them a
    solver that draws noise; NetworkOutputError if the network cannot be differentiated; otherwise as ``sample``.

    >>> import torch, scoresolve as ss
    >>> law, sde = ss.exact.Gaussian(torch.zeros(2), torch.tensor([0.5, 2.0])), ss.VPSDE()
    >>> x0 = torch.tensor([[0.3, -1.0], [0.0, 0.2]], dtype=torch.float64)
    >>> found = ss.log_likelihood(law.model(sde), x0)
    >>> torch.allclose(found.log_prob, law.marginal(sde, sde.t_min).log_prob(x0), atol=1e-4)
    True
    """
    check_network(model)
    check_state(x0, "x0")
    if isinstance(divergence, Divergence):
        require(probes == 1 and control is None, "probes and control in the Divergence, or beside its name, not both")
    else:
        divergence = Divergence(divergence, probes, control)
    offset = _offset_bits(levels, data_range)
    if levels is not None and data_range is not None:
        _check_within(x0.detach(), data_range, levels, model.sde.sigma(check_noisy_ends(model, t_min, t_max)[0]))
    _check_prior(prior, x0.shape[1:])
    tolerances: dict[str, Any] = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    solution = encode(
        model,
        x0,
        solver=solver,
        nfe=nfe,
        steps=steps,
        grid=grid,
        t_min=t_min,
        t_max=t_max,
        log_prob=divergence,
        seed=seed,
        indices=indices,
        batch_size=batch_size,
        progress=progress,
        grad=grad,
        on_error=on_error,
        **tolerances,
        **options,
    )
    with torch.set_grad_enabled(grad):  # a prior may have parameters
        return _found(solution, prior, offset)


def _check_within(x0: Tensor, data_range: tuple[float, float], levels: int, sigma: float) -> None:
    """Raise ValueError for data out of their range, by more than half a level and the noise that may be in them."""
    low, high = map(float, data_range)
    slack = 0.5 * (high - low) / levels + 6 * sigma
    least, most = float(x0.min()), float(x0.max())
    require(
        low - slack <= least and most <= high + slack,
        f"x0 within data_range=({low:g}, {high:g}), got values from {least:g} to {most:g}: scale the data as in "
        f"training, as ss.dequantise(images, {levels}, ({low:g}, {high:g})) does, or give the range that they are in",
    )


def _check_prior(prior: Prior | None, shape: torch.Size) -> None:
    """Raise ValueError or TypeError unless it is the law of samples of that shape, or may be a log-density."""
    if isinstance(prior, Law):
        require(prior.shape == shape, f"a prior of samples of shape {tuple(shape)}, got {tuple(prior.shape)}")
    elif prior is not None and not callable(prior):
        raise TypeError(f"prior must be an exact law or a function of states, got {type(prior).__name__}")


def _found(solution: Solution, prior: Prior | None, offset: float) -> LogLikelihood:
    """The result, with the prior that was given."""
    latents, log_prob = solution.samples, solution.log_prob
    if prior is not None:
        at_end = (prior.log_prob if isinstance(prior, Law) else prior)(latents.double())
        got = tuple(at_end.shape) if isinstance(at_end, Tensor) else type(at_end).__name__
        require(got == latents.shape[:1], f"prior to return one log-density a sample, ({len(latents)},); got {got}")
        log_prob = at_end.double() + solution.log_det
    return LogLikelihood(
        log_prob=log_prob,
        standard_error=solution.standard_error,
        bits_per_dim=-log_prob / (latents[0].numel() * math.log(2)) + offset,
        offset_bits=offset,
        latents=latents,
        nfe=solution.nfe,
        outcome=solution.outcome,
        stats={name: solution.stats[name] for name in ("solver", "backward_passes", "network_rows")},
    )


def dequantise(
    images: Tensor,
    levels: int = 256,
    data_range: tuple[float, float] = (-1.0, 1.0),
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Whole numbers made continuous by uniform noise: ``low + (high - low) (k + U) / levels``, U in [0, 1).

    Args:
        images: (batch, ...), whole numbers in 0 ... levels - 1, of an integer dtype such as uint8.
        levels: how many values there are, at least 2.
        data_range: (low, high) of the result; give the same, and levels, to :func:`log_likelihood`.
        seed, indices: sample i of a seed has the same noise in any batch.
        dtype: torch.float32 or torch.float64.

    Raises: TypeError for images of a floating dtype; ValueError for values out of range. 0 NFE.
    Source: Theis et al. 2016, arXiv:1511.01844, sec. 3.1.

    >>> import torch, scoresolve as ss
    >>> x0 = ss.dequantise(torch.tensor([[0, 128, 255]], dtype=torch.uint8))
    >>> ((x0 + 1) * 128).floor().tolist()
    [[0.0, 128.0, 255.0]]
    """
    if not isinstance(images, Tensor) or images.is_floating_point() or images.is_complex():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a tensor of whole numbers such as torch.uint8, got {got}")
    _offset_bits(levels, data_range)
    whole = images.to(torch.int64)
    inside = images.ndim >= 1 and images.numel() > 0 and int(whole.min()) >= 0 and int(whole.max()) < levels
    require(inside, f"images of shape (batch, ...) with values in 0 ... {levels - 1}, got {tuple(images.shape)}")
    streams = SampleStreams(seed, range(len(images)) if indices is None else indices)
    normal = streams.draw(DEQUANTISATION, 0, torch.empty(images.shape, dtype=torch.float64, device=images.device))
    low, high = data_range
    values = (low + (high - low) / levels * (whole + torch.special.ndtr(normal))).to(dtype)
    # never rounded up into the next cell, which for the last one is out of range
    edge = (low + (high - low) / levels * (whole + 1)).to(dtype)
    return torch.minimum(values, torch.nextafter(edge, torch.full_like(edge, -math.inf)))


def _offset_bits(levels: int | None, data_range: tuple[float, float] | None) -> float:
    """``log2(levels / width)``, 0 where neither is given. Raises: ValueError."""
    if levels is None and data_range is None:
        return 0.0
    if levels is None or data_range is None:
        raise ValueError(f"levels= and data_range= go together, got levels={levels}, data_range={data_range}")
    levels = whole_number("levels", levels, least=2)
    try:
        low, high = (real_number("each of data_range", end) for end in data_range)
    except (TypeError, ValueError):
        raise ValueError(f"expected data_range=(low, high), two numbers, got {data_range!r}") from None
    require(math.isfinite(low) and math.isfinite(high) and low < high, f"data_range=(low, high), got {data_range}")
    return math.log2(levels / (high - low))
