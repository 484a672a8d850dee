"""Runs captured and replayed: to the bit those that are not, with nothing of the host in the loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recorder import Alone, On, Recorder
from torch import Tensor

import scoresolve as ss
from benchmarks.operations import Operations
from scoresolve.graphs import RECORDERS, WARM_UP
from scoresolve.loop import Loop
from scoresolve.watch import Watch

SDE = ss.VPSDE()
TABLES = [info.name for info in ss.solvers() if not info.adaptive and info.name != "annealed_langevin"]
LABELS = torch.tensor([0.3, -0.5, 1.0, 0.0, -1.2])


def net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """A network that treats samples, and their elements, apart."""
    return torch.tanh(x if label is None else x - label[:, None]) * (1 + t[:, None])


def plain(**how: Any) -> ss.ScoreModel:
    return ss.ScoreModel(net, SDE, predicts="v", **how)


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorder]]:
    """The CPU records; what it recorded, in turn. Nothing warns."""
    monkeypatch.setitem(RECORDERS, "cpu", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield Recorder.made


@pytest.mark.parametrize("solver", TABLES)
def test_a_replay_is_the_run(recorders: list[Recorder], solver: str) -> None:
    model, asked = plain(), {"solver": solver, "nfe": 8, "dtype": torch.float64}
    run = ss.capture(model, (5, 2), **asked)
    for count, each in enumerate([{"seed": 1}, {"seed": 2}, {"seed": 2, "indices": [9, 3, 1, 4, 7]}], 1):
        before = model.nfe
        found = run(**each)
        calls = model.nfe - before
        expected = ss.sample(model, (5, 2), **asked, **each)
        assert torch.equal(found.samples, expected.samples)
        assert found.nfe == expected.nfe == found.table.nfe
        assert found.stats["network_rows"] == expected.stats["network_rows"]
        warm = WARM_UP if count == 1 else 0
        assert calls == found.nfe + warm
        assert (found.stats["warmup_calls"], found.stats["replays"]) == (warm, 1)
    assert [(one.captures, one.replays) for one in recorders] == [(1, 3)]


@pytest.mark.parametrize("time", ["t", "index"])
@pytest.mark.parametrize("solver", TABLES)
def test_the_loop_asks_nothing_of_the_host(solver: str, time: Any) -> None:
    """On torch's device without memory, from which nothing can be read, and which all tensors must be on."""
    model = ss.ScoreModel(lambda x, t, label: x + label[:, None] * t[:, None], ss.DiscreteVPSDE.linear(), time=time)
    times = ss.grids.make_grid("uniform", model.sde, 12, 1.0, 0.1)
    table = ss.build_table(solver, model.sde, times)
    x, label = torch.empty(4, 3, device="meta"), torch.empty(4, device="meta")
    watched = model.condition(label=label).guide(1.5, label=torch.zeros(1)).session(Watch(on_nonfinite="mask"))
    with torch.no_grad():
        loop = Loop(table, watched, x, ss.Antithetic(0, range(4)).still(x))
        with Alone(), On("meta"), Operations() as counted:
            assert loop(x).device.type == "meta"
    assert counted.reads == 0
    assert model.nfe == table.nfe


def test_chunks_replay_one_record(recorders: list[Recorder]) -> None:
    """The last is smaller, and run as always; its noise, its labels and its place in the batch are its own."""
    model = plain().condition(label=LABELS).guide(1.5, label=torch.zeros(1))
    asked = {"shape": (5, 2), "solver": "ddpm", "nfe": 6, "seed": 4, "trajectory": True, "denoise": True}
    expected = ss.sample(model, **asked)
    found = ss.sample(model, **asked, batch_size=2, capture=True)
    assert torch.equal(found.samples, expected.samples)
    assert torch.equal(found.trajectory, expected.trajectory)
    assert (found.nfe, found.stats["replays"], found.stats["warmup_calls"]) == (18, 2, WARM_UP)
    assert [(one.captures, one.replays) for one in recorders] == [(1, 2)]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("noise", [ss.SampleStreams, ss.Antithetic, ss.QuasiRandom])
def test_what_is_given_anew(recorders: list[Recorder], noise: Any, guided: bool) -> None:
    """Labels, starts, samples and sources of noise; nothing of the caller's is written to."""
    labels, start = LABELS.clone(), torch.ones(5, 2)
    asked: dict[str, Any] = {"shape": (5, 2), "solver": "sra1", "steps": 4, "noise": noise}
    model = plain().condition(label=labels)
    model = model.guide(2.0, label=torch.zeros(1)) if guided else model
    run = ss.capture(model, **asked)
    assert not torch.equal(run(seed=0).samples, run(seed=0, label=1 - LABELS).samples)
    for each in ({"seed": 1}, {"seed": 1, "start": start}, {"seed": 2, "indices": [3, 2, 8, 9, 1]}):
        assert torch.equal(run(**each).samples, ss.sample(model, **asked, **each).samples)
        other = model.condition(label=1 - LABELS)
        assert torch.equal(run(**each, label=1 - LABELS).samples, ss.sample(other, **asked, **each).samples)
    assert torch.equal(labels, LABELS)
    assert torch.equal(start, torch.ones(5, 2))
    assert len(recorders) == 1


