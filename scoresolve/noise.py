"""Every random number of the library: a pure function of (seed, sample, stream, draw, element).

A counter-based generator. Each (seed, sample, stream, draw) has two 64-bit keys; element pairs are hashed with them
by a keyed variant of the SplitMix64 finaliser (Steele et al. 2014; constants of Stafford's "Mix13"), and each 64-bit
word becomes two normal numbers by Box and Muller's transform. Nothing is stored or advanced, so sample i of seed s
is the same in any batch, order or process, on any device, to the rounding of log, cos and sin; no global generator
is read or moved. Arithmetic is on int64 tensors, whose products wrap as unsigned ones do.
"""

from __future__ import annotations

import copy
import math
import secrets
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from .errors import whole_number

REPLACEMENT, TRAINING, START, SOLVER, CORRECTOR, PROBE, DEQUANTISATION, BOUND, PATH = range(-2, 7)
"""Streams: the noise of measurements put in their place, the times and the noise of training, the starting state, the
solver's noise, the corrector's noise, the probes of a divergence, what turns whole numbers into densities, the noise of
the variational bounds, and the nodes of Brownian paths (the last, as its draws may exceed the 2^40 that lie between two
streams)."""


class NoiseSource(Protocol):
    """Where solvers take their noise: a standard normal tensor for each (stream, draw).

    Adaptive SDE solvers (``adaptive_sde_*``) ask for more, a :class:`PathSource`.
    """

    def draw(self, stream: int, index: int, like: Tensor) -> Tensor:
        """Standard normal noise shaped as ``like``, in its dtype and on its device."""
        ...


@runtime_checkable
class PathSource(Protocol):
    """A source of noise that can be asked again, for some of the samples, each at a draw of its own.

    What it gives must be a function of (sample, stream, draw) alone: a Brownian path that is refined comes back to it.
    """

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        """Standard normal noise shaped as ``like``; ``index`` may be an int64 tensor, a draw for each sample."""
        ...

    def take(self, rows: Tensor) -> PathSource:
        """The source of these samples (int64 indices into the batch), in this order."""
        ...


@runtime_checkable
class StillSource(Protocol):
    """A source that can be changed in place: a run that is captured draws from it, of whatever samples it then is of.

    A class that draws in a way of its own (``draw``) must have an ``adopt`` of its own, or it is not taken for one.
    """

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        """Standard normal noise shaped as ``like``."""
        ...

    def still(self, like: Tensor) -> Self:
        """The same noise from memory of its own, where ``like`` is, that stays in its place."""
        ...

    def adopt(self, other: Self, like: Tensor) -> None:
        """Become another source of as many samples, in place."""
        ...


def goes_with_draw(noise: object, method: str) -> bool:
    """Whether a source's method belongs to its ``draw``: not one that is inherited beside a draw of its own."""
    classes = type(noise).__mro__
    place = {name: [i for i, one in enumerate(classes) if name in vars(one)] for name in (method, "draw")}
    return (place[method] or [0])[0] <= (place["draw"] or [len(classes)])[0]


