"""The bits of the noise, read back from the normals: each test has a fixed seed and a sabotaged source that fails it.

Box and Muller's transform is undone in float64, where it loses nothing: ``(z_0, z_1)`` gives the 64 bits it was made
of. A correct source fails a test with probability below 1e-6 (z = 5.5 for the most of 64 x 64 numbers: 1.5e-4 / 4096).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresolve as ss
from scoresolve import noise
from scoresolve.noise import SOLVER


def words(z: Tensor) -> Tensor:
    """The words that normals (..., 2 k), float64, were made of: (..., k) int64."""
    pair = z.unflatten(-1, (-1, 2))
    low = (torch.exp(-0.5 * pair.square().sum(-1)) * 2.0**32 - 0.5).round().long()
    turn = torch.atan2(pair[..., 1], pair[..., 0]) / (2 * math.pi)
    return (turn.remainder(1.0) * 2.0**32).round().long().remainder(2**32).bitwise_left_shift(32) | low


def drawn(seed: int, samples: Sequence[int] = (0,), draws: Sequence[int] = (0,), k: int = 1) -> Tensor:
    """Words (draws, samples, k)."""
    like = torch.empty(len(samples), 2 * k, dtype=torch.float64)
    return words(ss.SampleStreams(seed, samples).draws(SOLVER, list(draws), like))


def bits(w: Tensor) -> Tensor:
    """The 64 bits of each word, one more dimension."""
    return (w[..., None] >> torch.arange(64)) & 1


def test_the_words_are_read_back_to_the_last_bit() -> None:
    made = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(0))
    out = torch.empty(1000, 2, dtype=torch.float64)
    room = noise._Room(1000, out)
    kept = made.clone()
    noise._box_muller(made, *room.shaped((1000,))[1:], out)
    assert torch.equal(words(out.flatten()), kept)


def balanced(w: Tensor) -> bool:
    """Each of 64 bits is one half of the time: 2^18 words detect 0.5 %."""
    n = w.numel()
    return bool(((bits(w.flatten()).double().mean(0) - 0.5).abs() < 5.5 * 0.5 / math.sqrt(n)).all())


def uncorrelated(w: Tensor) -> bool:
    """Words do not follow from those 1 to 32 places before, along draws, samples and elements: detects 0.02."""
    x = (w.double() * 2.0**-64) * math.sqrt(12)
    low = ((w & 0xFFFFFFFF).double() * 2.0**-32 - 0.5) * math.sqrt(12)
    found = []
    for one in (x, low):
        for axis in range(3):
            for lag in range(1, 33):
                a, b = one.narrow(axis, lag, one.shape[axis] - lag), one.narrow(axis, 0, one.shape[axis] - lag)
                found.append(float((a * b).mean()) * math.sqrt(a.numel()))
    return max(map(abs, found)) < 6.0


def distinct(w: Tensor) -> bool:
    """Of 2^20 words' 32 upper and 32 lower bits as many meet as of random ones: 2^40 / 2^33 = 128 pairs, each."""
    halves = ((w >> 32) & 0xFFFFFFFF, w & 0xFFFFFFFF)
    pairs = [w.numel() - len(torch.unique(half)) for half in halves]
    return all(abs(count - 128) < 5.5 * math.sqrt(128) for count in pairs) and len(torch.unique(w)) == w.numel()


def _block() -> Tensor:
    return drawn(5, range(64), range(64), 64)


