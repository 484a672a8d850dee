"""Noise: a pure function of seed, sample, stream and draw; and standard normal, by tests that can fail.

Every statistical test has a fixed seed and fails a correct source with probability below 1e-6 (z = 4.9 two-sided);
each is also run on a sabotaged source, which must fail it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorder import On, Record
from scipy import stats
from torch import Tensor

import scoresolve as ss
from scoresolve.noise import CORRECTOR, SOLVER, START, fresh_seed, hashed, spread_places, uniforms

seeds = st.integers(0, 2**63 - 1)


@pytest.mark.property(21)
@given(seed=seeds, indices=st.lists(seeds, min_size=1, max_size=6), shape=st.lists(st.integers(1, 5), max_size=3))
def test_a_sample_has_the_same_noise_in_any_batch(seed: int, indices: list[int], shape: list[int]) -> None:
    whole = ss.SampleStreams(seed, indices).draw(SOLVER, 3, torch.empty(len(indices), *shape))
    for row, index in zip(whole, indices, strict=True):
        alone = ss.SampleStreams(seed, [index]).draw(SOLVER, 3, torch.empty(1, *shape))
        assert torch.equal(row, alone[0])
    assert torch.isfinite(whole).all()


@pytest.mark.property(21)
def test_streams_draws_seeds_and_samples_all_differ() -> None:
    like = torch.empty(1, 8)
    drawn = [
        ss.SampleStreams(seed, [index]).draw(stream, draw, like)
        for seed in (0, 1, 2**62)
        for index in (0, 1, 2**40)
        for stream in (START, SOLVER, CORRECTOR)
        for draw in (0, 1, 999)
    ]
    flat = torch.cat(drawn)
    assert len(torch.unique(flat)) == flat.numel()


def test_numbers_of_numpy_are_numbers() -> None:
    like = torch.empty(2, 3)
    streams, same = ss.SampleStreams(np.int64(7), np.arange(2)), ss.SampleStreams(7, range(2))
    for index in (np.int64(5), np.int32(5)):
        assert torch.equal(streams.draw(SOLVER, index, like), same.draw(SOLVER, 5, like))


@pytest.mark.property(21)
def test_float32_and_float64_see_the_same_noise() -> None:
    single = ss.SampleStreams(5, range(4)).draw(SOLVER, 0, torch.empty(4, 1000))
    double = ss.SampleStreams(5, range(4)).draw(SOLVER, 0, torch.empty(4, 1000, dtype=torch.float64))
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), double, atol=3e-6)


def test_the_noise_of_a_seed_does_not_change_from_one_version_to_the_next() -> None:
    """Pinned: a change of these numbers changes everybody's samples, and belongs under Numerics in the changelog."""
    drawn = ss.SampleStreams(2026, [0, 7]).draw(SOLVER, 3, torch.empty(2, 3, dtype=torch.float64))
    pinned = [
        [-1.7328589911495, 0.9637042435341, 0.4472172975287],
        [1.4055205758035, -0.4979542063779, -2.4188710089455],
    ]
    assert torch.allclose(drawn, torch.tensor(pinned, dtype=torch.float64), rtol=0, atol=1e-12)


def _source(seed: int, n: int = 1000, d: int = 1000) -> Tensor:
    return ss.SampleStreams(seed, range(n)).draw(SOLVER, 0, torch.empty(n, d, dtype=torch.float64))


def _moments(z: Tensor) -> bool:
    """Mean, variance, third and fourth moment of 10^6 numbers within 4.9 standard errors.

    Detects a shift of 0.005 standard deviations and a change of the variance by 0.7 %.
    """
    n = z.numel()
    spread = {1: 1.0, 2: 2.0, 3: 15.0, 4: 96.0}  # variances of z^k
    expected = {1: 0.0, 2: 1.0, 3: 0.0, 4: 3.0}
    return all(abs(z.pow(k).mean().item() - expected[k]) < 4.9 * math.sqrt(spread[k] / n) for k in spread)