class SampleStreams:
    """Noise keyed by a seed and the index of each sample.

    Args:
        seed: a whole number, ``0 <= seed < 2^63``.
        indices: the index of each sample of the batch, whole numbers in the same range.

    >>> import torch
    >>> like = torch.empty(3, 5)
    >>> batch = SampleStreams(7, [0, 1, 2]).draw(SOLVER, 0, like)
    >>> alone = SampleStreams(7, [1]).draw(SOLVER, 0, like[:1])
    >>> torch.equal(batch[1:2], alone)
    True
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self.seed = _word("seed", seed)
        samples = torch.tensor([_word("each index", index) for index in indices], dtype=torch.int64, device="cpu")
        self._keys = {samples.device: _mix(samples, salt=_mix_integer(self.seed))}  # one for each sample

    def draw(self, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
        """Standard normal noise shaped as ``like`` (batch, ...), one row for each index.

        Args: stream, ``START`` or another; index, which draw: an int of at least 0, or an int64 tensor (batch,).
        """
        samples = self._sample_keys(like)
        if isinstance(index, Tensor):
            salt: int | Tensor = _mix_integers(index.to(like.device) + stream * 2**40)
        else:
            salt = _mix_integer(stream * 2**40 + int(index))  # numpy's integers would overflow
        return _normals(_mix(samples, salt), like.shape[1:].numel(), like.dtype).reshape(like.shape)

    def draws(self, stream: int, indices: Sequence[int] | Tensor, like: Tensor) -> Tensor:
        """Several draws at once, (draws, *like.shape): to the bit what :meth:`draw` gives for each of the indices.

        >>> import torch
        >>> streams, like = SampleStreams(7, [0, 1]), torch.empty(2, 5)
        >>> torch.equal(streams.draws(SOLVER, [4, 9], like)[1], streams.draw(SOLVER, 9, like))
        True
        """
        samples = self._sample_keys(like)
        salts = _mix_integers(torch.as_tensor(indices, dtype=torch.int64, device=like.device) + stream * 2**40)
        keys = _mix(samples, salts[:, None]).flatten()
        return _normals(keys, like.shape[1:].numel(), like.dtype).reshape(-1, *like.shape)

    def take(self, rows: Tensor) -> SampleStreams:
        """The streams of some samples: ``rows`` (n,) int64, indices into the batch.

        >>> import torch
        >>> batch, like = SampleStreams(7, [4, 5, 6]), torch.empty(3, 5)
        >>> some = batch.take(torch.tensor([2, 0])).draw(SOLVER, torch.tensor([9, 1]), like[:2])
        >>> bool((some[1] == batch.draw(SOLVER, 1, like)[0]).all())
        True
        """
        some = copy.copy(self)
        some._keys = {device: keys[rows.to(device)] for device, keys in self._keys.items()}
        return some

    def still(self, like: Tensor) -> Self:
        """The same streams with keys of their own on the device of ``like``, that :meth:`adopt` writes over."""
        own = copy.copy(self)
        own._keys = {like.device: self._sample_keys(like).clone()}
        return own

    def adopt(self, other: Self, like: Tensor) -> None:
        """Become the streams of as many other samples, in place.

        >>> import torch
        >>> like = torch.empty(2, 5)
        >>> mine, other = SampleStreams(7, [0, 1]).still(like), SampleStreams(8, [3, 4])
        >>> mine.adopt(other, like)
        >>> torch.equal(mine.draw(SOLVER, 0, like), other.draw(SOLVER, 0, like))
        True
        """
        self._sample_keys(like).copy_(other._sample_keys(like))
        self.seed = other.seed

    def _sample_keys(self, like: Tensor) -> Tensor:
        """A key for each sample of a batch; copied to a device once."""
        if like.device not in self._keys:
            self._keys[like.device] = next(iter(self._keys.values())).to(like.device)
        keys = self._keys[like.device]
        if like.shape[0] != len(keys):
            raise ValueError(f"noise for {len(keys)} samples was asked for a batch of {like.shape[0]}")
        return keys


def spread_places(seed: int, indices: Sequence[int]) -> Tensor:
    """Evenly spread places in (0, 1), one for each sample of a seed, each of them uniform over the seeds; float64.

    The digits of the index in base 2, mirrored at the point (van der Corput), and the seed's shift, modulo 1: of any
    2^m consecutive indices there is one in each 2^-m, and a sample's place does not depend on how many there are.
    """
    mirrored = [int(f"{_word('each index', index):063b}"[::-1], 2) * 2.0**-63 for index in indices]
    shift = SampleStreams(seed, [0]).draw(TRAINING, 0, torch.empty(1, 1, dtype=torch.float64, device="cpu"))
    place: Tensor = torch.special.ndtr(shift)[0] + torch.tensor(mirrored, dtype=torch.float64, device="cpu")
    return place.remainder(1.0)


def fresh_seed(generator: torch.Generator | None = None) -> int:
    """A seed from the caller's generator, or else from the operating system's entropy."""
    if generator is None:
        return secrets.randbits(62)
    return int(torch.randint(2**62, (), generator=generator, device=generator.device).item())


def _word(name: str, value: object) -> int:
    number = whole_number(name, value, least=0)
    if number >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {number}")
    return number


def _signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_BLOCK = 2**16
"""Words of a block, for each thread of the CPU."""
_DEVICE_BLOCK = 2**22
_MULTIPLY_1, _MULTIPLY_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift_xor_(word: Tensor, bits: int, spare: Tensor) -> Tensor:
    """``word ^= word >>> bits`` (a logical shift: the copied sign is masked off)."""
    return word.bitwise_xor_(torch.bitwise_right_shift(word, bits, out=spare).bitwise_and_(2 ** (64 - bits) - 1))


def _finish(word: Tensor, key: Tensor | int, spare: Tensor) -> Tensor:
    """SplitMix64's finaliser in place, the key between its rounds; ``spare`` is room to work in."""
    _shift_xor_(word, 30, spare).mul_(_MULTIPLY_1).bitwise_xor_(key)
    _shift_xor_(word, 27, spare).mul_(_MULTIPLY_2)
    return _shift_xor_(word, 31, spare)


