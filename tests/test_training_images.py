"""The images that the reference networks are trained on."""

import pytest
import torch
from sklearn.datasets import load_sample_images

from benchmarks.data import images, patch_images


def test_data_lie_in_the_centres_of_their_cells() -> None:
    for data in (
        images("digits"),
        patch_images(train=20, test=10),
        patch_images(side=16, train=4, test=2, colour=True),
    ):
        low, high = data.data_range
        for x in (data.train, data.test):
            place = (x.double() - low) / (high - low) * data.levels - 0.5
            assert (place - place.round()).abs().max() < 1e-4
            assert place.min() > -0.5
            assert place.max() < data.levels - 0.5
    digits = images("digits")
    every = torch.cat([digits.train, digits.test]).flatten(1)
    assert len(every.unique(dim=0)) == len(every) == 1797
    assert digits.span == pytest.approx(float(torch.cdist(digits.train.flatten(1), digits.train.flatten(1)).max()))


def test_patches_are_of_their_part_of_their_photograph() -> None:
    data = patch_images(side=16, train=6, test=4)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    for label, photograph in enumerate(load_sample_images().images):
        grey = torch.as_tensor((photograph.mean(axis=2).round() + 0.5) / 128 - 1, dtype=torch.float32)
        for area, x, labels in (
            (grey[:, :480], data.train, data.train_labels),
            (grey[:, 480:], data.test, data.test_labels),
        ):
            windows = area.unfold(0, 16, 1).unfold(1, 16, 1)
            for patch in x[labels == label]:
                assert ((windows - patch[0]).abs().amax(dim=(2, 3)) < 1e-6).any()
    assert torch.equal(data.train, patch_images(side=16, train=6, test=4).train)
    assert not torch.equal(data.train, patch_images(1, side=16, train=6, test=4).train)
