"""Score matching without clean data: the score's divergence takes the place of what the noise was."""

from __future__ import annotations

import torch
from torch import Tensor

from .divergence import Divergence, Method, traces
from .errors import require
from .model import ScoreModel
from .noise import SampleStreams, fresh_seed
from .starting import check_batch, check_model
from .watch import Watch


def implicit_score_matching(
    model: ScoreModel,
    x: Tensor,
    t: float | Tensor,
    *,
    divergence: Method | Divergence = "exact",
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``tr(ds/dx) + |s|^2 / 2`` at samples x of the noisy law itself, one number a sample: no clean data, no noise.

    By parts, ``E[tr ds/dx] = -E[s . grad log p_t]`` where s p_t vanishes at infinity, so the expectation is

        1/2 E|s - grad log p_t|^2 - 1/2 E|grad log p_t|^2,

    the explicit objective less a constant. Source: Hyvärinen 2005, JMLR 6:695, theorem 1.

    Args:
        model: the network, differentiable in x.
        x: (batch, ...), what has the law of time t. t: a number, or one for each sample.
        divergence: "exact", d backward passes, or a Divergence of probes, averaged.
        seed, generator: of the probes, as in :func:`draw`.

    Returns: (batch,), in the dtype of x. One network call and its backward passes.

    >>> import torch, scoresolve as ss
    >>> model = ss.exact.Gaussian([0.0], 1.0).model(ss.VPSDE())  # s = -x
    >>> ss.losses.implicit_score_matching(model, torch.tensor([[2.0]]), 0.5)
    tensor([1.], grad_fn=<AddBackward0>)
    """
    check_model(model)
    check_batch(x, "x")
    chosen = Divergence.of(divergence)
    require(chosen.control is None, "a divergence without control=, which is for likelihoods")
    watch, training = Watch(), torch.is_grad_enabled()
    watch.differentiates = True
    streams = SampleStreams(fresh_seed(generator) if seed is None else seed, range(len(x)))
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        score = model.session(watch).score(point, t)
        trace = traces(score, point, chosen.draw(streams, point), create_graph=training).mean(dim=1)
        loss = trace + 0.5 * score.reshape(len(x), -1).square().sum(dim=1)
    return loss if training else loss.detach()


def sliced_score_matching(
    model: ScoreModel,
    x: Tensor,
    t: float | Tensor,
    *,
    probes: int = 1,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """:func:`implicit_score_matching` with the trace along random signs v: ``v . (ds/dx) v + |s|^2 / 2``.

    As ``E[v v^T] = I`` the expectation is the same, at one backward pass a probe ("SSM-VR").
    Source: Song et al. 2019, arXiv:1905.07088, sec. 3.
    """
    return implicit_score_matching(
        model, x, t, divergence=Divergence("hutchinson", probes), seed=seed, generator=generator
    )
