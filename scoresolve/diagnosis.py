"""``doctor``: is a network wired as it was trained?

What it is as a function (``contract.py``), what it predicts and how it is told the time (``wiring.py``), and the scale
of its data; each with what to write instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checks import Check, Report, Status
from .contract import Probe, contract
from .errors import require
from .model import ScoreModel
from .sde import SDE
from .starting import check_model, check_state, start_state
from .wiring import FLOOR, Wiring, ask, declared, judged, rewired, search_on_data, search_on_itself, tried_on_itself

PLAIN = 0.02
"""Below it a misfit is a trained network's own."""
NEAR = 0.1
"""A misfit above it is no trained network's own: every way to read it is then tried, else other predictions only."""
POOR = 0.3
"""A misfit above it is no network's that does what it says, however little it was trained."""
BETTER = 3.0
"""Another wiring is the right one if its misfit is so many times smaller; of trained networks both may be above 0."""
WORSE_THAN_LINEAR = 1.25
"""With data: a squared error that no mean given x_t has."""
LESS = 0.05
"""With data: another wiring is better if its error is smaller by so much, in the mean of the logarithm."""


@dataclass(frozen=True)
class Diagnosis(Report):
    """What :func:`doctor` found.

    Attributes: checks, in the order in which they were made; nfe, network calls; wirings, those that were tried in
    place of the declared one, the best first.
    """

    wirings: tuple[Wiring, ...] = ()


