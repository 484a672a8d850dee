"""What a network must be as a function, whatever it predicts: checked by calling it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import Check
from .errors import NetworkOutputError
from .model import ScoreModel
from .watch import dtype_of

ANTISYMMETRIC = 0.3
"""More of a Jacobian than a trained network leaves antisymmetric."""


@dataclass(frozen=True)
class Probe:
    """Where a network is asked: states x (batch, ...) at the time t, where there is as much noise as data."""

    model: ScoreModel
    x: Tensor
    t: float

    @classmethod
    def of(cls, model: ScoreModel, like: Tensor, data: Tensor | None) -> Probe:
        """States that are data with noise, or normal where there is no data; model, on its own process."""
        sde = model.sde
        t = sde.time(min(max(0.0, sde.lam(model.t_max)), sde.lam(model.t_eps)))
        generator = torch.Generator().manual_seed(0)
        noise, guess = (
            torch.randn(like.shape, generator=generator, dtype=like.dtype, device="cpu").to(like.device) for _ in "xy"
        )
        x0 = guess if data is None else data[torch.arange(len(like), device=data.device) % len(data)]
        return cls(model, sde.perturb(x0.to(like), t, noise=noise), t)

    def ask(self, x: Tensor | None = None, t: float | Tensor | None = None) -> Tensor:
        """The network's own answer, in the dtype of the state; a copy."""
        return self.raw(x, t).clone()

    def raw(self, x: Tensor | None = None, t: float | Tensor | None = None) -> Tensor:
        """The same as it comes."""
        return self.model.evaluate(self.x if x is None else x, self.t if t is None else t, self.model.predicts)

    def rounding(self) -> float:
        """Relative differences that arithmetic alone may make, between batches of different sizes."""
        kept = dtype_of(self.model.net) or self.x.dtype
        coarse = {torch.float64: 1e-9, torch.float32: 1e-4 if self.x.device.type == "cpu" else 5e-3}
        return coarse.get(kept, 5e-2)


