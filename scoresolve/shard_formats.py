"""Samples as the bytes of files: safetensors, npz, or one PNG a sample. The same samples give the same bytes.

**PNG.** Values go from [low, high] to 0 ... 255 linearly, rounded to the nearest and clipped; with (low, high) =
(-1, 1) that is ``round(127.5 x + 127.5)``. The files are written here, 8 bits a channel: a header, the rows filtered
by the difference to the row above (filter 2) and compressed, an end.

Source: the PNG specification, third edition (W3C 2025), sections 5, 9 and 11.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from .errors import require

Format = Literal["safetensors", "npz", "png"]
Arrays: TypeAlias = Mapping[str, np.ndarray]

_COLOURS = {1: 0, 3: 2, 4: 6}
"""PNG's colour type of a number of channels: grey, red green blue, the same with opacity."""


def check_format(format: str, shape: Sequence[int], low: float, high: float) -> None:
    """Raise ValueError unless samples of that shape, without the batch, can be written in the format."""
    require(low < high, f"value_range=(low, high) with low < high, got ({low:g}, {high:g})")
    if format == "png":
        image = len(shape) == 2 or (len(shape) == 3 and shape[0] in _COLOURS)
        require(
            image,
            f"samples of shape (height, width) or (1, 3 or 4, height, width) for PNG, got {tuple(shape)}: "
            'use format="safetensors"',
        )


def to_pixels(samples: Tensor, low: float, high: float) -> Tensor:
    """uint8 of the same shape on the same device: low is 0, high is 255, rounded and clipped.

    >>> import torch
    >>> to_pixels(torch.tensor([-2.0, -1.0, 0.01, 1.0]), -1.0, 1.0).tolist()
    [0, 0, 129, 255]
    """
    return ((samples - low) * (255.0 / (high - low))).round_().clamp_(0, 255).to(torch.uint8)


def png(pixels: np.ndarray) -> bytes:
    """The file of one image, uint8 of shape (height, width) or (channels, height, width), channels 1, 3 or 4."""
    image = pixels[None] if pixels.ndim == 2 else pixels
    channels, height, width = image.shape
    rows = np.moveaxis(image, 0, -1).reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as it should be
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def contents(format: str, names: Sequence[str], arrays: Arrays, lost: Collection[int]) -> dict[str, bytes]:
    """The content of each file of a shard; of PNG none for the rows in ``lost``, which are no images."""
    if format == "png":
        images = enumerate(zip(names, arrays["samples"], strict=True))
        return {name: png(pixels) for row, (name, pixels) in images if row not in lost}
    return {names[0]: _WRITERS[format](arrays)}


def _npz(arrays: Arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


_WRITERS: dict[str, Callable[[Arrays], bytes]] = {
    "safetensors": lambda arrays: safetensors.numpy.save(dict(arrays)),
    "npz": _npz,
}
