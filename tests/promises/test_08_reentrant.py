"""Re-entrant: threads, runs within runs, and an exception at any call; the next run is right."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from faults import ADAPTIVE, EVERY, FAMILIES, RAISED, SDE, START, FaultyNet, answer, samples_of, solved, unchanged
from torch import Tensor

import scoresolve as ss

SOLVERS = ["ddim", "dpmpp_2m", "unipc_3", "sra1", "annealed_langevin", "adaptive_abm", "adaptive_sde_sra"]


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "sra1", "annealed_langevin", "picard", "log_prob", *ADAPTIVE])
def test_an_exception_at_every_single_call_leaves_nothing_behind(name: str) -> None:
    """Ctrl-C at call 1, 2, ...: it comes through as it is, and the same model then samples as if nothing had been."""
    run = {**EVERY, **FAMILIES}[name]
    net = FaultyNet()
    model = net.model()
    plain, calls = samples_of(run(model)), net.calls
    net.fault = RAISED["KeyboardInterrupt"]
    for call in range(1, min(calls, 12) + 1):
        net.calls, net.at_call = 0, call
        with unchanged(START), pytest.raises(KeyboardInterrupt, match="from the network"):
            run(model)
        assert net.calls == call
    net.at_call = -1
    assert torch.equal(samples_of(run(model)), plain)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_may_sample_within_its_own_call(solver: str) -> None:
    """The inner run is that of any other caller, on the same model too, and the outer one goes on as it was."""
    inner: list[Tensor] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        if len(inner) < 2 and x.shape[1] == 2:
            inner.append(solved(model, solver, start=START.repeat(1, 2)).samples)
        return answer(x, t)

    model = ss.ScoreModel(net, SDE, predicts="noise")
    plain = ss.ScoreModel(answer, SDE, predicts="noise")
    outer = solved(model, solver)
    assert torch.equal(outer.samples, solved(plain, solver).samples)
    alone = solved(plain, solver, start=START.repeat(1, 2))
    assert all(torch.equal(found, alone.samples) for found in inner)
    assert outer.nfe == solved(plain, solver).nfe  # calls of the inner runs are theirs


def test_threads_share_a_model() -> None:
    """Eight at once, by several solvers, one of which fails: every result is that of a run alone."""
    net = FaultyNet()
    model = net.model()
    plain = {solver: solved(model, solver).samples for solver in SOLVERS}
    gate = threading.Barrier(8)

    def work(number: int) -> list[tuple[str, Tensor]]:
        gate.wait()
        order = SOLVERS[number % 3 :] + SOLVERS[: number % 3]
        if number == 0:
            with pytest.raises(ss.NetworkOutputError):
                solved(ss.ScoreModel(lambda x, t: None, SDE, predicts="noise"), "dpmpp_2m")
        return [(solver, solved(model, solver).samples) for solver in order]

    with unchanged(START), ThreadPoolExecutor(8) as pool:
        done = list(pool.map(work, range(8)))
    for solver, found in (one for each in done for one in each):
        assert torch.equal(found, plain[solver]), solver


@pytest.mark.parametrize("name", ["ValueError", "StopIteration", "GeneratorExit", "SystemExit", "OutOfMemoryError"])
def test_the_other_ways_in_let_exceptions_through(name: str) -> None:
    """A network that fails midway in searches, comparisons and files: its exception, or a row that says so."""
    fault = RAISED[name]
    assert fault.error is not None
    few: dict[str, Any] = {"starts": 4, "held_out": 4, "candidates": [("ddim", "karras")], "minutes": 0.01}
    for run in (
        lambda model: ss.compare(model, (2, 2), solvers=["ddim"], nfe=[2]),
        lambda model: ss.tune(model, (2,), nfe=2, **few),
        lambda model: ss.variational_bound(model, START),
        lambda model: ss.model_statistics(model, START),
        lambda model: ss.advise(model, (2,), nfe=[2], minutes=0.01),
    ):
        for call in (1, 9):
            net = FaultyNet(fault, call)
            with unchanged(START), pytest.raises(fault.error, match="from the network") as caught:
                run(net.model())
            assert any("network call" in note for note in caught.value.__notes__)


def test_an_exception_of_the_network_in_sample_to_comes_through(tmp_path: Any) -> None:
    """And the files that were finished are kept: run again, it makes what is missing."""
    net = FaultyNet(RAISED["KeyboardInterrupt"], at_call=7)
    asked: dict[str, Any] = {"shape": (6, 2), "solver": "ddim", "nfe": 3, "batch_size": 2}
    with unchanged(), pytest.raises(KeyboardInterrupt):
        ss.sample_to(net.model(), tmp_path, **asked)
    again = ss.sample_to(FaultyNet().model(), tmp_path, **asked)
    assert again.complete
    plain = ss.sample(FaultyNet().model(), (6, 2), solver="ddim", nfe=3, seed=0).samples
    assert torch.equal(ss.shards.load(tmp_path)["samples"], plain)
