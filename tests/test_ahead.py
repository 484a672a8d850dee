"""Draws made ahead: to the bit those made one by one, in fewer operations and bounded memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import scoresolve as ss
from benchmarks.operations import Operations
from scoresolve.ahead import ELEMENTS, Ahead, ahead
from scoresolve.noise import SOLVER, START


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 40, 40), (1, ELEMENTS + 1)])
def test_what_is_drawn_ahead_is_what_is_drawn_one_by_one(shape: tuple[int, ...]) -> None:
    for source in (ss.SampleStreams(3, range(shape[0])), ss.Antithetic(3, range(shape[0]))):
        like, planned = torch.empty(shape), [0, 1, 4, 5, 6, 30]
        noise = Ahead(source, SOLVER, planned, like)
        for index in (*planned, 2, 4):  # one that was not planned, one that is asked for again
            assert torch.equal(noise.draw(SOLVER, index, like), source.draw(SOLVER, index, like))
        assert torch.equal(noise.draw(START, 0, like), source.draw(START, 0, like))
        other = like.double()
        noise.draw(SOLVER, 0, like)
        assert torch.equal(noise.draw(SOLVER, 1, other), source.draw(SOLVER, 1, other))


def test_a_draw_of_a_small_state_costs_two_operations_at_most() -> None:
    like = torch.empty(64, 2)
    noise = ahead(ss.SampleStreams(0, range(64)), SOLVER, range(1000), like)
    with Operations() as counted:
        for index in range(1000):
            noise.draw(SOLVER, index, like)
    assert counted.found.total() < 2 * 1000
    with Operations() as alone:
        ss.SampleStreams(0, range(64)).draw(SOLVER, 0, like)
    assert alone.found.total() > 10  # what it would be


def test_memory_does_not_grow_with_the_steps() -> None:
    asked: list[int] = []

    class Recorded(ss.SampleStreams):
        def draws(self, stream: int, indices: object, like: Tensor) -> Tensor:
            asked.append(len(indices) * like.numel())  # type: ignore[arg-type]
            return super().draws(stream, indices, like)  # type: ignore[arg-type]

    like = torch.empty(10, 100)
    noise = ahead(Recorded(0, range(10)), SOLVER, range(1000), like)
    for index in range(1000):
        noise.draw(SOLVER, index, like)
    assert max(asked) <= ELEMENTS
    assert sum(asked) == 1000 * like.numel()  # nothing beyond the last


def test_the_loops_ask_ahead_and_sources_of_ones_own_are_left_alone() -> None:
    class Own:
        def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
            return streams.draw(stream, index, like)

    model = ss.exact.Gaussian(torch.zeros(2), 1.0).model(ss.VESDE())
    streams = ss.SampleStreams(0, range(4))
    assert ahead(Own(), SOLVER, range(9), torch.empty(1)).__class__ is Own
    for solver, options in (("ddpm", {"corrector": "langevin"}), ("sra1", {}), ("annealed_langevin", {})):
        drawn = [ss.sample(model, (4, 2), solver=solver, steps=9, noise=one, **options) for one in (streams, Own())]  # type: ignore[arg-type]
        assert torch.equal(drawn[0].samples, drawn[1].samples)


class Nothing(ss.SampleStreams):
    """A draw of its own beside ``draws`` that knows nothing of it."""

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


@pytest.mark.parametrize("solver", ["ddpm", "euler_maruyama", "sra1", "annealed_langevin", "adaptive_sde_sra"])
@pytest.mark.parametrize("numbers", [2, ELEMENTS])
def test_a_draw_of_ones_own_is_what_solvers_get(solver: str, numbers: int) -> None:
    model = ss.ScoreModel(lambda x, t: -x, ss.VESDE(), predicts="noise")
    if solver == "adaptive_sde_sra":
        asked = {"solver": solver, "rtol": 0.5, "atol": 0.5}
    else:
        asked = {"solver": solver, "nfe": 24}
    out = ss.sample(model, (2, numbers), noise=Nothing, dtype=torch.float64, **asked)  # type: ignore[arg-type]
    assert not out.samples.any()  # from 0, nothing moves it


def test_a_path_is_made_of_draws_of_ones_own() -> None:
    model = ss.ScoreModel(lambda x, t: -x, ss.VESDE(), predicts="noise")
    path = ss.BrownianPath(0, range(2), streams=Nothing)
    assert not ss.sample(model, (2, 3), solver="sra1", nfe=24, noise=path).samples.any()


@pytest.mark.parametrize("kind", [ss.SampleStreams, ss.Antithetic, ss.QuasiRandom])
@pytest.mark.parametrize("stream", [START, SOLVER])
def test_several_draws_are_the_single_ones(kind: type[ss.SampleStreams], stream: int) -> None:
    source, like = kind(3, range(4)), torch.empty(4, 5)
    for index, drawn in enumerate(source.draws(stream, [0, 1, 2], like)):
        assert torch.equal(drawn, source.draw(stream, index, like))
