r"""Variational upper bounds of -log p(x_0), discrete and continuous, estimated without bias and with standard errors.

A path ``q(x_1, ..., x_T | x_0)`` of levels of growing noise and a model that walks back along it give, by Jensen,

    -log p(x_0) <= KL(q(x_T | x_0) || prior)  +  sum_{i=2}^T KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i))
                    + E[-log p(x_0 | x_1)]             (prior, diffusion, decoder)

From level t down to s, with ``b = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2`` (beta of a table at its neighbours),
``q(x_s | x_t, x_0)`` is Gaussian, its mean linear in x_t and x_0 with weight ``c = alpha_s b / sigma_t^2`` on x_0, and
its variance ``w = b sigma_s^2 / sigma_t^2`` ("beta tilde"). The model puts the denoised D(x_t) in the place of x_0 and
has a variance v of its own, so that in d dimensions each term is

    KL = d/2 (w/v - 1 - log(w/v)) + c^2 |x_0 - D(x_t)|^2 / (2 v).

discrete (DDPM): v is w ("small"), b ("large"), or given. There is no level below the first one: the decoder is
N(D(x_1), v_1), with v_1 the w of the second level for both, as in DDPM's code.

continuous (VDM): with v = w, ``c^2 / w = alpha_s^2 / sigma_s^2 - alpha_t^2 / sigma_t^2``, a difference of
``exp(2 lam)``. So in the limit of infinitely many levels, between lam(t_max) and lam(t_min),

    diffusion = int exp(2 lam) E |x_0 - D(x_lam)|^2 dlam,

and the decoder is N(x_1 / alpha_1, rho_1^2) at t_min, for which ``E[-log p] = d/2 log(2 pi e rho_1^2)``: no call.

With ``levels=`` x_0 lies on equally spaced values and the decoder's Gaussian is summed over the bin of each, the
outermost bins reaching to infinity: the bound is then that of a probability, otherwise that of a density.

Estimation. K places ``(j + u) / K`` with one uniform u for each sample and repeat are equally spread and each of them
uniform in its part: the terms, or the quantiles of lam, at these places estimate sum and integral without bias, and
exactly once each if K is the number of terms. Repeats are independent; their spread is the standard error.

Source: Ho et al. 2020, arXiv:2006.11239, eq. 5-7, 13; Kingma et al. 2021, arXiv:2107.00630, eq. 11-15, app. I.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .bound_levels import Bins, ContinuousLevels, DiscreteLevels, Levels, Variance, squared
from .custom import DiscreteVPSDE
from .errors import require, unknown, whole_number
from .model import ScoreModel
from .noise import BOUND, NoiseSource, SampleStreams
from .sde import SDE
from .starting import check_network, check_noisy_ends, check_state
from .time_laws import matched, uniform_lam
from .watch import Watch

Kind = Literal["continuous", "discrete"]


@dataclass(frozen=True)
class VariationalBound:
    """An upper bound of -log p(x_0), one number a sample, float64.

    Attributes:
        nats: the bound, (batch,): estimated, and unbiased.
        bits_per_dim: the same over ``d log 2``, d the number of elements of a sample.
        standard_error: of ``nats`` over the repeats, (batch,); NaN for a single one.
        terms: its parts "prior", "diffusion" and "decoder", each (batch,), in nats.
        nfe: network calls, counted.
        stats: "network_rows".
    """

    nats: Tensor
    bits_per_dim: Tensor
    standard_error: Tensor
    terms: Mapping[str, Tensor]
    nfe: int
    stats: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {value.mean().item():.4g}" for name, value in self.terms.items())
        mean = f"{len(self.nats)} samples, mean {self.nats.mean().item():.5g} nats"
        return f"VariationalBound({mean} ({parts}), nfe={self.nfe})"


def variational_bound(
    model: ScoreModel,
    x0: Tensor,
    *,
    kind: Kind = "continuous",
    points: int | None = None,
    repeats: int = 2,
    variance: Variance = "small",
    importance: float | None = None,
    levels: int | None = None,
    data_range: tuple[float, float] = (-1.0, 1.0),
    t_min: float | None = None,
    t_max: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    grad: bool = False,
    progress: bool = False,
) -> VariationalBound:
    """An upper bound of -log p(x_0), estimated without bias: the bound of DDPM, or that of infinitely many levels.

    Args:
        model: the network with its process; for the discrete bound on a table of betas (see ``model.on``).
        x0: the data, (batch, ...), float32 or float64.
        kind: "continuous" (between t_max and t_min) or "discrete" (the levels of a ``DiscreteVPSDE``).
        points: noise levels for each sample and repeat, one network call each; default 64, or all terms of a table.
        repeats: independent estimates, averaged; from 2 on there is a standard error.
        variance: of the discrete bound's steps: "small" (beta tilde), "large" (beta), or one for each level, positive,
            the decoder's first.
        importance: None for lam, or a table's terms, drawn uniformly; or the data's standard deviation s: drawn with
            the density that the integrand, or the terms, would have for N(0, s^2), ``s^2 / (s^2 + rho^2)`` for lam.
        levels: the number of equally spaced values that x0 takes (256 for images); None for a density.
        data_range: the first and the last of these values.
        t_min, t_max: the ends of the continuous bound; default the process', ``t_eps`` where that is noise zero.
        seed: whole number: sample i sees the same noise in any batch.
        batch_size: how many samples the network sees at once; default all.
        grad: keep the graph, so that the bound can be trained.
        progress: show a progress bar of network calls.

    Returns: a :class:`VariationalBound`. Cost, for each ``batch_size`` samples: ``repeats * points`` calls, and
    ``repeats`` more for the discrete decoder: ``repeats * T`` for all of a table's terms.

    Raises: ValueError or TypeError before the network is called; NonFiniteError, NetworkOutputError from it.

    >>> import torch, scoresolve as ss
    >>> law = ss.exact.Gaussian(torch.zeros(2), 0.25 * torch.eye(2))
    >>> x0 = law.sample(512, generator=torch.Generator().manual_seed(0))
    >>> bound = ss.variational_bound(law.model(ss.VPSDE()), x0, points=16, seed=0)
    >>> gap = bound.nats + law.log_prob(x0)  # the score is exact, and so nearly is the bound
    >>> bound.nfe, bool(gap.mean() < 4 * gap.std() / 512**0.5)
    (32, True)
    """
    check_network(model)
    check_state(x0, "x0")
    count, repeats = len(x0), whole_number("repeats", repeats)
    rows = count if batch_size is None else min(count, whole_number("batch_size", batch_size))
    bins = None if levels is None else Bins.of(levels, data_range, x0.detach())
    path = _path(model, kind, variance, importance, t_min, t_max, x0.device)
    points = path.points if points is None else whole_number("points", points)
    require(points <= path.most, f"points of at most {path.most}, the number of terms, got {points}")
    calls = -(-count // rows) * repeats * (points + path.decoder_calls)
    bar = tqdm(total=calls, desc="variational_bound", unit="call", disable=not progress)
    watch = Watch(on_nonfinite="raise", on_call=bar.update)
    session, parts = model.session(watch), []
    with torch.set_grad_enabled(grad), bar:
        for start in range(0, count, rows):
            chosen = torch.arange(start, min(start + rows, count), device=x0.device)
            part = session.take(chosen, count)
            noise = SampleStreams(seed, range(start, start + len(chosen)))
            parts.append(_estimate(part, path, x0[chosen], noise, points, repeats, bins))
    found = torch.cat(parts, dim=2)  # (part, repeat, sample)
    watch.close(found.detach().flatten(0, 1).T)
    total, size = found.sum(dim=0), x0[0].numel()
    nats = total.mean(dim=0)
    error = total.std(dim=0) / math.sqrt(repeats) if repeats > 1 else torch.full_like(nats, math.nan)
    terms = dict(zip(("prior", "diffusion", "decoder"), found.mean(dim=1), strict=True))
    stats = {"network_rows": watch.rows}
    return VariationalBound(nats, nats / (size * math.log(2)), error.detach(), terms, watch.calls, stats)


def _estimate(
    model: ScoreModel, path: Levels, x0: Tensor, noise: NoiseSource, points: int, repeats: int, bins: Bins | None
) -> Tensor:
    """Prior, diffusion and decoder, (3, repeats, batch), in nats."""
    sde, one = model.sde, x0.new_ones(len(x0), 1, dtype=torch.float64)
    prior = _prior(sde, path.first, x0)
    rows = []
    for repeat in range(repeats):
        draw = repeat * (points + 2)
        shift = torch.special.ndtr(noise.draw(BOUND, draw, one))[:, 0]
        decoder = path.decoder(model, x0, noise.draw(BOUND, draw + 1, x0), bins)
        diffusion = torch.zeros_like(prior)
        for j in range(points):
            t, weight, constant = path.at((j + shift) / points)
            x = sde.perturb(x0, t, noise=noise.draw(BOUND, draw + 2 + j, x0))
            diffusion = diffusion + (constant * x0[0].numel() + weight * squared(x0 - model.data(x, t))) / points
        rows.append(torch.stack([prior, diffusion, decoder]))
    return torch.stack(rows, dim=1)


def _prior(sde: SDE, t: float, x0: Tensor) -> Tensor:
    """``KL(N(alpha x_0, sigma^2) || N(0, std^2))`` of each sample."""
    std = sde.prior_std(t)
    ratio = (sde.sigma(t) / std) ** 2
    return 0.5 * ((sde.alpha(t) / std) ** 2 * squared(x0) + x0[0].numel() * (ratio - 1 - math.log(ratio)))


def _path(
    model: ScoreModel,
    kind: Kind,
    variance: Variance,
    importance: float | None,
    t_min: float | None,
    t_max: float | None,
    device: torch.device,
) -> Levels:
    """The levels asked for. Raises: ValueError."""
    sde = model.sde
    if kind not in get_args(Kind):
        raise ValueError(unknown("kind", kind, get_args(Kind)))
    require(importance is None or importance > 0, f"importance > 0, a standard deviation, got {importance}")
    if kind == "discrete":
        if not isinstance(sde, DiscreteVPSDE):
            raise ValueError(
                f"the discrete bound is that of a table of betas, got {sde!r}: use kind='continuous', or "
                "model.on(ss.DiscreteVPSDE(betas))"
            )
        require(t_min is None and t_max is None, "no t_min= or t_max= with kind='discrete': its levels are the table's")
        knows = model.t_eps <= (1 + 1e-9) / sde.N and model.t_max >= 1 - 1e-9
        require(
            knows, f"a network that knows the table's levels, got one for t from {model.t_eps:g} to {model.t_max:g}"
        )
        return DiscreteLevels.of(sde, variance, importance, device)
    require(isinstance(variance, str) and variance == "small", "variance='small', of which continuous is the limit")
    if model.time == "index":
        raise ValueError(
            "the network is told whole indices only, the continuous bound asks between them: use kind='discrete', or "
            "time='fractional_index' if it takes fractions"
        )
    last, first = check_noisy_ends(model, t_min, t_max)
    require(sde.sigma(last) > 0, f"noise at t_min, there is none at t = {last:g}: use t_min={model.t_eps:g}")
    if importance is None and not math.isfinite(sde.lam(first)):
        raise ValueError(f"lam is infinite at t = {first:g}: use importance= the data's standard deviation, or t_max=")
    law = uniform_lam() if importance is None else matched(importance)
    return ContinuousLevels(law.on(sde, last, first))
