"""The state a run starts from, and the checks on it: all before the network is first called."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .draws import drawn
from .errors import real_number, require, whole_number
from .model import ScoreModel
from .noise import START, NoiseSource, SampleStreams, fresh_seed
from .watch import require_finite

NoiseLike: TypeAlias = NoiseSource | Callable[[int, Sequence[int]], NoiseSource]
"""A source of noise, or what makes one of a seed and the indices of the samples, as the class ``SampleStreams``."""


def start_state(
    model: ScoreModel,
    shape: Sequence[int] | None,
    start: Tensor | None,
    seed: int | None,
    indices: Sequence[int] | None,
    generator: torch.Generator | None,
    noise: NoiseLike | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[Tensor, int | None, NoiseSource]:
    """The start (or unit noise, to be scaled by the prior), the seed, and the source of noise."""
    if start is None and shape is None:
        raise ValueError("give shape=(batch, ...) to start from the prior, or start= a state")
    if start is not None:
        like = check_state(start, "start")
        if shape is not None and tuple(shape) != tuple(start.shape):
            raise ValueError(
                f"start has shape {tuple(start.shape)}, but shape={tuple(shape)}: give one, or make them equal"
            )
        # a copy: the network may write into what it is given
        there, kind = device and _check_device(device), None if dtype is None else _check_dtype(dtype)
        like = like.to(device=there, dtype=kind, copy=True)
    else:
        assert shape is not None
        device = _network_device(model) if device is None else _check_device(device)
        like = torch.empty(check_shape(shape), dtype=_check_dtype(dtype or _default_dtype()), device=device)
    chosen = check_indices(indices, len(like))
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    source = SampleStreams if noise is None else noise
    if isinstance(source, type) or not hasattr(source, "draw"):
        if not callable(source):
            raise TypeError(
                f"noise must have a method draw(stream, index, like), or make such a source of (seed, indices) as "
                f"ss.Antithetic does; got {type(source).__name__}"
            )
        seed = fresh_seed(generator) if seed is None else seed
        source = source(seed, chosen)
    return (like if start is not None else drawn(source, START, 0, like)), seed, source


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(shape)
    except TypeError:
        raise TypeError(f"shape must be a tuple such as (16, 3, 32, 32), got {shape!r}") from None
    require(len(sizes) >= 1, "shape=(batch, ...), got ()")
    found = tuple(whole_number("each size of shape", size) for size in sizes)
    require(math.prod(found) < 2**48, f"a shape that memory may hold, got {found}")
    return found


def check_indices(indices: Sequence[int] | None, batch: int) -> Sequence[int]:
    """One index for each sample of the batch, 0, 1, ... where none are given. Raises: TypeError, ValueError."""
    try:
        chosen = range(batch) if indices is None else list(indices)
    except TypeError:
        raise TypeError(f"indices must be whole numbers such as range(100, 200), got {indices!r}") from None
    if len(chosen) != batch:
        raise ValueError(f"indices= names {len(chosen)} samples for a batch of {batch}: give one for each")
    return chosen


def check_model(model: ScoreModel) -> None:
    """Raise TypeError unless the model is a ScoreModel."""
    if not isinstance(model, ScoreModel):
        raise TypeError(
            f"model must be a ScoreModel, got {type(model).__name__}: say what the network is with "
            'ss.ScoreModel(net, ss.VPSDE(), predicts="noise", time="t")'
        )


def check_network(model: ScoreModel) -> None:
    """The same; warns of a network with layers that are in training mode and are another function then."""
    check_model(model)
    net = model.net
    if not (isinstance(net, torch.nn.Module) and net.training):
        return
    found = {type(part).__name__ for part in net.modules() if part.training and _varies(part)}
    if found:
        warnings.warn(
            f"the network is in training mode, and has {', '.join(sorted(found))}: its answers depend on chance or the "
            "rest of the batch, and its statistics may change; call net.eval() first",
            stacklevel=3,
        )


def _varies(part: torch.nn.Module) -> bool:
    """Whether a layer is another function in training mode."""
    dropout, norm = torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm
    return isinstance(part, norm) or (isinstance(part, dropout) and part.p > 0)


def check_state(x: Tensor, name: str) -> Tensor:
    """A state to start from: a non-empty float32 or float64 tensor with a batch dimension and finite values."""
    require_finite(check_batch(x, name).detach(), f"{name} holds")
    return x


def check_batch(x: Tensor, name: str) -> Tensor:
    """The same, but for the values, which are not looked at: on an accelerator that would wait for it."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    require(
        x.ndim >= 1 and x.numel() > 0, f"{name} of shape (batch, ...) with at least one sample, got {tuple(x.shape)}"
    )
    _check_dtype(x.dtype, name)
    plain = x.layout == torch.strided and x.device.type != "meta"
    require(plain, f"{name} to be a dense tensor that holds values, got layout {x.layout} on {x.device}")
    return x


def _check_dtype(dtype: torch.dtype, name: str = "dtype") -> torch.dtype:
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} is {dtype}; the state must be torch.float32 or torch.float64 "
            "(a network in half precision is cast to at its door: give it a float32 state)"
        )
    return dtype


def _check_device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be one of torch's such as 'cpu' or 'cuda:1', got {device!r}") from error
    require(found.type != "meta", "a device that holds values, got 'meta'")
    return found


def check_ends(model: ScoreModel, t_min: float | None, t_max: float | None) -> tuple[float, float]:
    """(t_min, t_max), the model's own where none is given. Raises: ValueError unless they are in order and known."""
    low = model.t_min if t_min is None else real_number("t_min", t_min)
    high = model.t_max if t_max is None else real_number("t_max", t_max)
    known = 0.0 <= low < high <= model.t_max * (1 + 1e-12)
    require(known, f"0 <= t_min < t_max <= {model.t_max:g}, got t_min={low:g}, t_max={high:g}")
    return low, high


def noisy_end(model: ScoreModel) -> float:
    """Where data is taken to stand if it is to be encoded: the model's t_min, or t_eps where that is noise zero."""
    return model.t_min if model.sde.sigma(model.t_min) > 0 else model.t_eps


def check_noisy_ends(model: ScoreModel, t_min: float | None, t_max: float | None) -> tuple[float, float]:
    """(t_min, t_max) of what begins at data, see :func:`noisy_end` and :func:`check_ends`."""
    return check_ends(model, noisy_end(model) if t_min is None else t_min, t_max)


def _default_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _network_device(model: ScoreModel) -> torch.device:
    parameters = model.net.parameters() if isinstance(model.net, torch.nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))
