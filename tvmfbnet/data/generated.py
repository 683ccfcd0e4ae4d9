"""Generated images of any size: what a step costs in time and memory can be tried before a data set is at hand.

Noise, with labels that it has nothing to do with: nothing can be learned from it. An image is computed when it is asked
for, so a data set may have as many as ImageNet; reading and decoding of files is not part of what it costs.
"""

from __future__ import annotations

import torch

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.fingerprint import joined_digest
from tvmfbnet.data.generated_options import GeneratedOptions
from tvmfbnet.data.images import ImageData, Images, TensorImages

# Distinct noise images; all others are these with their bits flipped.
_POOL = 64
_MEAN, _STD = 0.5, 0.29


class GeneratedImages(Images):
    """Noise, image by image.

    Args:
        count: of the images.
        options: classes and seed.
        shape: channels, height and width.
        stream: sets with different numbers have different images.
    """

    def __init__(self, count: int, options: GeneratedOptions, shape: tuple[int, int, int], stream: int) -> None:
        self.labels = torch.arange(count) % options.classes
        generator = torch.Generator().manual_seed(2 * options.seed + stream)
        self._pool = torch.randint(0, 256, (min(count, _POOL), *shape), dtype=torch.uint8, generator=generator)
        self._digest = joined_digest([options.describe(), f"{count} {shape} {stream}"])

    @property
    def digest(self) -> str:
        """See :attr:`Images.digest`."""
        return self._digest

    def load(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Images.load`."""
        flipped = (indices // len(self._pool) % 256).to(torch.uint8).view(-1, 1, 1, 1)
        pixels = self._pool[indices % len(self._pool)] ^ flipped
        return TensorImages(pixels, self.labels[indices]).load(torch.arange(len(indices)), augment, draws)


def generated_data(options: GeneratedOptions, height: int, width: int, channels: int) -> ImageData:
    """Training and test images; a test set has one image for ten of training, and at least one per class."""
    shape = (channels, height, width)
    tested = max(options.classes, options.images // 10)
    train, test = (GeneratedImages(n, options, shape, stream) for stream, n in enumerate((options.images, tested)))
    return ImageData("generated", options.classes, train, test, (_MEAN,) * channels, (_STD,) * channels)
