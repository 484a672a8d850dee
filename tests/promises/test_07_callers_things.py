"""Nothing of the caller's is changed, on return or on an exception, by any way in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import (
    ADAPTIVE,
    EVERY,
    FAMILIES,
    HARMFUL,
    HARMLESS,
    SDE,
    START,
    FaultyNet,
    answer,
    samples_of,
    solved,
    unchanged,
)
from torch import Tensor

import scoresolve as ss

RUNS: dict[str, Callable[..., Any]] = {**EVERY, **FAMILIES}
WAYS_IN: dict[str, Callable[[ss.ScoreModel], Any]] = {
    "score": lambda model: model.score(START, torch.full((4,), 0.5)),
    "interpolate": lambda model: ss.interpolate(START, START.flip(0), torch.tensor([0.2, 0.7])),
    "bound": lambda model: ss.variational_bound(model, START),
    "doctor": lambda model: ss.doctor(model, START.shape, data=START),
    "loss": lambda model: ss.losses.denoising_score_matching(model, START, seed=0),
    "fit": lambda model: ss.exact.Gaussian.fit(START),
    "perturb": lambda model: SDE.perturb(START, 0.5, noise=START),
    "compare": lambda model: ss.compare(model, (2, 2), solvers=["ddim"], nfe=[2]),
    "tune": lambda model: ss.tune(
        model, (2,), nfe=2, starts=START.double(), held_out=2, candidates=[("ddim", "karras")], minutes=0.01
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_everything_as_it_was(name: str) -> None:
    """Modes, defaults, generators, threads; the network's mode; the start, to its version."""
    net = FaultyNet().eval()
    with unchanged(START):
        first = samples_of(RUNS[name](net.model()))
    assert not net.training
    assert first.data_ptr() != START.data_ptr()
    first.detach().fill_(math.nan)  # what is returned is the caller's: nothing else has its memory
    with unchanged(START):
        assert samples_of(RUNS[name](net.model())).isfinite().all()


@pytest.mark.parametrize("name", WAYS_IN)
def test_so_do_the_other_ways_in(name: str) -> None:
    net = FaultyNet().eval()
    with unchanged(START):
        WAYS_IN[name](net.model())
    assert not net.training


@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("log_prob", "likelihood")])
def test_a_network_that_writes_into_the_start_is_given_another(name: str) -> None:
    """The error names it, and the caller's state is as it was, in inference mode too."""
    with unchanged(START), pytest.raises(ss.NetworkOutputError, match="wrote into its input"):
        RUNS[name](FaultyNet(HARMFUL["writes_x"], at_call=1).model())


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun", "adaptive_abm", "picard"])
def test_in_inference_mode_what_is_written_does_not_matter(name: str) -> None:
    """Tensors have no versions there: the network works on copies, and the samples are those of one that does not."""
    plain = samples_of(RUNS[name](FaultyNet().model()))

    def net(x: Tensor, t: Tensor) -> Tensor:
        out = answer(x, t)
        x.mul_(7.0)
        t.mul_(7.0)
        return out

    with torch.inference_mode(), unchanged():
        found = samples_of(RUNS[name](ss.ScoreModel(net, SDE, predicts="noise"), start=START.clone()))
    assert torch.equal(found, plain)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddpm", *ADAPTIVE])
def test_modes_of_the_callers_are_kept_and_do_not_matter(solver: str) -> None:
    """No-grad, inference, another default dtype, a network in training mode: the same samples, the same modes after."""
    plain = solved(FaultyNet().model(), solver).samples
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode(), unchanged():
            assert torch.equal(solved(FaultyNet().model(), solver, start=START.clone()).samples, plain)
    try:
        torch.set_default_dtype(torch.float64)
        with unchanged(START):
            assert torch.equal(solved(FaultyNet().model(), solver).samples, plain)
    finally:
        torch.set_default_dtype(torch.float32)
    net = FaultyNet(HARMLESS["module_mode"], at_call=1).train()
    assert torch.equal(solved(net.model(), solver).samples, plain)
    assert not net.training  # as the network left it itself
    start = START.clone().requires_grad_()
    with unchanged(start):
        found = solved(FaultyNet().model(), solver, start=start).samples
    assert not found.requires_grad


def test_conditioning_and_options_are_not_written_to() -> None:
    label, options, grid = torch.arange(4.0), {"eta": 0.5}, torch.tensor([0.9, 0.5, 0.1])
    model = ss.ScoreModel(lambda x, t, label: answer(x, t) + label[:, None], SDE, predicts="noise")
    model = model.condition(label=label).guide(2.0, label=torch.zeros(1))
    with unchanged(START, label, grid):
        ss.sample(model, start=START, solver="ddim", grid=grid, seed=0, solver_options=options, batch_size=3)
    assert options == {"eta": 0.5}
    assert list(model.conditioning) == ["label"]
