"""Which process this is of how many, and which device is its own."""

from __future__ import annotations

import os

import torch

from .errors import require


def place(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Which process this is of how many: as given, or as torchrun says in RANK and WORLD_SIZE, or 0 of 1.

    Raises: ValueError unless 0 <= rank < world_size, or if only one of them is known.

    >>> place(1, 4)
    (1, 4)
    """
    said = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")] if rank is None and world_size is None else []
    own, others = (said if said != [None, None] else ["0", "1"]) if said else (rank, world_size)
    try:
        numbers = int(own), int(others)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        numbers = 0, 0
    require(0 <= numbers[0] < numbers[1], f"rank and world_size with 0 <= rank < world_size, got {own} of {others}")
    return numbers


def local_device() -> torch.device:
    """The accelerator of this process, one for each on a machine (LOCAL_RANK of torchrun), or the CPU if there is none.

    Put the network there before :func:`sample_to`: it draws where the network is.
    """
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
