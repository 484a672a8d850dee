"""Never silent: a result is finite and right, or an exception says what went wrong, where, and how to mend it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from arguments import OTHERS, SAMPLE
from faults import (
    ADAPTIVE,
    ALIASES,
    EVERY,
    FAMILIES,
    FIXED,
    HARMFUL,
    HARMLESS,
    HIT,
    SDE,
    SOLVERS,
    START,
    Fault,
    FaultyNet,
    answer,
    samples_of,
    solved,
    unchanged,
)
from torch import Tensor

import scoresolve as ss

CORE = {name: HARMFUL[name] for name in ("nan_sample", "inf_all", "one_feature", "ValueError")}
RETRIED = {name: CORE[name] for name in ("one_feature", "ValueError")}
"""Those of the core that an adaptive solver cannot answer by a smaller step."""
COSTLY = ("torchdiffeq", "likelihood")
MATRIX = [
    *((FAMILIES[name], name, CORE if name in COSTLY else HARMFUL) for name in FAMILIES),
    *((EVERY[name], name, CORE if name in FIXED else RETRIED) for name in SOLVERS),
]


def inject(run: Callable[..., Any], name: str, faults: dict[str, Fault]) -> int:
    """Every fault at the first, a middle and the last call; then a run without one. Returns how many there were."""
    whole = FaultyNet()
    plain, cases = samples_of(run(whole.model())), 0
    for kind, fault in faults.items():
        net = FaultyNet(fault)
        model = net.model()
        for call in sorted({1, whole.calls // 2 + 1, whole.calls}):
            if kind == "alternating_nan" and call % 2:
                continue
            net.calls, net.at_call = 0, call
            with unchanged(START):
                _expect(fault, call, lambda model=model: run(model), f"{name}: {kind} at call {call}")
            cases += 1
        net.at_call = -1
        assert torch.equal(samples_of(run(model)), plain), f"{name}: {kind} lives on in the next run"
    return cases


def _expect(fault: Fault, call: int, run: Callable[[], Any], case: str) -> None:
    assert fault.error is not None
    try:
        run()
    except BaseException as error:
        notes = getattr(error, "__notes__", [])
        said = "\n".join([str(error), *notes])
        if fault.error is ss.NetworkOutputError and "writes_x" in case and isinstance(error, RuntimeError):
            assert "in-place operation" in said, case  # torch's own, where x is being differentiated by
        else:
            assert type(error) is fault.error, (case, error)  # noqa: PT017 (BaseExceptions of every kind)
            assert re.search(fault.match, said), (case, said)
        shown = re.search(r"network call \d+ \(step \d+, t = [\d.]+\)|: nonfinite at t = [\d.]+ after \d+ calls", said)
        assert shown, (case, said)
        if fault.alone:
            assert f"({HIT})" in said or f"sample {HIT}:" in said, (case, said)
    else:
        pytest.fail(f"{case} was silent")


@pytest.mark.parametrize(("run", "name", "faults"), MATRIX, ids=lambda value: value if isinstance(value, str) else "")
def test_every_fault_is_named(run: Callable[..., Any], name: str, faults: dict[str, Fault]) -> None:
    assert inject(run, name, faults) >= 2 * len(faults)


def test_how_many_faults_there_are() -> None:
    """The matrix does not shrink unseen."""
    assert len(HARMFUL) == 41
    assert len(HARMLESS) + len(ALIASES) == 15
    assert sum(3 * len(faults) for *_, faults in MATRIX) >= 3000


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_unusual_and_harmless_changes_nothing(name: str) -> None:
    """At every call: answers of other kinds of memory, modes that the network leaves behind, samples drawn within."""
    run, differentiated = FAMILIES[name], name in ("grad", "log_prob", "likelihood")
    plain = samples_of(run(FaultyNet().model()))
    for kind, fault in HARMLESS.items():
        if differentiated and kind in ("same_buffer", "requires_grad", "grad_mode_off"):
            continue  # these cut the graph
        net = FaultyNet(fault)
        try:
            found = samples_of(run(net.model()))
            assert torch.is_grad_enabled(), kind
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(found, plain), kind
        assert found.requires_grad == plain.requires_grad, kind


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("log_prob", "likelihood")])
def test_answers_that_share_memory(name: str) -> None:
    """With the input, or within themselves: the samples of answers in memory of their own."""
    for kind, (shared, apart) in ALIASES.items():
        found, plain = (
            samples_of(FAMILIES[name](ss.ScoreModel(lambda x, t, f=f: f(x), SDE, predicts="noise")))
            for f in (shared, apart)
        )
        assert torch.equal(found, plain), kind


def failing(x: Tensor, t: Tensor, who: Tensor) -> Tensor:
    """NaN for one sample from some time on, known by its conditioning wherever it is in the batch."""
    lost = (who == HIT) & (t.expand(len(x)) < 0.6)
    return torch.where(lost[:, None], math.nan, answer(x, t))


@pytest.mark.parametrize("name", [*FAMILIES, *EVERY])
def test_masked_samples_are_told_and_the_others_are_exact(name: str) -> None:
    run, who = {**EVERY, **FAMILIES}[name], torch.arange(4.0)
    model = ss.ScoreModel(failing, SDE, predicts="noise").condition(who=who)
    with pytest.raises(ss.NonFiniteError, match=rf"\({HIT}\)|sample {HIT}: nonfinite"):
        run(model)
    if name in ("rk45", "scipy_rk45"):  # one step for all samples: none is left when one has none
        with pytest.raises(ss.NonFiniteError, match=rf"1 of 4 samples \({HIT}\)"):
            run(model, on_error="mask")
        return
    found = run(model, on_error="mask")
    good = run(ss.ScoreModel(lambda x, t, who: answer(x, t), SDE, predicts="noise").condition(who=who))
    others = [row for row in range(4) if row != HIT]
    assert torch.equal(samples_of(found)[others], samples_of(good)[others])
    assert samples_of(found)[HIT].isnan().all()
    assert found.ok.tolist() == [row != HIT for row in range(4)]
    assert [failure.sample for failure in found.failures] == [HIT]
    assert found.failures[0].time < 0.6


@pytest.mark.parametrize(("word", "case"), [*SAMPLE, *OTHERS], ids=[str(n) for n in range(len(SAMPLE) + len(OTHERS))])
def test_bad_arguments_are_refused_by_name(word: str, case: Callable[[], Any]) -> None:
    """ValueError, TypeError or one of the library's own, never another; the message has the argument's name."""
    if not word:
        assert case().samples.isfinite().all()
        return
    with pytest.raises((ValueError, TypeError, ss.ScoreSolveError), match=re.escape(word)):
        case()


class Noise:
    """A source of noise of one's own, with a fault at one draw."""

    def __init__(self, change: Callable[[Tensor], Any], at: int) -> None:
        self.change, self.at, self.source = change, at, ss.SampleStreams(0, range(4))

    def draw(self, stream: int, index: Any, like: Tensor) -> Any:
        """Standard normal noise shaped as ``like``, but for the fault."""
        self.at -= 1
        normal = ss.SampleStreams(0, range(len(like))).draw(stream, index, like)
        return self.change(normal) if self.at == 0 else normal

    def take(self, rows: Tensor) -> Noise:
        """Some samples of it."""
        return self


