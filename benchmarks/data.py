"""Images that come with scikit-learn, so that nothing is downloaded: its digits, and patches of photographs.

====================  ==========================================================================================
digits                1797 images of 8 x 8, grey, 17 levels; labelled 0 to 9
patches               28 x 28 out of the two sample photographs, grey, 256 levels; labelled by the photograph
====================  ==========================================================================================

Level k of n is the centre of the k-th of n equal cells of ``data_range``: what a density on that range has to be
integrated over to give the chance of a level. Patches overlap each other; those of the test set come from the right
quarter of each photograph and those of the training set from the rest, so that no pixel is in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

from scoresolve.errors import unknown, whole_number

from . import digits


@dataclass(frozen=True)
class Images:
    """A data set, split.

    Attributes:
        name: as it is asked for.
        train, test: (n, channels, height, width), float32, within data_range.
        train_labels, test_labels: int64 (n,), from 0 to classes - 1.
        levels, data_range: of the pixels, as ``ss.dequantise`` and ``ss.log_likelihood`` take them.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor
    levels: int
    data_range: tuple[float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.train.shape[1:])

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return int(self.train_labels.max()) + 1

    @cached_property
    def span(self) -> float:
        """The largest distance of two images of the training set: the largest noise level that VE processes need.

        Source: Song and Ermon 2020, arXiv:2006.09011, technique 1.
        """
        flat = self.train.flatten(1)
        return float(max(torch.cdist(flat[i : i + 1024], flat).max() for i in range(0, len(flat), 1024)))


def digit_images(seed: int = 0) -> Images:
    """The digits, 1500 to train on and 297 to test with."""
    pixels, labels = digits.images(torch.float32), torch.as_tensor(load_digits().target, dtype=torch.int64)
    order = torch.as_tensor(np.random.default_rng(seed).permutation(len(pixels)))
    train, test = order[:1500], order[1500:]
    half_cell = 1 / 16  # the lowest and the highest level, -1 and 1, are centres of cells too
    ends = (-1 - half_cell, 1 + half_cell)
    return Images("digits", pixels[train], pixels[test], labels[train], labels[test], 17, ends)


def patch_images(seed: int = 0, *, side: int = 28, train: int = 8000, test: int = 1000, colour: bool = False) -> Images:
    """Patches of scikit-learn's two photographs, at places drawn from the seed, as many of each photograph.

    Args: side, of a patch, 1 to 160; train, test: how many, at least 2 each; colour: three channels, else the mean
    of the three.
    """
    if not whole_number("side", side) <= 160:  # the right quarter is 160 pixels wide
        raise ValueError(f"side must be at most 160 pixels, the width of what the test patches come from, got {side}")
    draws = np.random.default_rng(seed)
    sets = {"train": whole_number("train", train, least=2), "test": whole_number("test", test, least=2)}
    found: dict[str, list[Tensor]] = {name: [] for name in sets}
    marks: dict[str, list[Tensor]] = {name: [] for name in sets}
    photographs = load_sample_images().images
    for label, photograph in enumerate(photographs):
        whole = photograph if colour else photograph.mean(axis=2, keepdims=True).round()
        edge = 3 * whole.shape[1] // 4
        for (name, count), area in zip(sets.items(), (whole[:, :edge], whole[:, edge:]), strict=True):
            share = count * (label + 1) // len(photographs) - count * label // len(photographs)
            windows = np.lib.stride_tricks.sliding_window_view(area, (side, side), axis=(0, 1))
            places = draws.integers((0, 0), windows.shape[:2], (share, 2))
            cut = np.ascontiguousarray(windows[places[:, 0], places[:, 1]])
            found[name].append((torch.as_tensor(cut, dtype=torch.float32) + 0.5) / 128 - 1)
            marks[name].append(torch.full((share,), label))
    pixels, labels = ({name: torch.cat(parts) for name, parts in all.items()} for all in (found, marks))
    return Images("patches", pixels["train"], pixels["test"], labels["train"], labels["test"], 256, (-1.0, 1.0))


DATA: dict[str, Callable[[], Images]] = {"digits": digit_images, "patches": patch_images}


@cache
def images(name: str) -> Images:
    """The data set of that name. Raises: ValueError for an unknown one."""
    if name not in DATA:
        raise ValueError(unknown("data", name, DATA))
    return DATA[name]()