def contract(probe: Probe) -> Iterator[Check]:
    """The checks, one after the other; the first one alone where the network cannot be called. NFE: 21."""
    call = _call(probe)
    yield call
    if call.status == "fail":
        return
    with torch.no_grad():
        repeated = _repeats(probe)
        yield repeated
        if repeated.status == "ok":  # what follows compares calls
            yield _apart(probe)
            yield _labels_apart(probe)
            yield _keeps_answers(probe)
            yield _told_the_time(probe)
        yield _ends(probe)
    gradient = _gradient(probe)
    yield gradient
    if gradient.status == "ok":
        yield _symmetric(probe)


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, over the root mean square."""
    size = float(wanted.double().square().mean().sqrt())
    gap = float((found - wanted).double().abs().max())
    return gap / size if size > 0 else gap


def _call(probe: Probe) -> Check:
    before, name = probe.x.clone(), "call"
    try:
        with torch.no_grad():
            answer = probe.raw()
    except NetworkOutputError as error:
        if "wrote into its input" in str(error):
            return Check("input left alone", "fail", str(error), "ss.ScoreModel(lambda x, t: net(x.clone(), t), ...)")
        return Check(name, "fail", str(error))
    except Exception as error:
        asked = f"x {tuple(probe.x.shape)} {probe.x.dtype} and a label ({len(probe.x)},)"
        return Check(
            name,
            "fail",
            f"asked with {asked} it raised {type(error).__name__}: {error}",
            "wrap it to answer in the shape of x: ss.ScoreModel(lambda x, t: net(...), ...)",
        )
    if not torch.equal(before, probe.x):  # where torch does not see it, such as through numpy
        return Check(
            "input left alone",
            "fail",
            "the network wrote into its input",
            "ss.ScoreModel(lambda x, t: net(x.clone(), t), ...)",
        )
    if not bool(torch.isfinite(answer).all()):
        return Check(
            name,
            "fail",
            f"NaN or infinity at t = {probe.t:.4g}, where there is as much noise as data",
            "look at its parameters, its precision and the label it is told",
        )
    kept = dtype_of(probe.model.net) or answer.dtype
    found = f"x {tuple(probe.x.shape)} -> {tuple(answer.shape)}, {kept} on {answer.device}"
    if torch.finfo(kept).eps > 1e-5:
        return Check(name, "warn", found, "a state in float32 is fine; tolerances below 1e-3 are not: its rounding")
    return Check(name, "ok", found)


def _repeats(probe: Probe) -> Check:
    gap = _difference(probe.ask(), probe.ask())
    if gap <= 0.1 * probe.rounding():
        return Check("two calls agree", "ok", f"to {gap:.0e}" if gap else "to the bit")
    training = isinstance(probe.model.net, torch.nn.Module) and probe.model.net.training
    advice = "net.eval()" if training else "net.eval() for what is inside; nothing random at sampling (dropout, noise)"
    return Check("two calls agree", "fail", f"the same x and label, answers {gap:.1e} apart", advice)


def _apart(probe: Probe) -> Check:
    """The first sample with other company, and alone."""
    name, first = "samples apart", probe.ask()[:1]
    company = probe.ask(torch.cat([probe.x[:1], 3 * probe.x[1:].flip(0) + 1]))[:1]
    gap = _difference(company, first)
    if gap <= probe.rounding():
        try:
            alone = Probe(
                probe.model.take(torch.zeros(1, dtype=torch.int64, device="cpu"), len(probe.x)), probe.x[:1], probe.t
            ).ask()
        except Exception as error:
            return Check(
                name,
                "fail",
                f"a batch of one raised {type(error).__name__}: {error}",
                "no squeeze() without a dimension, no batch statistics: net.eval()",
            )
        gap = _difference(alone, first)
    if gap <= probe.rounding():
        return Check(name, "ok", "a sample's answer does not depend on its batch")
    return Check(
        name,
        "fail",
        f"a sample's answer depends on the others of its batch, by {gap:.1e}",
        "net.eval() if it has batch normalisation; no mean, norm or attention over dimension 0",
    )


def _labels_apart(probe: Probe) -> Check:
    """Each sample told a time of its own, against all told that."""
    sde, name = probe.model.sde, "a label for each"
    other = sde.time(max(sde.lam(probe.t) - 1.0, sde.lam(probe.model.t_max) + 1e-3))
    times = torch.full((len(probe.x),), other, dtype=torch.float64, device=probe.x.device)
    times[0] = probe.t
    try:
        found = probe.ask(t=times)
    except Exception as error:
        return Check(
            name,
            "fail",
            f"labels that differ raised {type(error).__name__}: {error}",
            "treat the label as a tensor (batch,): label.reshape(-1, *[1] * (x.ndim - 1))",
        )
    gap = max(_difference(found[:1], probe.ask()[:1]), _difference(found[1:], probe.ask(t=other)[1:]))
    if gap <= probe.rounding():
        return Check(name, "ok", "samples may be told different times")
    return Check(
        name,
        "fail",
        f"samples told different times get other answers, by {gap:.1e}: adaptive solvers will be wrong",
        "use every element of the label, not label[0]",
    )


def _keeps_answers(probe: Probe) -> Check:
    answer = probe.raw()
    before = answer.clone()
    probe.raw(2 * probe.x + 1)
    if torch.equal(before, answer):
        return Check("answers are kept", "ok", "a call leaves earlier answers alone")
    return Check(
        "answers are kept",
        "fail",
        "a call writes over the answer of the one before: multistep solvers, which keep them, will be wrong",
        "ss.ScoreModel(lambda x, t: net(x, t).clone(), ...)",
    )


def _told_the_time(probe: Probe) -> Check:
    sde = probe.model.sde
    lams = (sde.lam(probe.model.t_eps), max(sde.lam(probe.model.t_max), -8.0) + 1e-6)
    answers = [probe.ask(t=sde.time(lam)) for lam in lams]
    gap = _difference(*answers)
    if gap > 0:
        return Check("told the time", "ok", f"answers at the two ends of time differ by {gap:.1e}")
    return Check(
        "told the time",
        "warn",
        "the label changes nothing: the network ignores it, or saturates",
        "if it was trained with one, look at the wrapper; else another time= is what it needs",
    )


def _ends(probe: Probe) -> Check:
    """Finite where the solvers ask first and last."""
    model, name = probe.model, "ends of time"
    last = model.t_min if model.sde.sigma(model.t_min) > 0 else model.t_eps
    bad = {t: why for t in (model.t_max, last) if (why := _trouble(probe, t))}
    if not bad:
        return Check(name, "ok", f"finite at t = {model.t_max:g} and {last:g}")
    between = [
        t for t in torch.linspace(last, model.t_max, 65, device="cpu").double().tolist()[1:-1] if not _trouble(probe, t)
    ]
    said = "; ".join(bad.values())
    if not between:
        return Check(name, "fail", said, "look at its precision and its label: there is no time at which it is finite")
    ends = (
        f"t_max={max(between):.4g}" if model.t_max in bad else "",
        f"t_min={min(between):.4g}" if last in bad else "",
    )
    return Check(name, "fail", said, f"ss.sample(..., {', '.join(filter(None, ends))})")


def _trouble(probe: Probe, t: float) -> str:
    sde = probe.model.sde
    state = probe.x * (math.hypot(sde.alpha(t), sde.sigma(t)) / math.hypot(sde.alpha(probe.t), sde.sigma(probe.t)))
    try:
        finite = bool(torch.isfinite(probe.model.data(state, t)).all())
    except ValueError as error:
        return str(error)
    return "" if finite else f"NaN or infinity at t = {t:g}"


def _gradient(probe: Probe) -> Check:
    """The derivative in a direction, by differentiation and by differences."""
    name, step = "gradient", 1e-2 if probe.x.dtype == torch.float32 else 1e-4
    direction = probe.x.flip(-1) / probe.x.double().square().mean().sqrt().to(probe.x)
    with torch.enable_grad():
        x = probe.x.clone().requires_grad_()
        answer = probe.raw(x)
        if not answer.requires_grad:
            return Check(
                name,
                "warn",
                "it carries none: log_likelihood and guidance by gradients will not work",
                "let it run with gradients: no torch.no_grad, no detach, no numpy inside",
            )
        (slope,) = torch.autograd.grad((answer * direction).sum(), x)
    with torch.no_grad():
        ends = [(probe.ask(probe.x + sign * step * direction) * direction).sum().double() for sign in (1, -1)]
    wanted, found = float(ends[0] - ends[1]) / (2 * step), float((slope * direction).double().sum())
    gap = abs(found - wanted) / max(abs(wanted), float(direction.double().square().sum()) * 1e-3)
    if gap <= 0.1:
        return Check(name, "ok", f"as differences have it, to {gap:.0e}")
    return Check(
        name,
        "warn",
        f"differentiated {found:.4g}, by differences {wanted:.4g}: likelihoods will be wrong",
        "a part of it is detached, or works in a precision too low",
    )


def _symmetric(probe: Probe) -> Check:
    """u J v against v J u: every prediction is linear in x and a gradient in x, so J is symmetric.

    For normal u and v the mean squares of ``u (J - J^T) v`` and of ``u J v`` are the squared norms of these matrices.
    """
    generator = torch.Generator().manual_seed(1)
    u, v = (
        torch.randn(probe.x.shape, generator=generator, dtype=probe.x.dtype, device="cpu").to(probe.x) for _ in "uv"
    )
    with torch.enable_grad():
        x = probe.x.clone().requires_grad_()
        answer = probe.raw(x)
        along = [torch.autograd.grad((answer * w).sum(), x, retain_graph=True)[0] for w in (u, v)]
    one, other = ((a * w).flatten(1).double().sum(dim=1) for a, w in zip(along, (v, u), strict=True))
    size = float((one.square().mean() + other.square().mean()).sqrt())
    part = float((one - other).square().mean().sqrt()) / size / math.sqrt(2) if size > 0 else 0.0
    found = f"{100 * part:.2g}% of the Jacobian is antisymmetric, none of a score's is"
    if part <= ANTISYMMETRIC:
        return Check("symmetric Jacobian", "ok", found)
    advice = "look for outputs in another order than inputs (channels, axes), or one network for another's data"
    return Check("symmetric Jacobian", "warn", found, advice)