NOISES = {
    "a row": (lambda z: z[:1], ValueError, r"shape \(1, .*expected a tensor of shape \(4, "),
    "a number": (lambda z: 0.5, TypeError, "float; expected a tensor"),
    "double": (lambda z: z.double(), ValueError, "torch.float64"),
    "nan": (
        lambda z: z.index_fill(0, torch.tensor([HIT]), math.nan),
        ss.NonFiniteError,
        rf"samples \({HIT}\): check the",
    ),
}


@pytest.mark.parametrize("solver", ["ddpm", "sra1", "annealed_langevin", "adaptive_sde_sra"])
@pytest.mark.parametrize("kind", NOISES)
def test_a_source_of_noise_that_is_wrong_is_named(solver: str, kind: str) -> None:
    change, error, match = NOISES[kind]
    for at in (1, 3):
        with pytest.raises(error, match=rf"noise=Noise returned for draw .* of stream \d.*{match}"):
            solved(FaultyNet().model(), solver, noise=Noise(change, at))  # type: ignore[arg-type]


def _writes(step: ss.Step) -> None:
    step.x.mul_(0.5)


CALLBACKS: dict[str, tuple[Callable[[ss.Step], Any], type[Exception], str]] = {
    "a row": (
        lambda step: step.x[:1],
        ValueError,
        r"callback returned \(1, 2\).*expected None, or a state of \(4, 2\)",
    ),
    "a number": (lambda step: 0.5, ValueError, "callback returned float"),
    "double": (lambda step: step.x.double(), ValueError, "callback returned .*float64"),
    "sparse": (lambda step: step.x.to_sparse(), ValueError, "callback returned"),
    "nan": (
        lambda step: step.x * math.nan,
        ss.NonFiniteError,
        r"step \d.*the callback returned NaN or infinity in 4 of 4",
    ),
    "writes": (_writes, ValueError, r"callback wrote into the state it was shown \(step 1, t = .*return a changed one"),
}


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "ddpm", "annealed_langevin", "heun"])
@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_callback_that_does_what_it_must_not_is_named(solver: str, kind: str) -> None:
    callback, error, match = CALLBACKS[kind]
    with unchanged(START), pytest.raises(error, match=match):
        solved(FaultyNet().model(), solver, callback=callback)


@pytest.mark.parametrize("solver", ["dpmpp_2m", *ADAPTIVE])
def test_a_callback_that_raises_is_told_where(solver: str) -> None:
    def callback(step: ss.Step) -> None:
        raise LookupError("mine")

    with unchanged(START), pytest.raises(LookupError, match="mine") as caught:
        solved(FaultyNet().model(), solver, callback=callback)
    assert caught.value.__notes__[0].startswith("raised by the callback at step 1, t = 0.")


def test_a_callback_may_hand_out_one_buffer_again_and_again() -> None:
    kept = torch.empty(4, 2)
    found = [
        solved(FaultyNet().model(), "dpmpp_2m", callback=callback, trajectory=True).trajectory
        for callback in (lambda step: step.x * 0.9, lambda step: torch.mul(step.x, 0.9, out=kept))
    ]
    assert torch.equal(*found)  # type: ignore[arg-type]
