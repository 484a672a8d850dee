"""Files that are whole or not there, after a kill or a power cut as well: written aside, made durable, then renamed.

The order is what counts. The bytes reach the disk before the name does (fsync, then rename), and the name reaches it
before the next thing is done that relies on it (fsync of the folder). A kill leaves at most a part in the folder for
parts, under a name that nobody reads.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .errors import require


def publish(files: Mapping[Path, bytes], room: Path, tag: str) -> None:
    """Write files so that each is there with all of its bytes, or as it was before; all are durable on return.

    Args: files, the content of each path; room, a folder on the same file system for parts; tag, begins their names,
    for :func:`sweep`. Two processes may publish the same file of the same bytes at once. Raises: OSError, which says
    that it may be tried again; the parts are then removed.
    """
    parts = {path: room / f"{tag}.{secrets.token_hex(8)}.part" for path in files}
    try:
        for path, content in files.items():
            _write(parts[path], content)
        for path, part in parts.items():
            _rename(part, path)
        for folder in {path.parent for path in files}:
            sync_folder(folder)
    except OSError as error:
        for part in parts.values():
            with suppress(OSError):
                os.unlink(part)
        raise OSError(
            error.errno,
            f"{error.strerror}: could not write {next(iter(files))}; all that is finished stays: put this right "
            "(is the disk full?) and run the same again",
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that it has all of these bytes, or is as it was. Raises: ValueError, OSError."""
    check_target(path)
    folder = path.parent
    make_folder(folder)
    tag = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}"  # the name itself may be as long as names get
    publish({path: content}, folder, tag)
    sweep(folder, tag)


def check_target(path: Path) -> None:
    """See whether a file of that name can be written, before anything is done for it. Raises: ValueError.

    A link is refused, as it may lead out of its folder; what is there and no file (a folder, a device) too.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # a name too long, with a NUL, below a file
        raise ValueError(f"expected a name for a file, got {str(path)[:80]!r}: {error}") from error
    kind = "a link: name the file itself" if stat.S_ISLNK(mode) else "there already, and no file"
    require(stat.S_ISREG(mode), f"a name for a file, got {str(path)!r}, which is {kind}")


def _write(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]  # may take less than it is given
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename(part: Path, path: Path) -> None:
    try:
        os.replace(part, path)
    except FileNotFoundError:  # swept by a process that was faster with the same file
        if not path.is_file():
            raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":  # folders cannot be opened there, and need not be
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, durable. Raises: OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
    sync_folder(folder.parent)


def sweep(room: Path, tag: str) -> None:
    """Remove the parts with that tag, which processes left that were killed.

    For what is published only: a process that is still about to publish the same finds that it is there.
    """
    with suppress(OSError):  # what is left does no harm
        for name in os.listdir(room):
            if name.startswith(f"{tag}.") and name.endswith(".part"):
                os.unlink(room / name)
