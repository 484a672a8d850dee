"""Files that others may have written, read as data: JSON and arrays. Nothing is executed, unpickled or taken on trust.

**JSON** is refused where two readers may take it for different things (NaN and infinities, numbers that no float
holds, a key that is there twice, bytes that are not UTF-8) and where it costs more than it says (nested deeper than
64, longer than 16 MiB). **Arrays** are of real numbers, and as large as the file says before they are made: a header
that promises more than the file has is an error, not an allocation.

Source: RFC 8259, sections 4, 6, 8 and 9; NEP 1 of numpy; the format of safetensors.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import require

_DEEPEST, _LONGEST, _WIDEST = 64, 2**24, 32
"""Of JSON, levels and bytes; of an array, dimensions."""
_TOO_DEEP = f"JSON of at most {_DEEPEST} levels, got a deeper one"
_SWELLS = 100
"""How many times its size an archive may grow: samples hardly shrink; a file of zeros grows a thousand times."""
_BROKEN = (
    SafetensorError, ValueError, TypeError, LookupError, EOFError, RuntimeError, RecursionError, MemoryError,
    NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What the readers of formats raise at bytes that are none."""


def read_file(path: str | Path) -> bytes:
    """The bytes of a file. Raises: OSError; ValueError for what is there and no file (a device may have no end)."""
    place = Path(path)
    require(place.is_file() or not place.exists(), f"a file, got {str(path)!r}, which is none")
    return place.read_bytes()


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text. Raises: ValueError.

    >>> parse_json(b'{"nfe": 20, "eta": 0.5}')
    {'nfe': 20, 'eta': 0.5}
    """
    require(len(content) <= _LONGEST, f"JSON of at most {_LONGEST} bytes, got {len(content)}")
    text = content if isinstance(content, str) else content.decode("utf-8")  # UnicodeDecodeError is a ValueError
    try:
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite, parse_int=_whole
        )
    except RecursionError as error:
        raise ValueError(f"expected {_TOO_DEEP}") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [part for one in level for part in _parts(one)]
    require(not level, _TOO_DEEP)
    return value


def as_number(value: object) -> float:
    """A number of JSON as a float. Raises: ValueError, for texts and truth values too."""
    require(isinstance(value, int | float) and not isinstance(value, bool), f"a number, got {value!r:.40}")
    return float(value)  # type: ignore[arg-type] # just seen


def fits(value: Any, form: Any) -> bool:
    """Whether a value of JSON has a form: whole numbers are floats as well, truth values are not.

    A form is a type, ``object`` for anything, ``[form]`` of a list, ``{str: form}`` of a mapping of any names, or a
    mapping of just its names to forms.

    >>> fits({"nfe": 8, "errors": [0.1, 2]}, {"nfe": int, "errors": [float]})
    True
    """
    if isinstance(form, dict) and isinstance(value, dict):
        inside = dict.fromkeys(value, form[str]) if str in form else form
        return {*value} == {*inside} and all(fits(one, inside[name]) for name, one in value.items())
    if isinstance(form, list) and isinstance(value, list):
        return all(fits(one, form[0]) for one in value)
    return form is object or (type(value) in (int, float) if form is float else type(value) is form)


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:40]!r} is there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:40])


def _whole(text: str) -> int:
    return int(text) if len(text) <= 300 else _no_number(f"{text[:40]}...")


def parse_arrays(content: bytes, kind: str) -> dict[str, Tensor]:
    """The arrays in the bytes of a file, by their names: own memory, the dtypes of the file.

    Args: kind, "safetensors", "npz", or "npy" of one array, which is named "". Raises: ValueError for bytes that are
    not of that kind, arrays that are not of real numbers, archives that grow more than a hundred times.

    >>> import io, numpy as np
    >>> file = io.BytesIO()
    >>> np.savez(file, samples=np.zeros((2, 3)))
    >>> parse_arrays(file.getvalue(), "npz")["samples"].shape
    torch.Size([2, 3])
    """
    try:
        return _READERS[kind](content)
    except _BROKEN as error:
        said = str(error).split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"expected arrays of numbers in {kind}: {said}") from error


def _npy(content: bytes) -> Tensor:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    require(version in _HEADERS, f"version 1 or 2 of the format, got {version}")
    shape, fortran, dtype = _HEADERS[version](file)
    require(dtype.kind in "biuf" and dtype.itemsize <= 8, f"real numbers, got {dtype}")
    require(len(shape) <= _WIDEST, f"at most {_WIDEST} dimensions, got {len(shape)}")
    promised, there = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    require(min(shape, default=0) >= 0 and promised == there, f"{promised} bytes for {shape}, got {there}")
    array = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))


def _npz(content: bytes) -> dict[str, Tensor]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename.removesuffix(".npy") for entry in entries]
        require(len({*names}) == len(names), f"different names, got {names[:6]}")
        whole = sum(entry.file_size for entry in entries)
        require(whole <= _SWELLS * len(content), f"no more than {_SWELLS} times the {len(content)} bytes, got {whole}")
        return {name: _npy(archive.read(entry)) for name, entry in zip(names, entries, strict=True)}


def _safetensors(content: bytes) -> dict[str, Tensor]:
    (length,) = struct.unpack("<Q", content[:8])
    parse_json(content[8 : 8 + min(length, len(content))])  # the library takes the last of two equal keys
    found: dict[str, Tensor] = safetensors.torch.load(content)
    for name, value in found.items():
        real = not (value.is_complex() or value.is_quantized)
        require(
            real and value.ndim <= _WIDEST, f"real numbers, got {value.dtype} of {value.ndim} dimensions in {name!r}"
        )
    return found


_HEADERS: dict[tuple[int, int], Callable[[Any], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_READERS: dict[str, Callable[[bytes], dict[str, Tensor]]] = {
    "safetensors": _safetensors,
    "npz": _npz,
    "npy": lambda content: {"": _npy(content)},
}