def _mix(word: Tensor, salt: int | Tensor) -> Tensor:
    """One keyed scrambling of a tensor of words."""
    word = word * _GAMMA + salt
    return _finish(word, 0, torch.empty_like(word))


def _mix_integers(values: Tensor) -> Tensor:
    """What :func:`_mix_integer` makes of each of a tensor of integers."""
    word = values + _GAMMA
    return _finish(word, 0, torch.empty_like(word))


def _mix_integer(value: int) -> int:
    """The same scrambling of one host integer."""
    word = (value + 0x9E3779B97F4A7C15) & (2**64 - 1)
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return _signed(word ^ (word >> 31))


def _normals(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """``count`` standard normals for each key (n,) int64: (n, count).

    Block by block, each small enough for every pass over it to stay in the cache of its core (on an accelerator, for
    the words not to take more memory than the result). Each number is a function of its key and place alone.
    """
    pairs = (count + 1) // 2
    normal = keys.new_empty(len(keys), pairs, 2, dtype=dtype)
    counter = torch.arange(pairs, device=keys.device).mul_(_GAMMA)
    key, second_key = keys[:, None], _mix(keys, _GAMMA)[:, None]
    block = _BLOCK * torch.get_num_threads() if keys.device.type == "cpu" else _DEVICE_BLOCK
    rows, width = max(block // max(pairs, 1), 1), min(block, max(pairs, 1))
    room = _Room(min(rows, len(keys)) * width, normal)
    for top in range(0, len(keys), rows):
        some = slice(top, top + rows)
        for left in range(0, pairs, width):
            part = slice(left, left + width)
            out = normal[some, part]
            words, spare, radius, angle = room.shaped(out.shape[:2])
            torch.add(counter[part], key[some], out=words)
            _finish(words, second_key[some], spare)
            _box_muller(words, spare, radius, angle, out)
    return normal.flatten(1)[:, :count]


class _Room:
    """Memory that every block works in: a fresh temporary at each pass would cost more than the pass."""

    def __init__(self, size: int, like: Tensor) -> None:
        self._words = like.new_empty(2, size, dtype=torch.int64)
        self._parts = like.new_empty(2, size)

    def shaped(self, shape: Sequence[int]) -> list[Tensor]:
        """(words, spare, radius, angle) of a block."""
        return [one[: math.prod(shape)].view(*shape) for one in (*self._words, *self._parts)]


def _box_muller(words: Tensor, spare: Tensor, radius: Tensor, angle: Tensor, out: Tensor) -> None:
    """Two standard normals a word: radius from its low 32 bits (up to 6.7), angle from its high 32, side by side.

    Computed in the state's dtype from the same bits, so float32 and float64 runs see the same noise to rounding.
    """
    angle.copy_(torch.bitwise_right_shift(words, 32, out=spare)).mul_(2 * math.pi * 2.0**-32)
    radius.copy_(words.bitwise_and_(0xFFFFFFFF)).add_(0.5).mul_(2.0**-32)
    radius.log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
    cosine = spare.view(angle.dtype).flatten()[: angle.numel()].view(angle.shape)  # a room that is free by now
    torch.mul(radius, torch.cos(angle, out=cosine), out=out[..., 0])
    torch.mul(radius, angle.sin_(), out=out[..., 1])


def hashed(word: Tensor, salt: int | Tensor) -> Tensor:
    """64 well-mixed bits, int64, for each pair of a word and a salt (which are broadcast)."""
    return _mix(word, _mix_integer(salt) if isinstance(salt, int) else _mix_integers(salt))


def uniforms(keys: Tensor, count: int) -> Tensor:
    """``count`` numbers of (0, 1) for each key (n,) int64, of 52 bits: (n, count) float64."""
    words = hashed(keys[:, None], torch.arange(count, device=keys.device))
    return (words >> 12).bitwise_and_(2**52 - 1).double().add_(0.5).mul_(2.0**-52)
