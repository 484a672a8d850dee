"""Files that are whole or not there: tensors as safetensors, facts about them as JSON in its header. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FACTS = "scoresolve"
"""The header's key for the JSON: one, as the order of several would change from run to run."""


class CheckpointError(ValueError):
    """A file of another kind, or of another run; the message says what to do."""


def key(settings: DataclassInstance) -> str:
    """A short hash of a dataclass of settings, to name a file by."""
    return hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:12]


def write_whole(path: Path, content: bytes) -> None:
    """Write under another name, then rename: whoever reads ``path`` finds the old content or the new, never a part."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may keep the rename and lose the bytes
    os.replace(partial, path)


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """The tensors and the facts in one file, so that they cannot disagree."""
    found = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(found, {FACTS: json.dumps(facts, sort_keys=True)}))


def read_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_tensors` wrote. Raises: FileNotFoundError; CheckpointError for a file of another kind."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: train it with python benchmarks/train.py --help")
    try:
        with safe_open(path, "pt", device=device) as file:
            facts = json.loads((file.metadata() or {})[FACTS])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (no dict)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no file of benchmarks/train.py ({error!r}): remove it, or name another"
        ) from error
