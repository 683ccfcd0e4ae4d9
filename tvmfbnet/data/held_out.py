"""Training images that are held out: to judge on images that no step has seen, and keep the test images for the end."""

from __future__ import annotations

from dataclasses import replace

import torch

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.fingerprint import joined_digest
from tvmfbnet.data.images import ImageData, Images
from tvmfbnet.data.loader import split_indices

# Share of the training images that is held out, and the most: enough to tell half a point of accuracy apart.
SHARE, MOST = 0.1, 5000


class SelectedImages(Images):
    """Images of a larger list.

    Args:
        images: the list.
        indices: which of them, int64 (n,).
    """

    def __init__(self, images: Images, indices: torch.Tensor) -> None:
        self._images, self._indices = images, indices
        self.labels, self.decodes = images.labels[indices], images.decodes

    @property
    def digest(self) -> str:
        """See :attr:`Images.digest`."""
        return joined_digest([self._images.digest, *map(str, self._indices.tolist())])

    def load(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Images.load`."""
        return self._images.load(self._indices[indices], augment, draws)

    def targets(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Images.targets`."""
        return self._images.targets(self._indices[indices], augment, draws)


def with_held_out(data: ImageData, seed: int, train_images: int | None = None) -> ImageData:
    """The data set with some of its training images in place of its test images, and the others to train on.

    A training takes its images from the start of an order that its seed gives (:func:`.loader.split_indices`); these
    are the last of the same order. So a training on at most nine tenths of the images has never seen them.

    Args:
        data: the data set.
        seed: that of the training.
        train_images: most images to train on; all that are not held out if None.
    """
    order, _ = split_indices(len(data.train), 1.0, seed)
    count = max(1, min(MOST, round(SHARE * len(order))))
    trained, held_out = order[:-count][:train_images], order[-count:]
    return replace(data, train=SelectedImages(data.train, trained), test=SelectedImages(data.train, held_out))