def _distribution(z: Tensor) -> bool:
    """Kolmogorov-Smirnov at p = 1e-6: detects a distance of 0.0027 from the normal law."""
    return bool(stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-6)


def _independence(z: Tensor) -> bool:
    """Correlations between neighbouring elements, samples and squares within 4.9 standard errors: detects 0.005."""
    bound = 4.9 / math.sqrt(z.numel() * 0.99)
    pairs = [(z[:, :-1], z[:, 1:]), (z[:-1], z[1:]), (z[:, :-2], z[:, 2:]), (z[:, ::2], z[:, 1::2])]
    squares = [((a**2 - 1) / math.sqrt(2), (b**2 - 1) / math.sqrt(2)) for a, b in pairs]
    short = bound * math.sqrt(2)  # the last pair has half the numbers
    return all((a * b).mean().abs().item() < short for a, b in pairs + squares)


@pytest.mark.parametrize("test", [_moments, _distribution, _independence])
def test_the_source_is_standard_normal(test: Callable[[Tensor], bool]) -> None:
    assert test(_source(0))
    assert test(_source(2**63 - 1))


@pytest.mark.parametrize(
    ("test", "sabotage"),
    [
        (_moments, lambda z: 1.02 * z),
        (_moments, lambda z: z + 0.02),
        (_distribution, lambda z: z.clamp(-1.5, 1.5)),
        (_distribution, lambda z: torch.sign(z) * z.abs() ** 1.05),
        (_independence, lambda z: torch.cat([z[:500], z[:500]]).reshape(2, 500, -1).transpose(0, 1).reshape(1000, -1)),
        (_independence, lambda z: z + 0.02 * z.roll(1, dims=1)),
        (_independence, lambda z: torch.stack([z[:, ::2], z[:, ::2].abs() * z[:, 1::2].sign()], -1).flatten(1)),
    ],
)
def test_each_statistical_test_fails_on_a_sabotaged_source(
    test: Callable[[Tensor], bool], sabotage: Callable[[Tensor], Tensor]
) -> None:
    assert not test(sabotage(_source(0)))


def test_seeds_next_to_each_other_and_draws_next_to_each_other_are_uncorrelated() -> None:
    like = torch.empty(1, 100_000, dtype=torch.float64)
    drawn = torch.cat([ss.SampleStreams(seed, [0]).draw(SOLVER, k, like) for seed in range(4) for k in range(4)])
    correlation = drawn @ drawn.T / drawn.shape[1] - torch.eye(16)
    assert correlation.fill_diagonal_(0).abs().max().item() < 5.5 / math.sqrt(100_000)  # 120 pairs: p < 1e-5 / 120


def test_fresh_seeds_come_from_the_callers_generator_or_the_system() -> None:
    first = fresh_seed(torch.Generator().manual_seed(3))
    assert first == fresh_seed(torch.Generator().manual_seed(3))
    assert fresh_seed() != fresh_seed()


@pytest.mark.property(22)
@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "0", None])
def test_bad_seeds_are_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be"):
        ss.SampleStreams(seed, [0])  # type: ignore[arg-type]


def test_bad_indices_and_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="each index must be a whole number"):
        ss.SampleStreams(0, [-1])
    with pytest.raises(ValueError, match="noise for 2 samples was asked for a batch of 3"):
        ss.SampleStreams(0, [0, 1]).draw(0, 0, torch.empty(3, 2))


