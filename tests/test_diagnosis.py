"""The doctor on exact networks: it passes every right wiring, finds every fault, and says what to write instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import PROCESSES, mixture_2d
from torch import Tensor, nn

import scoresolve as ss
from scoresolve.checks import Check
from scoresolve.contract import Probe, contract

LAW = ss.exact.GaussianMixture([0.7, 0.3], [[-1.0, 0.0], [1.0, 0.5]], [0.05, 0.1])
SHAPE = (1024, 2)
ENDS = {"vp": (1e-3, 1.0), "edm": (0.002, 80.0), "flow": (1e-3, 1.0), "ve": (1e-5, 1.0), "discrete": (1e-3, 1.0)}


def process(name: str) -> ss.SDE:
    return ss.DiscreteVPSDE.linear() if name == "discrete" else PROCESSES[name]


def exact_net(name: str, predicts: Any, clock: Callable[[Tensor], Tensor] = lambda label: label) -> Any:
    """net(x, label) -> the exact prediction at the time clock(label), kept inside what the process knows."""
    model, (low, high) = LAW.model(process(name)), ENDS[name]
    return lambda x, label: model.evaluate(x, clock(label.double()).clamp(low, high), predicts)


def data(n: int = 1024) -> Tensor:
    return LAW.sample(n, generator=torch.Generator().manual_seed(5)).float()


@pytest.mark.parametrize("given", [None, "data"])
@pytest.mark.parametrize(
    ("name", "predicts"),
    [("vp", "score"), ("vp", "noise"), ("edm", "data"), ("flow", "velocity"), ("ve", "score"), ("discrete", "v")],
)
def test_a_right_wiring_passes(name: str, predicts: Any, given: str | None) -> None:
    model = ss.ScoreModel(exact_net(name, predicts), process(name), predicts=predicts)
    found = ss.doctor(model, SHAPE, data=data() if given else None)
    assert found.ok, str(found)
    assert not found.advice, str(found)
    assert {check.status for check in found.checks} == {"ok"}
    assert found.nfe == model.nfe
    assert given or found.nfe < 150
    json.dumps(found.as_dict())


@pytest.mark.parametrize(
    ("name", "true", "wrong", "given"),
    [("vp", "noise", "score", True), ("vp", "v", "velocity", True), ("vp", "data", "noise", True),
     ("vp", "noise", "flow", True), ("edm", "data", "noise", True), ("edm", "noise", "v", True),
     ("flow", "velocity", "data", True), ("discrete", "noise", "v", True), ("vp", "v", "velocity", False),
     ("edm", "noise", "v", False), ("edm", "data", "noise", False)],
)  # fmt: skip
def test_a_wrong_prediction_is_named(name: str, true: Any, wrong: Any, given: bool) -> None:
    model = ss.ScoreModel(exact_net(name, true), process(name), predicts=wrong)
    wiring = ss.doctor(model, SHAPE, data=data() if given else None)["wiring"]
    assert wiring.status == "fail"
    assert wiring.advice.endswith(f'predicts="{true}", time="t")'), wiring


LABELS: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    'time="sigma"': (lambda label: torch.as_tensor(PROCESSES["vp"].time((1 / label**2 - 1).log() / 2)), "t"),
    'time="lam"': (lambda label: torch.as_tensor(PROCESSES["vp"].time(label)), "t"),
    'time="t"': (lambda label: label, "sigma"),
    "time=lambda t: 1 - t": (lambda label: 1 - label, "t"),
    "99 * t)": (lambda label: label / 999, "t"),
}


@pytest.mark.parametrize(("right", "given"), [*((one, True) for one in LABELS), ("time=lambda t: 1 - t", False)])
def test_a_wrong_time_is_named(right: str, given: bool) -> None:
    clock, told = LABELS[right]
    model = ss.ScoreModel(exact_net("vp", "noise", clock), PROCESSES["vp"], predicts="noise", time=told)
    wiring = ss.doctor(model, SHAPE, data=data() if given else None)["wiring"]
    assert wiring.status == "fail", wiring
    assert 'predicts="noise"' in wiring.advice
    assert right in wiring.advice.replace("1000 * t", "999 * t"), wiring


def test_a_wrong_sign_and_a_clock_that_runs_backwards_are_named() -> None:
    inner = exact_net("flow", "velocity", lambda label: 1 - label)
    model = ss.ScoreModel(lambda x, t: -inner(x, t), ss.RectifiedFlow(), predicts="velocity")
    advice = ss.doctor(model, SHAPE, data=data())["wiring"].advice
    assert "lambda x, t: -net(x, t)" in advice
    assert "time=lambda t: 1 - t" in advice


def test_another_process_and_another_scale_are_told_apart() -> None:
    net = exact_net("vp", "noise")
    alien = ss.doctor(ss.ScoreModel(net, ss.CosineVPSDE(), predicts="noise"), SHAPE, data=data())
    assert alien["wiring"].status == "fail"
    assert "another process" in alien["wiring"].advice
    alone = ss.doctor(ss.ScoreModel(net, ss.CosineVPSDE(), predicts="noise"), SHAPE)["wiring"]
    assert alone.status == "warn", "its own samples are less sure"
    assert "another process" in alone.advice
    scaled = ss.doctor(ss.ScoreModel(net, ss.VPSDE(), predicts="noise"), SHAPE, data=127.5 + 127.5 * data())
    assert scaled["wiring"].status == "skip"
    assert scaled["scale"].status == "fail"
    formula = scaled["scale"].advice.removeprefix("scaled as in training, such as ")
    as_trained = eval(formula, {"data": 127.5 + 127.5 * data()})
    assert (as_trained - data()).abs().max() < 0.1
    narrow = ss.VESDE(sigma_max=1.0)
    prior = ss.doctor(LAW.model(narrow), SHAPE)
    assert prior["scale"].status == "warn"
    assert "more noise at t_max" in prior["scale"].advice


def net(x: Tensor, t: Tensor) -> Tensor:
    """The exact noise prediction on VP."""
    return _NET(x, t)


_NET = exact_net("vp", "noise")
_BUFFER = torch.empty(0)


def writes_unseen(x: Tensor, t: Tensor) -> Tensor:
    answer = net(x, t)
    x.detach().numpy()[...] *= 2
    return answer


def one_buffer(x: Tensor, t: Tensor) -> Tensor:
    _BUFFER.resize_(x.shape).copy_(net(x.detach(), t))
    return _BUFFER


def nan_at_the_end(x: Tensor, t: Tensor) -> Tensor:
    return torch.where(t[:, None] > 0.9, torch.nan, net(x, t))


def swirls(x: Tensor, t: Tensor) -> Tensor:
    return net(x, t) + 3 * torch.stack([x[:, 1], -x[:, 0]], dim=1)


FAULTS: dict[str, tuple[Any, str, str, str]] = {
    "shape": (lambda x, t: net(x, t)[:, :1], "call", "fail", ""),
    "signature": (lambda x: x, "call", "fail", "wrap it"),
    "object": (lambda x, t: {"sample": net(x, t)}, "call", "fail", ""),
    "nan": (lambda x, t: net(x, t) / 0 * 0, "call", "fail", "precision"),
    "writes": (lambda x, t: net(x.mul_(1.0), t), "input left alone", "fail", "net(x.clone(), t)"),
    "writes unseen": (writes_unseen, "input left alone", "fail", "net(x.clone(), t)"),
    "random": (lambda x, t: net(x, t) + 0.1 * torch.rand_like(x), "two calls agree", "fail", "net.eval()"),
    "batch": (lambda x, t: net(x, t) - 0.1 * x.mean(dim=0), "samples apart", "fail", "net.eval()"),
    "squeeze": (lambda x, t: net(x, t).reshape(SHAPE), "samples apart", "fail", "squeeze"),
    "one label": (lambda x, t: net(x, t[:1].expand(len(x))), "a label for each", "fail", "label[0]"),
    "buffer": (one_buffer, "answers are kept", "fail", "net(x, t).clone()"),
    "timeless": (lambda x, t: net(x, 0 * t + 0.3), "told the time", "warn", "time="),
    "end": (nan_at_the_end, "ends of time", "fail", "t_max=0.89"),
    "detached": (lambda x, t: net(x.detach(), t), "gradient", "warn", "no torch.no_grad"),
    "half detached": (lambda x, t: 0.5 * net(x, t) + 0.5 * net(x.detach(), t), "gradient", "warn", "detached"),
    "swirl": (swirls, "symmetric Jacobian", "warn", "another order"),
}


def contract_of(net: Any) -> dict[str, Check]:
    model, like = ss.ScoreModel(net, ss.VPSDE(), predicts="noise"), torch.empty(SHAPE)
    with torch.random.fork_rng():  # as doctor does: one of the faults is to draw from the global generator
        return {check.name: check for check in contract(Probe.of(model, like, None))}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_network_must_not_do_is_found(fault: str) -> None:
    broken, name, status, advice = FAULTS[fault]
    found = contract_of(broken)[name]
    assert found.status == status, found
    assert advice in found.advice


def test_a_network_that_does_none_of_it_passes_and_one_that_cannot_be_called_is_reported() -> None:
    sound = contract_of(net)
    assert {check.status for check in sound.values()} == {"ok"}
    assert {name for _, name, _, _ in FAULTS.values()} == {*sound, "input left alone"}
    found = ss.doctor(ss.ScoreModel(lambda x: x, ss.VPSDE()), SHAPE)
    assert not found.ok
    assert found.nfe == len(found.checks) == 1
    assert "1 positional argument" in str(found)


def test_modules_in_training_mode_and_in_half_precision() -> None:
    """Dropout draws from the global generator, which is left where it was."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(0.2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.dropout(net(x.float(), t).to(x)) * self.weight

    module = Dropping()
    found = ss.doctor(ss.ScoreModel(module, ss.VPSDE(), predicts="noise"), SHAPE, data=data())
    assert found["two calls agree"].advice == "net.eval()"
    assert ss.doctor(ss.ScoreModel(module.eval(), ss.VPSDE(), predicts="noise"), SHAPE, data=data()).ok
    half = ss.doctor(ss.ScoreModel(module.bfloat16(), ss.VPSDE(), predicts="noise"), SHAPE, data=data())
    assert half["call"].status == "warn"
    assert half["wiring"].status == "ok", str(half)