def test_conditioning_in_lists_is_given_anew_too(recorders: list[Recorder]) -> None:
    model = ss.ScoreModel(lambda x, t, both: both[0][:, None] * x + both[1]["more"][:, None], SDE, predicts="v")
    asked: dict[str, Any] = {"shape": (5, 2), "solver": "ddim", "steps": 4, "seed": 0}
    one, other = ([LABELS + k, {"more": 2 * LABELS - k}] for k in (0, 1))
    run = ss.capture(model.condition(both=one), **{name: asked[name] for name in ("shape", "solver", "steps")})
    for both in (one, other, one):
        expected = ss.sample(model.condition(both=both), **asked).samples
        assert torch.equal(run(seed=0, both=both).samples, expected)
    assert len(recorders) == 1


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "rk4"])
def test_a_run_that_fails_spoils_no_other(recorders: list[Recorder], solver: str) -> None:
    """The message is that of the run that is not captured, and what is kept of it does not reach the next."""
    start = torch.tensor([[1.0, 1.0], [1.0, 3e38]])
    broken = ss.ScoreModel(lambda x, t: net(x, t) + 0 * (x * 1e9), SDE, predicts="v")
    run, masked = (ss.capture(broken, (2, 2), solver=solver, nfe=8, on_error=on) for on in ("raise", "mask"))
    good = run(start=start[:1].expand(2, 2)).samples
    with pytest.raises(ss.NonFiniteError) as eager:
        ss.sample(broken, start=start, solver=solver, nfe=8)
    with pytest.raises(ss.NonFiniteError) as replayed:
        run(start=start)
    assert str(replayed.value) == str(eager.value)
    assert torch.equal(run(start=start[:1].expand(2, 2)).samples, good)
    found, expected = masked(start=start), ss.sample(broken, start=start, solver=solver, nfe=8, on_error="mask")
    assert found.failures == expected.failures
    assert found.ok.tolist() == [True, False]


REFUSED: dict[str, dict[str, Any]] = {
    "CUDA device": {},
    "not a table": {"solver": "adaptive_abm"},
    "callback=": {"callback": lambda step: None},
    "grad=True": {"grad": True},
    "refined": {"model": ss.threshold(plain())},
    "noise=TablePath": {"solver": "sra1", "noise": ss.BrownianPath},
    "noise=Louder": {"solver": "ddpm"},
}


class Louder(ss.SampleStreams):
    """Draws of its own beside an ``adopt`` that knows nothing of them."""

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        return 2 * super().draw(stream, index, like)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_captured_runs_as_always(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    if reason != "CUDA device":
        monkeypatch.setitem(RECORDERS, "cpu", Recorder)
    asked: dict[str, Any] = {"model": plain(), "shape": (3, 2), "nfe": 60, "seed": 0, **REFUSED[reason]}
    if reason == "noise=Louder":
        asked["noise"] = Louder
    expected = ss.sample(**asked).samples
    if reason == "noise=Louder":
        assert not torch.equal(expected, ss.sample(**{**asked, "noise": ss.SampleStreams}).samples)
    with pytest.warns(UserWarning, match=reason) as caught:
        found = ss.sample(**asked, capture=True)
    assert torch.equal(found.samples, expected)
    assert [one.filename for one in caught] == [__file__]


def test_a_network_that_waits_runs_as_always(recorders: list[Recorder]) -> None:
    model = ss.ScoreModel(lambda x, t: x if x.sum().item() > 0 else -x, SDE, predicts="noise")
    run = ss.capture(model, (3, 2), solver="ddim", nfe=5)
    with pytest.warns(UserWarning, match="capture failed .RuntimeError: item is not permitted") as caught:
        found = run(seed=0)
    assert caught[0].filename.endswith("captured.py")
    assert (found.stats["replays"], found.stats["warmup_calls"], found.nfe) == (0, WARM_UP, 5)
    for seed in (0, 1):  # said once
        assert torch.equal(run(seed=seed).samples, ss.sample(model, (3, 2), solver="ddim", nfe=5, seed=seed).samples)
    other = ss.capture(plain().condition(label=LABELS), (5, 2), nfe=4)
    other(seed=0)
    with pytest.warns(UserWarning, match="more than the values of its tensors"):
        other(seed=0, label=LABELS.double())
    with pytest.raises(TypeError, match="seed is given each time"):
        ss.capture(model, (3, 2), seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc_3", "rk4", "ddpm", "sra1"])
def test_on_a_gpu(solver: str) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.SiLU(), torch.nn.Linear(64, 16)).cuda()
    model = ss.ScoreModel(lambda x, t: layers(x) * t[:, None], SDE, predicts="v")
    asked: dict[str, Any] = {"solver": solver, "nfe": 12, "device": "cuda"}
    run = ss.capture(model, (32, 16), **asked)
    for seed in (0, 1):
        found = run(seed=seed)
        assert found.stats["replays"] == 1
        assert torch.equal(found.samples, ss.sample(model, (32, 16), **asked, seed=seed).samples)