@pytest.mark.parametrize("shape", [(5, 7), (3, 50), (2, 0), (4,)])
def test_noise_does_not_depend_on_the_blocks_it_is_made_in(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of several samples, of a part of one, and the last ones that are not full."""
    for dtype in (torch.float32, torch.float64):
        like = torch.empty(shape, dtype=dtype)
        monkeypatch.undo()
        whole = ss.SampleStreams(1, range(shape[0])).draw(SOLVER, 0, like)
        for block in (1, 8, 9):
            monkeypatch.setattr("scoresolve.noise._BLOCK", block)
            assert torch.equal(ss.SampleStreams(1, range(shape[0])).draw(SOLVER, 0, like), whole)


def _fresh(block: int) -> tuple[int, int]:
    """How many tensors a draw in such blocks allocates, and how many elements."""
    streams, like = ss.SampleStreams(1, range(4)), torch.empty(4, 100)
    with pytest.MonkeyPatch.context() as patch, Record() as recorded:
        patch.setattr("scoresolve.noise._BLOCK", block)
        streams.draw(SOLVER, 0, like)
    made = [out for func, _, _, out in recorded.steps if func._schema.returns[0].alias_info is None]
    return len(made), sum(out.numel() for out in made)


def test_blocks_work_in_one_room_of_their_size() -> None:
    """No operation on a block allocates: 28 blocks make as many tensors as one does, and smaller ones."""
    (whole, much), (parts, little) = _fresh(200), _fresh(8)
    assert whole == parts
    assert much - little == 4 * (200 - 8)  # words, room to work in, radius, angle


def test_noise_is_made_on_the_device_of_the_state() -> None:
    """On torch's device without memory, where tensors of the host are refused; keys go there once."""
    like, streams = torch.empty(3, 5, device="meta"), ss.SampleStreams(7, range(3))
    for index in (4, torch.tensor([4, 5, 6])):
        drawn = streams.draw(SOLVER, index, like)
        assert (drawn.shape, drawn.device, drawn.dtype) == (like.shape, like.device, like.dtype)
    with On("meta"):
        assert streams.draw(SOLVER, 4, like).device == like.device
        keys = hashed(torch.arange(3, device="meta"), 5)
        assert uniforms(keys, 4).device == like.device
    assert streams.draws(SOLVER, [1, 2], like).device == like.device
    assert streams.take(torch.tensor([0])).draw(SOLVER, 0, like[:1]).device == like.device
    assert streams.draw(SOLVER, 0, torch.empty(3, 5)).device.type == "cpu"


def test_places_are_spread_by_the_mirrored_digits_of_the_index() -> None:
    """Van der Corput's sequence, shifted by the seed: the same whatever other indices are asked for."""
    places = spread_places(7, range(8))
    assert places.dtype == torch.float64
    steps = (places - places[0]).remainder(1.0)
    assert steps.tolist() == pytest.approx([0.0, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875], abs=1e-15)
    assert torch.equal(spread_places(7, [5, 2]), places[[5, 2]])
    late = spread_places(7, [2**40 - 1])[0]
    assert (late - places[0]).remainder(1.0) == pytest.approx(1 - 2.0**-40, abs=1e-15)
    shifts = torch.cat([spread_places(seed, [0]) for seed in range(400)]).sort().values
    assert (shifts - (torch.arange(400) + 0.5) / 400).abs().max() < 0.135  # Kolmogorov and Smirnov: p < 1e-6
    assert ((shifts > 0) & (shifts < 1)).all()
    assert (shifts.float() != shifts).any()  # of more digits than float32 has


def test_uniform_numbers_are_uniform_and_of_52_bits() -> None:
    """Kolmogorov's distance of 60000 of them, p < 1e-6; each bit is as often set as not (z = 4.9)."""
    keys = hashed(torch.arange(3), 5)
    numbers = uniforms(keys, 20000)
    assert numbers.shape == (3, 20000)
    assert torch.equal(uniforms(keys[[2, 0]], 7), numbers[[2, 0], :7])
    flat = numbers.flatten().sort().values
    assert (flat - (torch.arange(60000) + 0.5) / 60000).abs().max() < math.sqrt(math.log(2e6) / 2 / 60000)
    whole = flat * 2.0**52 - 0.5
    assert torch.equal(whole, whole.round())
    for bit in range(52):
        share = ((whole.long() >> bit) & 1).double().mean().item()
        assert abs(share - 0.5) < 4.9 * 0.5 / math.sqrt(60000)
