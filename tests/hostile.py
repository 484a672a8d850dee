"""A corpus of hostile files: JSON that two readers take differently or that costs more than it says, and arrays.

The pickles among it leave a file "sentinel" behind, in the folder that is given, if they are unpickled.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shard_cases import draw, model

import scoresolve as ss
from scoresolve.advice_files import Record
from scoresolve.integrations.loading import config_of


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.folder / "sentinel"), "w")


def pickled(folder: Path) -> bytes:
    """A pickle that leaves the sentinel in a folder."""
    return pickle.dumps(Evil(folder))


def saved(folder: Path) -> bytes:
    """The same as torch writes it."""
    file = io.BytesIO()
    torch.save(Evil(folder), file)
    return file.getvalue()


def other_number(text: bytes) -> Callable[[bytes], bytes]:
    """The first number of a text, changed."""
    return lambda good: re.sub(rb"(?<=[\s\[])-?\d+(\.\d+)?(?=[,\s\]])", text, good, count=1)


JSON: dict[str, Callable[[bytes], bytes]] = {
    **{name: other_number(name.encode()) for name in ("NaN", "Infinity", "-Infinity", "1e400", "-1e999")},
    "huge": other_number(b"1" + b"0" * 400),
    "huger": other_number(b"1" + b"0" * 5000),
    "key twice": lambda good: re.sub(rb'("\w+":)', rb"\1 1, \1", good, count=1),
    "deep": lambda good: b"[" * 10**5 + b"]" * 10**5,
    "deep inside": other_number(b"[" * 500 + b"]" * 500),
    "unclosed": lambda good: b"[" * 10**5,
    "mark": lambda good: b"\xef\xbb\xbf" + good,
    "utf-16": lambda good: good.decode().encode("utf-16"),
    "not utf-8": lambda good: re.sub(rb'"(\w)', b'"\xff\\1', good, count=1),
    "half": lambda good: good[: len(good) // 2],
    "more": lambda good: good + b"{}",
    **{text: lambda good, text=text: text.encode() for text in ("", "null", "3", '"x"', "[]", "{}", "[[1]]")},
    "pickle": lambda good: pickled(Path()),
}


"""What is done to a good text."""


def npy(shape: str, kind: str = "'<f8'", body: bytes = b"", head: str | None = None) -> bytes:
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}" if head is None else head
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + body


def tensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + body


def fact(shape: list[int], offsets: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


def archive(*entries: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as made:
        for name, content in entries:
            made.writestr(name, content)
    return file.getvalue()


def arrays(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """(kind, what is wrong, bytes)."""
    kept, objects = io.BytesIO(), np.array([Evil(folder)], dtype=object)
    np.save(kept, objects, allow_pickle=True)
    plain = {"a": fact([2], [0, 8])}
    twice = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
    )
    of_npy = {
        "objects": kept.getvalue(), "huge": npy("(1000000000000,)"), "negative": npy("(-5,)"),
        "overflow": npy("(4294967296, 4294967296, 4294967296)"), "short": npy("(9,)", "'<f4'", b"\0" * 8),
        "long": npy("(1,)", "'<f4'", b"\0" * 8), "texts": npy("(1,)", "'<U4'", b"\0" * 16),
        "complex": npy("(1,)", "'<c8'", b"\0" * 8), "fields": npy("(1,)", "[('a','<f4')]", b"\0" * 4),
        "time": npy("(1,)", "'<M8[s]'", b"\0" * 8), "code": npy("", head="__import__('os').system('true')"),
        "nested": npy("(" * 3000 + ")" * 3000), "wide": npy("(" + "1, " * 40 + ")", "'<f8'", b"\0" * 8),
    }  # fmt: skip
    yield from (("npy", what, content) for what, content in of_npy.items())
    yield from (("npz", what, archive(("a.npy", content))) for what, content in of_npy.items())
    yield (
        "npz",
        "zip bomb",
        archive(("a.npy", npy("(20000000,)", "'|u1'", b"\0" * 20_000_000)), how=zipfile.ZIP_DEFLATED),
    )
    with warnings.catch_warnings(action="ignore"):
        yield "npz", "name twice", archive(("a.npy", npy("(0,)")), ("a.npy", npy("(0,)")))
    yield "npz", "no array", archive(("../../a.txt", b"hello"))
    of_safetensors = {
        "2^63": tensors({}, length=2**63), "2^64": tensors({}, length=2**64 - 1), "past": tensors({}, length=9),
        "overlap": tensors({**plain, "b": fact([2], [0, 8])}, b"\0" * 8), "rest": tensors(plain, b"\0" * 16),
        "hole": tensors({"a": fact([2], [8, 16])}, b"\0" * 16), "negative": tensors({"a": fact([2], [-8, 0])}),
        "outside": tensors({"a": fact([2**40], [0, 2**42])}, b"\0" * 8), "deep": tensors(b"[" * 10**5),
        "overflow": tensors({"a": fact([2**32] * 3, [0, 8])}, b"\0" * 8), "list": tensors(b"[]"),
        "key twice": tensors(twice, b"\0" * 8), "dtype": tensors({"a": fact([2], [0, 8], "X9")}, b"\0" * 8),
        "complex": tensors({"a": fact([1], [0, 8], "C64")}, b"\0" * 8), "not utf-8": tensors(b'{"\xff": 1}'),
        "wide": tensors({"a": fact([1] * 1000, [0, 4])}, b"\0" * 4),
    }  # fmt: skip
    yield from (("safetensors", what, content) for what, content in of_safetensors.items())
    others = {
        "nothing": b"",
        "text": b"hello, world",
        "pickle": pickled(folder),
        "pt": saved(folder),
        "NUL": b"\0" * 99,
    }
    for kind in ("npy", "npz", "safetensors"):
        yield from ((kind, what, content) for what, content in others.items())


Reader = Callable[[bytes], Any]


def readers(folder: Path) -> dict[str, tuple[bytes, Reader]]:
    """Everything that reads JSON: a good text of it, and what reads it. Those of files must name the file."""
    table = ss.sample(model(), (1, 2), solver="ddpm", nfe=2, seed=0).table
    assert table is not None
    statistics = ss.ModelStatistics((-5.0, 0.0, 5.0), (1.0, 0.5, 0.0), (0.0, -0.5, -2.0))
    draw(folder / "set")
    record = Record.open(folder / "plan", {"seed": 0})
    choice = {"nfe": 4, "solver": "heun", "grid": "karras", "rmse": 0.5, "median": 0.25}
    record.keep_survey(4, [choice], complete=True)
    config = {"beta_start": 0.1, "num_train_timesteps": 10}

    def in_file(name: str, read: Callable[[Path], Any]) -> Reader:
        def of(content: bytes) -> Any:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            before = path.read_bytes() if path.exists() else None
            path.write_bytes(content)
            try:
                return read(path)
            except ValueError as error:
                named = path.name in str(error) or "shard 0" in str(error)
                raise error if named else AssertionError(f"{path} is not named: {error}") from error
            finally:
                if before is not None:
                    path.write_bytes(before)

        return of

    entry, settings, plan = "set/manifest/00000.json", "set/manifest.json", "plan/plan.json"
    return {
        "table": (table.to_json().encode(), in_file("table.json", ss.Table.load)),
        "table in text": (table.to_json().encode(), lambda content: ss.Table.from_json(content.decode())),
        "statistics": (statistics.to_json().encode(), lambda text: ss.ModelStatistics.from_json(text.decode())),
        "manifest": ((folder / settings).read_bytes(), in_file(settings, lambda path: ss.shards.load(path.parent))),
        "entry": ((folder / entry).read_bytes(), in_file(entry, lambda path: ss.shards.load(path.parents[1]))),
        "plan": ((folder / plan).read_bytes(), in_file(plan, lambda path: Record.open(path.parent, {"seed": 0}))),
        "scheduler": (json.dumps(config).encode(), in_file("scheduler_config.json", config_of)),
    }