def test_every_bit_is_balanced() -> None:
    assert balanced(_block())
    assert not balanced(_block() | (torch.rand(64, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.02))


def test_words_do_not_follow_from_those_before() -> None:
    assert uncorrelated(_block())
    for axis in range(3):
        place = torch.arange(64).view([-1 if axis == k else 1 for k in range(3)])
        assert not uncorrelated(torch.where(place % 8 == 0, _block().roll(3, axis), _block()))  # one in eight again


@pytest.mark.parametrize("keys", ["draws", "seeds and elements"])
def test_first_words_meet_as_often_as_random_ones(keys: str) -> None:
    like = torch.empty(1, 2, dtype=torch.float64)
    if keys == "draws":
        w = words(ss.SampleStreams(3, [0]).draws(SOLVER, torch.arange(2**20), like)).flatten()
    else:
        w = torch.cat([drawn(seed, k=2**16) for seed in range(16)]).flatten()
    assert distinct(w)
    assert not distinct(w & ~(1 << 40))  # one bit is missing
    assert not distinct(torch.cat([w[:-1], w[:1]]))  # one key is there twice


INPUTS: dict[str, tuple[Callable[[int], Tensor], range]] = {
    "seed": (lambda flip: torch.cat([drawn(s ^ flip, range(16), range(4)) for s in BASES]), range(0, 62, 3)),
    "sample": (lambda flip: drawn(1, [i ^ flip for i in BASES], range(64)), range(62)),
    "draw": (lambda flip: drawn(1, range(64), [k ^ flip for k in range(64)]), range(39)),
    "element": (lambda flip: drawn(1, range(64), range(1), 2**12)[..., PLACES ^ flip], range(12)),
}
BASES = [int(base) for base in np.random.default_rng(0).integers(2**61, size=64)]


PLACES = torch.from_numpy(np.random.default_rng(1).integers(2**12, size=64))


def avalanche(word_of: Callable[[int], Tensor], places: range) -> bool:
    """Flipping a bit of the input flips each bit of the word half of the time: 4096 words detect 4.3 %."""
    plain = word_of(0)
    for place in places:
        changed = bits(word_of(1 << place) ^ plain).flatten(0, -2).double().mean(0)
        if bool(((changed - 0.5).abs() > 5.5 * 0.5 / math.sqrt(plain.numel())).any()):
            return False
    return True


@pytest.mark.parametrize("name", INPUTS)
def test_every_bit_of_the_input_changes_every_bit_of_the_word_half_of_the_time(name: str) -> None:
    assert avalanche(*INPUTS[name])


@pytest.mark.parametrize("name", INPUTS)
def test_a_hash_of_one_round_less_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A multiplication carries upwards only."""

    def weak(word: Tensor, key: Tensor | int, spare: Tensor) -> Tensor:
        return word.mul_(noise._MULTIPLY_1).bitwise_xor_(key)

    monkeypatch.setattr(noise, "_finish", weak)
    monkeypatch.setattr(noise, "_mix_integer", lambda value: value)
    assert not avalanche(*INPUTS[name])


def tails(lowest: Tensor) -> dict[int, float]:
    """P(|z| > k) of Box and Muller's transform, of radii of equally likely low words, over that of a normal."""
    radius = (-2 * ((lowest.double() + 0.5) * 2.0**-32).log()).sqrt()
    found = {}
    for k in (4, 5, 6):
        beyond = radius[radius > k]
        found[k] = float((k / beyond).acos().sum() * 2 / math.pi * 2.0**-32 / math.erfc(k / math.sqrt(2)))
    return found


def test_the_tails_are_those_of_the_normal_law_to_six_standard_deviations() -> None:
    """Exactly over all 2^32 radii (those beyond 4: 1.4 million); a radius of 24 bits would end at 5.9."""
    beyond = torch.arange(math.ceil(2.0**32 * math.exp(-8)))
    assert all(abs(ratio - 1) < 0.01 for ratio in tails(beyond).values())
    coarse = tails(beyond | 0xFF)
    assert abs(coarse[6] - 1) > 0.5
    z = ss.SampleStreams(1, range(16)).draw(SOLVER, 0, torch.empty(16, 2**20))
    for k, ratio in tails(beyond).items():
        expected = z.numel() * math.erfc(k / math.sqrt(2)) * ratio
        assert abs(int((z.abs() > k).sum()) - expected) < 5.5 * math.sqrt(expected) + 1
