"""Other libraries' solvers on the same problems, each library optional: ``python benchmarks/run.py --peers``.

One file for each library. All of them see the same network, starts and ends as our solvers, and pay for every call.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version

from .base import Network, Peer, Task, TooFewCallsError
from .noise import Drawn, Noise, Probe

__all__ = ["LIBRARIES", "Drawn", "Network", "Noise", "Peer", "Probe", "Task", "TooFewCallsError", "chosen", "installed"]

LIBRARIES = ("diffusers", "azula", "torchdiffeq")


def installed() -> tuple[list[Peer], dict[str, str], list[str]]:
    """The peers of every library that is there, the versions of those, and why each of the others is left out."""
    found: list[Peer] = []
    versions: dict[str, str] = {}
    missing: list[str] = []
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
            found += importlib.import_module(f"{__name__}.from_{library}").peers()
        except (PackageNotFoundError, ImportError, RuntimeError) as error:  # the last is diffusers' way to say it
            versions.pop(library, None)
            missing.append(f"{library} ({error}): pip install {library}")
    return found, versions, missing


def chosen(peers: Sequence[Peer], patterns: Iterable[str] | None) -> list[Peer]:
    """Those whose name, or any word of it, fits one of the patterns (``*`` stands for anything); all without any."""
    if patterns is None:
        return list(peers)
    wanted = list(patterns)
    return [p for p in peers if any(fnmatchcase(text, w) for w in wanted for text in (p.name, *p.name.split()))]
