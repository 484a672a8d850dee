"""A disk that fails at an event of the test's choosing: kills, power cuts, no room, errors; and files' writers."""

from __future__ import annotations

import errno
import os
import random
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

REFUSALS = {"full": errno.ENOSPC, "broken": errno.EIO, "read only": errno.EROFS}
"""How a disk says no, and what it says."""


class Killed(BaseException):
    """The end of the process, at a place of the test's choosing."""


class Disk(types.ModuleType):
    """The operating system, until the event of that number: then the process is killed, the power is cut (and all that
    was not made durable is lost, or any part of it), or the disk refuses. Events are what changes a disk, or makes it
    durable."""

    def __init__(self, root: Path, how: str, at: int) -> None:
        super().__init__("os")
        self.root, self.how, self.left, self.events = root, how, at, 0
        self.paths: dict[int, Path] = {}
        self.promised: list[Path] = []
        self.dirty: set[int] = set()
        self.undo: list[tuple[Path, Callable[[], Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def event(self, room: bool = True) -> bool:
        """Count. Returns whether the disk refuses; raises if the process is dead."""
        self.events += 1
        over = self.events > self.left
        if over and self.how not in REFUSALS:
            if self.how in ("power", "partly") and self.events == self.left + 1:
                self.lose()
            raise Killed
        return over and room

    def lose(self) -> None:
        chance = random.Random(self.left)
        for _, action in reversed(self.undo):
            if self.how == "power" or chance.random() < 0.5:
                action()
        for path in self.root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.dirty:
                os.truncate(path, path.stat().st_size // 2)

    def refuse(self) -> None:
        raise OSError(REFUSALS[self.how], os.strerror(REFUSALS[self.how]))

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and self.event():
            self.refuse()
        handle = os.open(path, flags, mode)
        self.paths[handle] = Path(path)
        return handle

    def write(self, handle: int, content: memoryview) -> int:
        half = content[: max(1, len(content) // 2)]
        self.dirty.add(os.fstat(handle).st_ino)
        try:
            refused = self.event()
        except Killed:
            if self.how == "killed" and self.events == self.left + 1:
                os.write(handle, half)
            raise
        if refused and self.events == self.left + 1:
            return os.write(handle, half)  # the last there is room for
        return self.refuse() or 0 if refused else os.write(handle, content)

    def fsync(self, handle: int) -> None:
        if self.event():
            self.refuse()
        self.dirty.discard(os.fstat(handle).st_ino)
        if self.paths[handle].name == "manifest":
            self.promised = list(self.paths[handle].glob("*.json"))
        self.undo = [(folder, action) for folder, action in self.undo if folder != self.paths[handle]]

    def replace(self, source: Path, target: Path) -> None:
        if self.event():
            self.refuse()
        before = target.read_bytes() if target.exists() else None
        os.replace(source, target)

        def back() -> None:
            os.replace(target, source)
            if before is not None:
                target.write_bytes(before)

        self.undo.append((target.parent, back))

    def mkdir(self, folder: Path) -> None:
        if self.event():
            self.refuse()
        os.mkdir(folder)
        self.undo.append((folder.parent, lambda: shutil.rmtree(folder)))

    def unlink(self, path: Path) -> None:
        self.event(room=False)
        before = Path(path).read_bytes()
        os.unlink(path)
        self.undo.append((Path(path).parent, lambda: Path(path).write_bytes(before)))


def naive(files: Any, room: Path, tag: str) -> None:
    """What a writer must not do: write in place."""
    from scoresolve import durable

    for path, content in files.items():
        handle = durable.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[durable.os.write(handle, rest) :]
        finally:
            os.close(handle)