def test_a_network_that_takes_whole_labels_only_is_tried_with_these() -> None:
    exact = exact_net("discrete", "v", lambda index: (index + 1) / 1000)

    def looks_up(x: Tensor, index: Tensor) -> Tensor:
        return exact(x, torch.arange(1000)[index])

    sde = ss.DiscreteVPSDE.linear()
    assert ss.doctor(ss.ScoreModel(looks_up, sde, predicts="v", time="index"), SHAPE, data=data()).ok
    wrong = ss.doctor(ss.ScoreModel(looks_up, sde, predicts="noise", time="index"), SHAPE, data=data())
    assert wrong["wiring"].advice == 'ss.ScoreModel(net, sde, predicts="v", time="index")'


def test_conditioning_goes_along_and_guidance_does_not() -> None:
    net = exact_net("vp", "noise")
    model = ss.ScoreModel(lambda x, t, shift: net(x - shift, t) + 0 * shift, ss.VPSDE(), predicts="noise")
    guided = model.condition(shift=torch.zeros(1024, 2)).guide(3.0, shift=torch.zeros(1, 2))
    assert ss.doctor(guided, SHAPE).ok


def test_requests_that_make_no_sense_are_refused() -> None:
    model = mixture_2d().model(ss.VPSDE())
    with pytest.raises(ValueError, match="a batch of at least 2"):
        ss.doctor(model, (1, 2))
    elementwise = ss.ScoreModel(lambda x, t: -x, ss.VPSDE())
    with pytest.raises(ValueError, match=r"shape=\(batch, \.\.\.\), at least two numbers, .*, got \(2,\)"):
        ss.doctor(elementwise, (2,))
    assert elementwise.nfe == 0
    with pytest.raises(ValueError, match=r"data of shape \(n, 2\), n > 1, got \(4, 3\)"):
        ss.doctor(model, (8, 2), data=torch.zeros(4, 3))
    with pytest.raises(TypeError, match="must be a ScoreModel"):
        ss.doctor(lambda x, t: x, (8, 2))  # type: ignore[arg-type]
