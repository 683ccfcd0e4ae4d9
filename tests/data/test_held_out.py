"""Held-out images are training images that no training on the same seed's first images sees."""

import pytest
import torch

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.held_out import MOST, with_held_out
from tvmfbnet.data.images import ImageData, TensorImages
from tvmfbnet.data.loader import split_indices


def indices(images):
    return set(images._indices.tolist())


@pytest.mark.parametrize("train_images", [None, 50, 1000])
def test_the_division_follows_from_the_seed_and_leaves_the_test_images_alone(tiny_data, train_images):
    data = load_data(tiny_data, 28, 28, 1)
    divided, again, other = (with_held_out(data, seed, train_images) for seed in (3, 3, 4))
    trained, held_out = indices(divided.train), indices(divided.test)
    assert len(held_out) == 12 and len(trained) == min(train_images or 1000, 108) and not trained & held_out
    assert (trained, held_out) == (indices(again.train), indices(again.test)) and held_out != indices(other.test)
    assert again.fingerprint == divided.fingerprint != other.fingerprint
    chosen = torch.tensor(sorted(held_out))
    assert sorted(divided.test.labels.tolist()) == sorted(data.train.labels[chosen].tolist())
    whole = divided.test.load(torch.arange(12), Augment(), None)
    assert torch.equal(whole, data.train.load(divided.test._indices, Augment(), None))
    first, _ = split_indices(len(data.train), 1.0, 3, train_images)
    if train_images == 50:  # what a training with this seed takes
        assert set(first.tolist()) == trained


def test_no_more_are_held_out_than_it_takes():
    pixels, labels = torch.zeros(9 * MOST * 2, 1, 1, 1, dtype=torch.uint8), torch.zeros(9 * MOST * 2, dtype=torch.int64)
    images = TensorImages(pixels, labels)
    divided = with_held_out(ImageData("many", 1, images, images, (0.5,), (0.5,)), 0)
    assert (len(divided.test), len(divided.train)) == (MOST, len(labels) - MOST)
