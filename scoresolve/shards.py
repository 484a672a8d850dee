"""Sampling at scale: any number of samples, by any number of processes, into files; killed and run again at will.

Shards are fixed ranges of the samples and are made batch by batch, always the same batches; so a shard is made of the
same calls whoever makes it, and has the same bytes. Processes share them by their rank, r of n makes r, r + n, ...,
and do not talk to each other: there is nothing to wait for and nothing to hang. What lies in the folder is described
in ``manifest.py``, and how it outlives a kill in ``durable.py``.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .chunks import chunks_of
from .errors import require, unknown, whole_number
from .identity import describe, describe_model, table_hash
from .manifest import MISSING, Manifest
from .model import ScoreModel
from .placement import place
from .sampling import sample
from .shard_formats import Format, check_format, contents, to_pixels
from .solution import Solution
from .starting import check_model, check_shape

REFUSED = ("callback", "generator", "grad", "indices", "trajectory")
"""Arguments of ``sample`` that have no place here, beside start= a state and noise= a source of one batch."""


@dataclass(frozen=True)
class SampleSet:
    """What :func:`sample_to` has done, and what there is.

    Attributes: directory; count, of the samples, and shards, in all; made, the shards that this call made, of them
    repaired, which had been damaged; missing, those that were not finished when it returned (those of other processes);
    failed, index and status of the samples of its share that did not arrive (``on_error="mask"``); nfe, the network
    calls of this process.
    """

    directory: Path
    count: int
    shards: int
    made: tuple[int, ...]
    repaired: tuple[int, ...]
    missing: tuple[int, ...]
    failed: Mapping[int, str]
    nfe: int

    @property
    def complete(self) -> bool:
        """Whether every shard is there."""
        return not self.missing


def sample_to(
    model: ScoreModel,
    directory: str | os.PathLike[str],
    shape: Sequence[int],
    *,
    format: Format = "safetensors",
    batch_size: int = 64,
    shard_size: int | None = None,
    seed: int = 0,
    first: int = 0,
    value_range: tuple[float, float] = (-1.0, 1.0),
    verify: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> SampleSet:
    """Draw samples into files: as many as wanted, by any number of processes, to be killed and run again at will.

    Sample i is that of ``ss.sample(model, shape, seed=seed, batch_size=...)``. Run again with the same arguments it
    makes what is missing; the files are the same, byte for byte, however often it was killed and by however many
    processes they are made, on machines of one kind.

    Args:
        model: as in :func:`sample`; conditioning with a row for each of the count samples goes with them.
        directory: the folder, made if it is not there; nothing is written outside it.
        shape: (count, ...) of all samples together.
        format: "safetensors" or "npz", files of "samples" (n, ...) and "indices" (n,), with log_prob= of "log_prob"
            too; or "png", 8 bits a channel, an image of shape (1, 3 or 4, height, width) or (height, width) each.
        batch_size: how many samples the network sees at once.
        shard_size: how many are finished at once; by default a batch, so that a kill costs a batch.
        seed, first: a whole number, and the index of the first sample: 0 <= both < 2^63.
        value_range: (low, high), what is black and what is white in a PNG.
        verify: read all finished shards again and make those that are damaged; otherwise their sizes are looked at.
        rank, world_size: which process this is of how many; by default as torchrun says (RANK and WORLD_SIZE), or 0
            of 1.
        about: more settings, such as where the weights come from; JSON. A network's weights are known by their hash.
        progress: show a progress bar of samples.
        options: as in :func:`sample`, but for a state to start from and what belongs to one batch
            (``shards.REFUSED``); ``on_error="mask"`` keeps samples that failed as NaN, or writes no PNG of them.

    Returns: a :class:`SampleSet`. Cost: as :func:`sample`, for each batch that is missing; 0 NFE for what is there.

    Raises: as :func:`sample`; ValueError if the folder holds samples of other settings; OSError if the disk does not
    take them. What was finished stays. A damaged shard is made again, with a UserWarning.

    >>> import tempfile, torch, scoresolve as ss
    >>> model = ss.exact.Gaussian(torch.zeros(2), torch.eye(2)).model(ss.VPSDE())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = ss.sample_to(model, folder, (100, 2), solver="ddim", nfe=5, batch_size=32)
    ...     again = ss.sample_to(model, folder, (100, 2), solver="ddim", nfe=5, batch_size=32)
    ...     samples = ss.shards.load(folder)["samples"]
    >>> made.complete, made.nfe, again.nfe, len(samples)
    (True, 20, 0, 100)
    """
    check_model(model)
    own, others = place(rank, world_size)
    settings = _settings(model, shape, format, batch_size, shard_size, seed, first, value_range, options)
    manifest = Manifest(Path(directory), {**settings, "about": describe(about or {})})
    manifest.begin()
    made, repaired, failed, calls = list[int](), list[int](), dict[int, str](), 0
    share = range(own, manifest.shards, others)
    bar = tqdm(total=sum(len(manifest.rows(k)) for k in share), unit="sample", disable=not progress or own > 0)
    with bar, ThreadPoolExecutor(1) as writer:  # one shard is written while the next is drawn
        writing: Future[None] | None = None
        for shard in share:
            flaw = manifest.flaw(shard, verify)
            if flaw is None:
                manifest.tidy(shard)
                failed.update(manifest.failed(shard))
                bar.update(len(manifest.rows(shard)))
                continue
            if flaw != MISSING:
                warnings.warn(f"shard {shard} of {directory} is made again: {flaw}", stacklevel=2)
                manifest.forget(shard)
                repaired.append(shard)
            drawn = _draw(manifest, shard, model, shape, options, bar)
            if writing is not None:
                writing.result()
            writing = writer.submit(_write, manifest, shard, drawn)
            made.append(shard)
            failed.update(drawn.failed)
            calls += drawn.nfe
        if writing is not None:
            writing.result()
    missing = tuple(shard for shard in range(manifest.shards) if not manifest.has(shard))
    return SampleSet(
        manifest.directory, manifest.count, manifest.shards, tuple(made), tuple(repaired), missing, failed, calls
    )


def _settings(
    model: ScoreModel,
    shape: Sequence[int],
    format: Format,
    batch_size: int,
    shard_size: int | None,
    seed: int,
    first: int,
    value_range: tuple[float, float],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """All that decides the files, checked, as JSON."""
    from . import __version__  # the package is whole by the time of a call

    refused = [name for name in REFUSED if name in options]
    refused += ["start"] if isinstance(options.get("start"), Tensor) else []
    noise = options.get("noise")
    refused += ["noise"] if hasattr(noise, "draw") and not isinstance(noise, type) else []
    if refused:
        raise TypeError(f"sample_to draws all samples from their seed, it takes no {', '.join(refused)}: use ss.sample")
    if format not in get_args(Format):
        raise ValueError(unknown("format", format, get_args(Format)))
    sizes = list(check_shape(shape))
    start = whole_number("first", first, least=0)
    require(start + sizes[0] <= 2**63, f"indices below 2^63, got first={start} and {sizes[0]} samples")
    low, high = (float(value) for value in value_range)
    check_format(format, sizes[1:], low, high)
    require(format != "png" or options.get("log_prob") is None, 'format="safetensors" or "npz" with log_prob=')
    batch = whole_number("batch_size", batch_size)
    return {
        "scoresolve": __version__,
        "model": describe_model(model),
        "count": sizes[0],
        "shape": sizes[1:],
        "seed": whole_number("seed", seed, least=0),
        "first": start,
        "batch_size": batch,
        "shard_size": batch if shard_size is None else whole_number("shard_size", shard_size),
        "format": format,
        "value_range": [low, high] if format == "png" else None,
        "options": {name: describe(value) for name, value in options.items() if name != "device"},
    }


@dataclass(frozen=True)
class _Drawn:
    """A shard on the host: arrays, the samples that failed, and what it took."""

    arrays: dict[str, np.ndarray]
    failed: dict[int, str]
    nfe: int
    table: str | None
    device: torch.device


def _draw(
    manifest: Manifest,
    shard: int,
    model: ScoreModel,
    shape: Sequence[int],
    options: Mapping[str, Any],
    bar: tqdm[Any],
) -> _Drawn:
    """Draw a shard, batch by batch."""
    rows, settings = manifest.rows(shard), manifest.settings
    arrays, failed, calls = list[dict[str, np.ndarray]](), dict[int, str](), 0
    for chunk in chunks_of(len(rows), settings["batch_size"]):
        mine = rows[chunk.start : chunk.stop]
        indices = [manifest.first + row for row in mine]
        chosen = model.take(torch.tensor(mine, device="cpu"), manifest.count)
        part = sample(chosen, (len(mine), *shape[1:]), seed=settings["seed"], indices=indices, **options)
        failed.update({indices[failure.sample]: str(failure.status) for failure in part.failures})
        arrays.append(_arrays(part, indices, settings["value_range"]))
        calls += part.nfe
        bar.update(len(mine))
    joined = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    table = None if part.table is None else table_hash(part.table)
    return _Drawn(joined, failed, calls, table, part.samples.device)


def _write(manifest: Manifest, shard: int, drawn: _Drawn) -> None:
    """Write a shard and record that it is finished."""
    facts = {"failed": drawn.failed, "nfe": drawn.nfe, "table": drawn.table, "made_with": _made_with(drawn.device)}
    start = manifest.first + manifest.rows(shard).start
    lost = {index - start for index in drawn.failed}
    manifest.record(shard, contents(manifest.settings["format"], manifest.names(shard), drawn.arrays, lost), facts)


def _arrays(part: Solution, indices: Sequence[int], value_range: Sequence[float] | None) -> dict[str, np.ndarray]:
    """What is kept of a batch, on the host."""
    if value_range is not None:
        return {"samples": to_pixels(part.samples, *value_range).cpu().numpy()}
    kept = {"samples": part.samples, "indices": torch.tensor(indices, device="cpu")}
    if part.density is not None:
        kept["log_prob"] = part.log_prob
    return {name: value.cpu().numpy() for name, value in kept.items()}


def _made_with(device: torch.device) -> dict[str, str]:
    """What the last bits of a sample depend on."""
    cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
    }


def check(directory: str | os.PathLike[str], *, verify: bool = True) -> dict[int, str]:
    """What is wrong with the shards of a folder, by their numbers: nothing if all are there and whole. 0 NFE.

    Args: verify, read everything and compare its sha256; otherwise look at sizes. Raises: FileNotFoundError, ValueError
    if there is no manifest.
    """
    manifest = Manifest.read(Path(directory))
    flaws = {shard: manifest.flaw(shard, verify) for shard in range(manifest.shards)}
    return {shard: flaw for shard, flaw in flaws.items() if flaw is not None}


def load(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All samples of a folder, in order: "samples" (count, ...), "indices" (count,), "log_prob" if it was asked for.

    What is read is compared with the sha256 of the manifest. Raises: FileNotFoundError; ValueError if shards are
    missing or damaged, or are PNG.
    """
    manifest = Manifest.read(Path(directory))
    if manifest.settings["format"] == "png":
        raise ValueError(f"{directory} holds PNG, in {directory}/samples: read them with a library for images")
    flaws = check(directory)
    if flaws:
        shard, flaw = next(iter(flaws.items()))
        raise ValueError(
            f"{len(flaws)} of {manifest.shards} shards of {directory} are missing or damaged (shard {shard}: {flaw}): "
            "run sample_to again, with verify=True if there are damaged ones"
        )
    parts = [manifest.arrays(shard) for shard in range(manifest.shards)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
