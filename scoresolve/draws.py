"""A draw of noise, looked at: the one place where a source is asked by a solver."""

from __future__ import annotations

from torch import Tensor

from .ahead import Ahead
from .noise import NoiseSource
from .watch import require_finite

_OURS = f"{__name__.split('.')[0]}."


def drawn(noise: NoiseSource, stream: int, index: int | Tensor, like: Tensor) -> Tensor:
    """``noise.draw(stream, index, like)``, checked: of the shape, dtype and device of ``like``, nothing broadcast.

    The values of a source that is not the library's own are looked at too, where reading them does not wait for an
    accelerator. Raises: TypeError or ValueError for a draw that is not like ``like``; NonFiniteError for NaN.

    >>> import torch, scoresolve as ss
    >>> drawn(ss.SampleStreams(0, range(3)), 1, 0, torch.empty(3, 5)).shape
    torch.Size([3, 5])
    """
    normal = noise.draw(stream, index, like)  # type: ignore[arg-type]
    source = type(noise.source if isinstance(noise, Ahead) else noise)
    if not isinstance(normal, Tensor):
        raise TypeError(f"{_said(source, stream, index)} {type(normal).__name__}; expected {_kind(like)}")
    if normal.shape != like.shape or normal.dtype != like.dtype or normal.device != like.device:
        raise ValueError(
            f"{_said(source, stream, index)} {_kind(normal)}; expected {_kind(like)}, as of the argument like"
        )
    if not source.__module__.startswith(_OURS) and like.device.type == "cpu":
        require_finite(normal.detach(), _said(source, stream, index), "check the source of noise at that draw")
    return normal


def _said(source: type, stream: int, index: int | Tensor) -> str:
    number = index if isinstance(index, int) else f"of {len(index)} numbers"
    return f"noise={source.__name__} returned for draw {number} of stream {stream}"


def _kind(x: Tensor) -> str:
    return f"a tensor of shape {tuple(x.shape)}, {x.dtype} on {x.device}"
