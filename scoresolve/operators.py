"""Linear operators of measurements ``y = A x_0 + noise``: masks, colours, resolution, matrices, and any other.

An operator is two functions on batches: ``operator(x)``, A of each sample, and ``operator.transpose(y)``, its transpose
(that which satisfies ``<A x, y> = <x, A^T y>``). ``A A^T u = b`` is solved by conjugate gradients: one iteration
for the operators of this file but the matrix, where A A^T is a multiple of the identity on what A reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from .copies import on_device
from .errors import require, whole_number
from .guidance import Rowwise

Map = Callable[[Tensor], Tensor]


class LinearOperator(Rowwise):
    """Any linear operator, by its two functions.

    Args: forward, A of a batch of samples (batch, ...); transpose, A^T of a batch of measurements (batch, ...).

    >>> import torch, scoresolve as ss
    >>> sums = ss.LinearOperator(lambda x: x.sum(1, keepdim=True), lambda y: y.expand(-1, 3))
    >>> sums(torch.ones(2, 3)).tolist()
    [[3.0], [3.0]]
    """

    def __init__(self, forward: Map, transpose: Map) -> None:
        self.forward, self.backward = forward, transpose

    def __call__(self, x: Tensor) -> Tensor:
        """A x, for x (batch, ...)."""
        return self.forward(x)

    def transpose(self, y: Tensor) -> Tensor:
        """A^T y, for y (batch, ...)."""
        return self.backward(y)

    def reached(self, y: Tensor) -> Tensor:
        """The part of a measurement that A can give: all of it, unless an operator knows better."""
        return y


class Mask(LinearOperator):
    """Inpainting: the elements that a mask keeps, zero elsewhere. What a measurement holds elsewhere is ignored.

    Args: mask (1, ...) or (batch, ...), of as many dimensions as x, broadcast to it: true or 1 where x_0 is known.

    >>> import torch, scoresolve as ss
    >>> ss.operators.Mask(torch.tensor([[True, False]]))(torch.ones(2, 2)).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"the mask must be a tensor, got {type(mask).__name__}")
        require(bool(((mask == 0) | (mask == 1)).all()), "a mask of zeros and ones")
        self.mask = mask.bool()

    def __call__(self, x: Tensor) -> Tensor:
        """The elements that are kept."""
        return self.reached(x)

    def transpose(self, y: Tensor) -> Tensor:
        """The same: a mask is its own transpose."""
        return self.reached(y)

    def reached(self, y: Tensor) -> Tensor:
        """y where the mask keeps it, zero elsewhere."""
        if self.mask.ndim != y.ndim or (len(self.mask) != len(y) and 1 not in (len(self.mask), len(y))):
            shape = tuple(self.mask.shape)
            raise ValueError(
                f"a mask of shape {shape} does not fit samples of shape {tuple(y.shape)}: give it a row for each "
                "sample, or one for all (mask[None])"
            )
        return torch.where(on_device(self.mask, y.device), y, 0.0)


def matrix(weights: Tensor, shape: Sequence[int] | None = None) -> LinearOperator:
    """A matrix (m, d): y = A x of the d elements of each sample; y (batch, m).

    Args: shape of one sample, of d elements; (d,) if not given.

    >>> import torch, scoresolve as ss
    >>> ss.operators.matrix(torch.tensor([[1.0, -1.0]]))(torch.tensor([[3.0, 1.0]])).tolist()
    [[2.0]]
    """
    require(weights.ndim == 2, f"a matrix of shape (m, d), got {tuple(weights.shape)}")
    sample = tuple(weights.shape[1:] if shape is None else shape)
    require(math.prod(sample) == weights.shape[1], f"a shape of {weights.shape[1]} elements, got {sample}")

    def there(x: Tensor) -> Tensor:
        return on_device(weights, x.device, x.dtype)

    return LinearOperator(lambda x: x.flatten(1) @ there(x).T, lambda y: (y @ there(y)).reshape(-1, *sample))


def grey(channels: int = 3) -> LinearOperator:
    """Colourisation: the mean of the channels, (batch, channels, ...) -> (batch, 1, ...).

    >>> import torch, scoresolve as ss
    >>> ss.operators.grey()(torch.tensor([[1.0, 2.0, 6.0]])).tolist()
    [[3.0]]
    """
    count = whole_number("channels", channels)
    return LinearOperator(
        lambda x: x.mean(dim=1, keepdim=True), lambda y: (y / count).expand(-1, count, *[-1] * (y.ndim - 2))
    )


def downsample(factor: int) -> LinearOperator:
    """Super-resolution: the means of squares of factor^2 pixels, (batch, channels, height, width).

    >>> import torch, scoresolve as ss
    >>> ss.operators.downsample(2)(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).tolist()
    [[[[3.0]]]]
    """
    k = whole_number("factor", factor)

    def forward(x: Tensor) -> Tensor:
        fits = x.ndim == 4 and x.shape[2] % k == 0 and x.shape[3] % k == 0
        require(fits, f"images (batch, channels, height, width) of sides divisible by {k}, got {tuple(x.shape)}")
        return avg_pool2d(x, k)

    return LinearOperator(forward, lambda y: interpolate(y, scale_factor=float(k), mode="nearest") / k**2)


def check_measurement(operator: LinearOperator, y: Tensor) -> None:
    """Raise unless y is a batch, and the transpose is the operator's own: <A A^T y, y> = |A^T y|^2."""
    if not isinstance(operator, LinearOperator):
        got = type(operator).__name__
        raise TypeError(f"expected an operator such as ss.operators.Mask(mask) or ss.LinearOperator(A, A_T), got {got}")
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim < 2:
        raise TypeError(
            "the measurement must be a floating tensor (batch, ...), with one row for each sample or for all"
        )
    probe = torch.linspace(1.0, 2.0, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    with torch.no_grad():
        back = operator.transpose(probe)
        ahead = operator(back)
    expected, got = tuple(ahead.shape[1:]), tuple(y.shape[1:])
    require(expected == got, f"a measurement of the shape of A x, (batch, *{expected}), got (batch, *{got})")
    one, other = float((ahead * probe).sum()), float((back * back).sum())
    require(
        abs(one - other) <= 1e-3 * max(abs(one), abs(other)),
        f"the transpose of the operator: <A x, y> = <x, A^T y>, got {one:.6g} and {other:.6g} at x = A^T y",
    )


def conjugate_gradients(apply: Map, b: Tensor, iterations: int) -> Tensor:
    """u with ``apply(u) = b`` for a symmetric, nonnegative linear map of each sample, b (batch, ...).

    Each sample stops by itself: when its residual is at rounding, or where the map turns out not to be positive. In
    exact arithmetic as many iterations are enough as the map has different eigenvalues.
    """
    u, r, p = torch.zeros_like(b), b, b
    size = _dot(r, r)
    floor = (4 * torch.finfo(b.dtype).eps) ** 2 * size
    active = size > 0
    for _ in range(iterations):
        if b.device.type == "cpu" and not bool(active.any()):  # an accelerator would have to be waited for
            break
        image = apply(p)
        curvature = _dot(p, image)
        active = active & (curvature > 0) & (size > floor)
        step = torch.where(active, size / torch.where(active, curvature, 1.0), 0.0)
        u, r = u + step * p, r - step * image
        before, size = size, _dot(r, r)
        p = r + torch.where(active, size / torch.where(active, before, 1.0), 0.0) * p
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, shaped to multiply it."""
    return (a * b).unsqueeze(-1).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.ndim - 1))
