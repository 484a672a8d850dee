"""The manifest of a set of samples: what it is made of, which shards are finished, and what is wrong with them.

    DIR/manifest.json                 the settings, and their hash
    DIR/manifest/00012.json           of a finished shard: its samples, its files with their sha256, its versions
    DIR/samples/00012.safetensors     its samples (or 00012.npz, or 000768.png, ... one for each)
    DIR/.partial/                     parts of files; nobody reads them

A shard is finished when its entry is there, and the entry is written last. Each has an entry of its own, so that no
two processes write one file. Names are made here of whole numbers, and never taken from a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from .durable import check_target, make_folder, publish, sweep, sync_folder
from .errors import require, whole_number
from .reading import fits, parse_arrays, parse_json
from .shard_formats import Format

_FORMAT = "scoresolve samples 1"
_DAMAGED = (LookupError, TypeError, ValueError, AttributeError)
"""What reading JSON of another form may raise."""
_MOST = 10**6
"""Shards: files in one folder."""
_ENTRY = {
    "shard": int, "indices": [int], "settings": str, "files": {str: {"bytes": int, "sha256": str}},
    "failed": {str: str}, "nfe": int, "table": object, "made_with": {str: str},
}  # fmt: skip
MISSING = "not made yet"
"""What is wrong with a shard that has no entry."""


class Manifest:
    """A set of samples in a folder.

    Args: directory; settings, JSON with "count", "first", "shard_size" and "format" among it.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.directory = directory
        self.settings = json.loads(json.dumps(settings, allow_nan=False))  # as it will be read back
        self.key = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        self.count, self.size = (whole_number(name, self.settings[name]) for name in ("count", "shard_size"))
        self.first = whole_number("first", self.settings["first"], least=0)
        self.shards = -(-self.count // self.size)
        require(self.settings["format"] in get_args(Format), f"a format of {get_args(Format)}")  # names end with it
        few = self.shards <= _MOST and self.first + self.count <= 2**63
        require(few, f"at most {_MOST} shards of indices below 2^63, got {self.shards}: choose a larger shard_size")

    # -- the folder ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the folders. Raises: ValueError if there are other samples, or files of others; OSError."""
        check_target(self._path)
        inside = [self._room, self.directory / "manifest", self.directory / "samples"]
        linked = [folder.name for folder in inside if folder.is_symlink()]
        require(not linked, f"folders in {self.directory}, got links that lead elsewhere: {', '.join(linked)}")
        occupied = inside[-1].exists() and next(inside[-1].iterdir(), None)
        if self._path.exists():  # looked for last: a process that begins now writes it before samples
            self.read(self.directory)._require_same(self)
            sweep(self._room, "settings")
        else:
            require(
                not occupied or self._has_own(),
                f"no files but those of sample_to in {inside[-1]}, got {occupied and occupied.name}: "
                "choose another folder",
            )
        for folder in inside:
            make_folder(folder)

    def _settle(self) -> None:
        """Write the settings, unless they are there; see that they are these. Raises: ValueError, OSError."""
        if not self._path.exists():
            content = json.dumps({"format": _FORMAT, "key": self.key, "settings": self.settings}, indent=1)
            publish({self._path: f"{content}\n".encode()}, self._room, "settings")
            sweep(self._room, "settings")
        self.read(self.directory)._require_same(self)

    def _has_own(self) -> bool:
        """Whether there are shards of these settings (and their file was lost)."""
        for shard in range(self.shards):
            with suppress(OSError, *_DAMAGED):
                return bool(self.entry(shard)["settings"] == self.key)
        return False

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The set that a folder holds. Raises: FileNotFoundError; ValueError for a file of another kind."""
        path = directory / "manifest.json"
        try:
            content = parse_json(path.read_bytes())
            found = cls(directory, content["settings"])
            whole = content["format"] == _FORMAT and content["key"] == found.key
        except _DAMAGED:
            whole = False
        require(
            whole,
            f"a manifest of sample_to in {path}, got another file or a damaged one: choose another folder, or remove "
            "the file; finished shards of the same settings are then found again",
        )
        return found

    def _require_same(self, here: Manifest) -> None:
        """Raise ValueError, naming what differs, unless both are of the same settings."""
        if self.key == here.key:
            return
        differ = _differences(self.settings, here.settings)
        shown = "; ".join(differ[:6]) + ("; ..." if len(differ) > 6 else "")
        raise ValueError(
            f"{self.directory} holds samples of other settings ({shown}): run with those, or choose another folder"
        )

    # -- shards -------------------------------------------------------------------------------------------------

    def rows(self, shard: int) -> range:
        """Which samples of the set a shard holds, counted from 0."""
        return range(shard * self.size, min((shard + 1) * self.size, self.count))

    def names(self, shard: int) -> list[str]:
        """Of its files, in "samples": one for each sample if they are PNG, else one."""
        if self.settings["format"] == "png":
            width = max(6, len(str(self.first + self.count - 1)))
            return [f"{self.first + row:0{width}d}.png" for row in self.rows(shard)]
        return [f"{self._label(shard)}.{self.settings['format']}"]

    def path(self, name: str) -> Path:
        """Where a file of samples lies."""
        return self.directory / "samples" / name

    def flaw(self, shard: int, verify: bool = False) -> str | None:
        """What is wrong with a shard: None, ``MISSING``, or what is damaged. verify: read all, else look at sizes.

        Raises: ValueError for an entry of other settings.
        """
        try:
            entry = self.entry(shard)
        except FileNotFoundError:
            return MISSING
        except _DAMAGED:
            return f"{self._entry(shard).relative_to(self.directory)} is damaged"
        if entry["settings"] != self.key:
            raise ValueError(
                f"{self.directory} holds samples of other settings ({self._entry(shard).relative_to(self.directory)}): "
                "choose another folder, or remove that file"
            )
        for name, fact in entry["files"].items():
            path = self.path(name)
            if not path.is_file():
                return f"samples/{name} is not there"
            if path.stat().st_size != fact["bytes"]:
                return f"samples/{name} has {path.stat().st_size} bytes instead of {fact['bytes']}"
            if verify and hashlib.sha256(path.read_bytes()).hexdigest() != fact["sha256"]:
                return f"samples/{name} has another sha256"
        return None

    def entry(self, shard: int) -> dict[str, Any]:
        """What is known of a finished shard. Raises: FileNotFoundError; others if it is damaged."""
        content: dict[str, Any] = parse_json(self._entry(shard).read_bytes())
        require(fits(content, _ENTRY), "an entry of a shard")
        images = len(content["files"]) + len(content["failed"]) == len(self.rows(shard))
        require(self.settings["format"] != "png" or images, "an image of each sample")  # before all names are made
        names = self.names(shard)
        if self.settings["format"] == "png":  # of what failed there is no image
            start = self.first + self.rows(shard).start
            names = [name for row, name in enumerate(names) if str(start + row) not in content["failed"]]
        require(sorted(content["files"]) == names, "the files of the shard")
        return content

    def arrays(self, shard: int) -> dict[str, Tensor]:
        """The arrays of a shard. Raises: ValueError unless they are what the settings say."""
        path = self.path(*self.names(shard))
        found = parse_arrays(path.read_bytes(), self.settings["format"])
        count, shape = len(self.rows(shard)), self.settings.get("shape")
        known = {"samples", "indices"} <= {*found} <= {"samples", "indices", "log_prob"}
        require(
            known and [*found["samples"].shape] == [count, *shape] and all(len(one) == count for one in found.values()),
            f"the samples {(count, *shape)} and indices of shard {shard} in {path}, got "
            f"{ {name[:40]: tuple(one.shape) for name, one in found.items()} }",
        )
        return found

    def failed(self, shard: int) -> dict[int, str]:
        """The samples of a finished shard that did not arrive, by their indices: how each ended."""
        return {int(index): status for index, status in self.entry(shard)["failed"].items()}

    def record(self, shard: int, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        """Write the files of a shard, then its entry, and remove what killed processes left of it.

        Raises: OSError; ValueError if the folder has become one of other settings in the meantime.
        """
        self._settle()
        publish({self.path(name): content for name, content in files.items()}, self._room, str(shard))
        rows = self.rows(shard)
        entry = {
            "shard": shard,
            "indices": [self.first + rows.start, self.first + rows.stop - 1],
            "settings": self.key,
            "files": {
                name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            },
            **facts,
        }
        publish({self._entry(shard): f"{json.dumps(entry, indent=1)}\n".encode()}, self._room, str(shard))
        self.tidy(shard)

    def tidy(self, shard: int) -> None:
        """Remove what killed processes left of a shard that is finished."""
        sweep(self._room, str(shard))

    def has(self, shard: int) -> bool:
        """Whether a shard is finished, so far as its entry says."""
        return self._entry(shard).exists()

    def forget(self, shard: int) -> None:
        """Take back that a shard is finished."""
        with suppress(FileNotFoundError):
            os.unlink(self._entry(shard))
        sync_folder(self._entry(shard).parent)

    @property
    def _path(self) -> Path:
        return self.directory / "manifest.json"

    @property
    def _room(self) -> Path:
        return self.directory / ".partial"

    def _entry(self, shard: int) -> Path:
        return self.directory / "manifest" / f"{self._label(shard)}.json"

    def _label(self, shard: int) -> str:
        return f"{shard:0{max(5, len(str(self.shards - 1)))}d}"


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Of two JSON values, which parts are not the same."""
    if there == here:
        return []
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        there, here = ({str(place): one for place, one in enumerate(each)} for each in (there, here))
    if isinstance(there, dict) and isinstance(here, dict):
        parts = [(f"{name}.{key}" if name else key, there.get(key), here.get(key)) for key in sorted({*there, *here})]
        return [text for part, one, other in parts for text in _differences(one, other, part)]
    return [f"{name} is {_short(there)} there and {_short(here)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