def doctor(
    model: ScoreModel,
    shape: Sequence[int],
    *,
    data: Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Check how a network is wired, and say what to write instead.

    Args:
        model: the network as it is wired now. Guidance and refinements are left out: the network itself is looked at.
        shape: (batch, ...), at least two samples; conditioning must fit the batch. 64 or more see more.
        data: some of what it was trained on, (n, ...), scaled as in training; with it the answers are sure, and cheap.
        dtype, device: as in :func:`sample`.
        progress: show a progress bar.

    Returns: a :class:`Diagnosis`; print it. Cost: about 60 network calls where all is well, up to 3000 (without data)
    where every way to read the network is tried; ``nfe`` says.

    Raises: ValueError or TypeError for a request that makes no sense; of the network nothing is raised but reported.
    (One that looks labels up in a table may stop an accelerator for good when it is told others: let it be on the CPU.)

    >>> import scoresolve as ss
    >>> law, sde = ss.exact.GaussianMixture([0.7, 0.3], [[-1.0], [1.0]], [0.05, 0.1]), ss.VPSDE()
    >>> net = law.model(sde).noise  # called as net(x, t)
    >>> found = ss.doctor(ss.ScoreModel(net, sde, predicts="score"), (512, 1))
    >>> found.ok, found["wiring"].advice
    (False, 'ss.ScoreModel(net, ss.VPSDE(beta_min=0.1, beta_max=20.0), predicts="noise", time="t")')
    """
    check_model(model)
    like = start_state(model, shape, None, 0, None, None, None, dtype, device)[0]
    require(
        like.ndim > 1,
        f"shape=(batch, ...), at least two numbers, the batch before the shape of one sample, got {tuple(like.shape)}",
    )
    require(len(like) > 1, f"shape=(batch, ...) with a batch of at least 2, got {tuple(like.shape)}")
    if data is not None:
        check_state(data, "data")
        wanted, got = tuple(like.shape[1:]), tuple(data.shape[1:])
        require(
            wanted == got and len(data) > 1,
            f"data of shape (n, {', '.join(map(str, wanted))}), n > 1, got {tuple(data.shape)}",
        )
        data = data.to(like)
    before, bare = model.nfe, rewired(model, declared(model))
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # a network with dropout draws from the global generator
        checks = list(contract(Probe.of(bare, like, data)))
        others: tuple[Wiring, ...] = ()
        if all(check.status != "fail" for check in checks if check.name in ("call", "input left alone")):
            with tqdm(desc="doctor", unit="wiring", disable=not progress) as bar:
                wiring, others, own = _wiring(bare, like, data, bar)
            explained = data is None or any(max(one.excess, default=math.inf) <= WORSE_THAN_LINEAR for one in others)
            scale = _scale(bare, own, data, wiring, explained)
            if scale.status == "fail":  # what is amiss on data is their scale
                wiring = Check("wiring", "skip", f"misfit {own.misfit:.2g} on its own samples, and data unlike these")
            checks += [wiring, scale]
    return Diagnosis(tuple(checks), model.nfe - before, others)


def _wiring(
    model: ScoreModel, like: Tensor, data: Tensor | None, bar: tqdm[Any]
) -> tuple[Check, tuple[Wiring, ...], Wiring]:
    """The check, the other wirings that were tried, and the declared one on its own samples."""
    shape, now = tuple(like.shape), declared(model)
    own = tried_on_itself(model, now, shape, like)
    if data is not None:
        now = judged(model, now, ask(model, now, _rows(data, like)))
        if now.misfit <= FLOOR and max(now.excess, default=math.inf) <= WORSE_THAN_LINEAR:
            return _on_data(now, (), model.sde), (), own
        others = search_on_data(model, _rows(data, like), bar.update)
        return _on_data(now, others, model.sde), tuple(others), own
    if own.misfit <= FLOOR:
        return Check("wiring", "ok", f"misfit {own.misfit:.2g} on its own samples: {_named(own)}"), (), own
    others = search_on_itself(model, shape, like, own.misfit <= NEAR, bar.update)
    best = others[0] if others else own
    seen = (
        f"misfit {own.misfit:.2g} on its own samples (0 is right, 1 wrong)" if own.misfits else "its samples run away"
    )
    if best.misfit * BETTER < own.misfit and best.misfit <= NEAR and best.plausible:
        found = f"{_named(own)}: {seen}; {best.misfit:.2g} as {_named(best)}"
        return Check("wiring", "fail", found, best.code(model.sde)), tuple(others), own
    if own.misfit <= POOR:
        status: Status = "ok" if own.misfit <= PLAIN else "warn"
        said = f"{_named(own)}: {seen}, nothing that was tried is much better"
        return Check("wiring", status, said, f"{_IMPERFECT}; data= tells more"), tuple(others), own
    return (
        Check("wiring", "fail", f"{_named(own)}: {seen}, and nothing else fits", f"{_NOTHING_FITS}; data= tells more"),
        tuple(others),
        own,
    )


_IMPERFECT = "a network trained little, or another process (alpha, sigma) than it was trained on"
_NOTHING_FITS = (
    "another process (alpha, sigma) than it was trained on, a time told in a way that was not tried, an inner "
    "network without its preconditioning, or an untrained one"
)


def _on_data(now: Wiring, others: Sequence[Wiring], sde: SDE) -> Check:
    worst = max((value if math.isfinite(value) else math.inf for value in now.excess), default=math.inf)
    seen = (
        f"{_named(now)}: error {_percent(now.loss)} of the best linear guess's, at worst {worst:.3g} times, "
        f"misfit {now.misfit:.2g}"
    )
    for best in others[:1]:
        better = best.loss < now.loss - LESS and best.misfit < 0.5 * now.misfit
        if better and max(best.excess) <= WORSE_THAN_LINEAR:
            return Check("wiring", "fail", f"{seen}; {_percent(best.loss)} as {_named(best)}", best.code(sde))
    if now.loss > 0 or any(one.loss < now.loss - LESS for one in others[:1]):
        return Check("wiring", "fail", f"{seen}, and nothing else fits", f"the scale of data, or {_NOTHING_FITS}")
    if worst > WORSE_THAN_LINEAR or now.misfit > PLAIN:
        return Check("wiring", "warn", f"{seen} (0 is right), and nothing else fits better", _IMPERFECT)
    return Check("wiring", "ok", seen)


def _scale(model: ScoreModel, own: Wiring, data: Tensor | None, wiring: Check, explained: bool) -> Check:
    """Data beside the network's own samples, if no wiring explains them, and beside the prior."""
    drawn = own.samples
    known = data if data is not None else drawn
    if known is None or not bool(torch.isfinite(known).all()):
        return Check("scale", "skip", "its samples run away")
    mean, std = float(known.double().mean()), float(known.double().std())
    low, high, of = float(known.min()), float(known.max()), "its samples" if data is None else "data"
    said = f"{of}: mean {mean:.3g}, std {std:.3g}, range [{low:.3g}, {high:.3g}]"
    if wiring.status == "fail" and not explained and data is not None and drawn is not None and own.misfit <= NEAR:
        m, s = float(drawn.double().mean()), float(drawn.double().std())
        if not 2 / 3 < std / s < 1.5 or abs(mean - m) > 0.5 * s:
            return Check(
                "scale",
                "fail",
                f"{said}; the network's own samples: mean {m:.3g}, std {s:.3g}",
                f"scaled as in training, such as (data - {mean:.3g}) * {s / std:.3g} + {m:.3g}",
            )
    if data is None and wiring.status == "fail":
        return Check("scale", "skip", "not known before the wiring is right")
    sde, power = model.sde, float(known.double().square().mean())
    at_start = math.hypot(sde.alpha(model.t_max) * math.sqrt(power), sde.sigma(model.t_max))
    if abs(at_start / sde.prior_std() - 1) > 0.1:
        return Check(
            "scale",
            "warn",
            f"{said}; at t_max it is {at_start:.3g} wide, the prior {sde.prior_std():.3g}",
            "data scaled as in training, or a process with more noise at t_max",
        )
    return Check("scale", "ok", said)


def _rows(data: Tensor, like: Tensor) -> Tensor:
    """As many rows of the data as the batch has: conditioning fits that number only."""
    return data[torch.arange(len(like), device=data.device) % len(data)]


def _named(wiring: Wiring) -> str:
    return f"{'-' if wiring.sign < 0 else ''}{wiring.predicts}, time={wiring.spelled}"


def _percent(loss: float) -> str:
    return f"{100 * math.exp(min(loss, 50.0)):.3g}%"
