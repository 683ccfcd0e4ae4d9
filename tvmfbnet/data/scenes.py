"""Scenes: several Fashion-MNIST objects on one canvas, with targets for every task.

Each object has a random place, size and rotation, and later ones cover earlier ones. What is on top in each pixel is
known, so one rendering gives the classes that are to be seen (multi-label), where an object lies (regression),
what each pixel belongs to (segmentation), and what is to be seen of each object (detection).
Every image follows from the options and its index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from tvmfbnet.data.augment import FLIP, Augment
from tvmfbnet.data.clutter import Places, brightness, draw_places, place_objects
from tvmfbnet.data.fingerprint import joined_digest, of_tensors
from tvmfbnet.data.images import ImageData, TensorImages, moved, shift_offsets
from tvmfbnet.data.scene_options import SceneOptions
from tvmfbnet.errors import DataError

# Pixels below are background: edges of placed objects fade out.
_VISIBLE = 16
# Scenes are rendered in chunks of this many, to bound the memory that transforms take.
_CHUNK = 250
_CLASSES = 10
# Pixels of an object that must be seen for it to have a box.
_LEAST_SEEN = 12


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes and what is known about them; n images of at most k objects.

    Attributes:
        pixels: uint8 (n, 1, height, width).
        top: uint8 (n, height, width): 0 for background, else 1 + the number of the object that is seen there.
        classes: int64 (n, k), of each object; -1 where an image has fewer.
        places: float32 (n, k, 3): centre from the left and from the top and side, as shares of the image's width,
            height and shorter side.
    """

    pixels: torch.Tensor
    top: torch.Tensor
    classes: torch.Tensor
    places: torch.Tensor


def render_scenes(
    originals: torch.Tensor,
    labels: torch.Tensor,
    count: int,
    options: SceneOptions,
    height: int,
    width: int,
    stream: int,
) -> Scenes:
    """Draws scenes.

    Args:
        originals: uint8 (m, 28, 28), the objects.
        labels: int64 (m,), their classes.
        count: of the scenes.
        options: how.
        height, width: of the images, pixels.
        stream: sets with different numbers share no random numbers.
    """
    generator = torch.Generator().manual_seed(2 * options.seed + stream)
    chunks = [
        _render(originals, labels, min(_CHUNK, count - start), options, height, width, generator)
        for start in range(0, count, _CHUNK)
    ]
    return Scenes(*(torch.cat(parts) for parts in zip(*(vars(chunk).values() for chunk in chunks), strict=True)))


def _render(
    originals: torch.Tensor,
    labels: torch.Tensor,
    count: int,
    options: SceneOptions,
    height: int,
    width: int,
    generator: torch.Generator,
) -> Scenes:
    most = options.objects
    present = torch.arange(most) < torch.randint(1, most + 1, (count, 1), generator=generator)
    chosen = torch.randint(len(originals), (count * most,), generator=generator)
    places = draw_places(count * most, options.smallest, options.largest, options.turn, height, width, generator)
    objects = place_objects(originals[chosen], places, height, width).view(count, most, height, width)
    canvas, top = objects.new_zeros(count, height, width), objects.new_zeros(count, height, width)
    for number in range(most):
        seen = (objects[:, number] >= _VISIBLE) & present[:, number].view(-1, 1, 1)
        canvas = torch.where(seen, objects[:, number], canvas)
        top = torch.where(seen, top.new_tensor(number + 1), top)
    classes = labels[chosen].view(count, most).masked_fill(~present, -1)
    return Scenes(canvas.unsqueeze(1), top, classes, _shares(places, height, width).view(count, most, 3))


def _shares(places: Places, height: int, width: int) -> torch.Tensor:
    """Centres and sides as shares of the image: float32 (n, 3)."""
    return torch.stack([(places.centre_x + 1) / 2, (places.centre_y + 1) / 2, places.side / min(height, width)], dim=1)


def shown_classes(scenes: Scenes) -> torch.Tensor:
    """Multi-label targets: float32 (n, 10), 1 for each class of which an object is to be seen."""
    most = scenes.classes.shape[1]
    seen = torch.stack([(scenes.top == number + 1).flatten(1).any(dim=1) for number in range(most)], dim=1)
    shown = F.one_hot(scenes.classes.clamp_min(0), _CLASSES) * (seen & (scenes.classes >= 0)).unsqueeze(2)
    return shown.amax(dim=1).float()


def masks(scenes: Scenes) -> torch.Tensor:
    """Segmentation targets: uint8 (n, height, width), 0 for background, else 1 + the class of what is seen there."""
    count, height, width = scenes.top.shape
    numbers = torch.cat([scenes.classes.new_full((count, 1), -1), scenes.classes], dim=1) + 1
    return numbers.gather(1, scenes.top.flatten(1).long()).to(torch.uint8).view(count, height, width)


def shown_boxes(scenes: Scenes) -> torch.Tensor:
    """Detection targets: float32 (n, k, 5), 1 + the class and the corners of what is to be seen of each object.

    Corners (left, top, right, bottom) are shares of the image. All are 0 where there is no object, or too little of it.
    """
    count, height, width = scenes.top.shape
    most = scenes.classes.shape[1]
    boxes = torch.zeros(count, most, 5)
    for number in range(most):
        seen = scenes.top == number + 1
        rows, columns = seen.any(dim=2).float(), seen.any(dim=1).float()
        left, top = columns.argmax(dim=1), rows.argmax(dim=1)
        right, bottom = width - columns.flip(1).argmax(dim=1), height - rows.flip(1).argmax(dim=1)
        corners = torch.stack([left / width, top / height, right / width, bottom / height], dim=1)
        shown = (seen.flatten(1).sum(dim=1) >= _LEAST_SEEN).unsqueeze(1)
        boxes[:, number] = torch.cat([scenes.classes[:, number : number + 1] + 1, corners], dim=1) * shown
    return boxes


def _moved_boxes(targets: torch.Tensor, augment: Augment, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Boxes (n, k, 5) in images that were mirrored and shifted; those that leave the image are 0."""
    kind, left, top, right, bottom = targets.unbind(dim=2)
    if augment.flip:
        mirrored = (draws[:, FLIP] < 0.5).unsqueeze(1)
        left, right = torch.where(mirrored, 1 - right, left), torch.where(mirrored, 1 - left, right)
    if augment.shift:
        first_row, first_column = (each.unsqueeze(1) for each in shift_offsets(augment.shift, draws))
        across, down = (augment.shift - first_column) / size[1], (augment.shift - first_row) / size[0]
        left, right, top, bottom = left + across, right + across, top + down, bottom + down
    boxes = torch.stack([left, top, right, bottom], dim=2).clamp(0, 1)
    shown = (kind > 0) & ((boxes[..., 2:] - boxes[..., :2]).amin(dim=2) > 1 / max(size))
    return torch.cat([kind.unsqueeze(2), boxes], dim=2) * shown.unsqueeze(2)


def _moved_masks(targets: torch.Tensor, augment: Augment, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks (n, height, width) of images that were mirrored and shifted; what comes into view is background."""
    return moved(targets.unsqueeze(1), augment, draws).squeeze(1)


def _unmoved(targets: torch.Tensor, augment: Augment, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return targets


def _moved_places(targets: torch.Tensor, augment: Augment, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Places (n, 3) in images that were mirrored and shifted."""
    x, y, side = targets.unbind(dim=1)
    if augment.flip:
        x = torch.where(draws[:, FLIP] < 0.5, 1 - x, x)
    if augment.shift:
        top, left = shift_offsets(augment.shift, draws)
        x, y = x + (augment.shift - left) / size[1], y + (augment.shift - top) / size[0]
    return torch.stack([x, y, side], dim=1)


@dataclass(frozen=True)
class _Kind:
    """The targets of a task: how they follow from scenes, how they move with an image, and names of the outputs where
    these are not the classes'."""

    of: Callable[[Scenes], torch.Tensor]
    move: Callable[[torch.Tensor, Augment, torch.Tensor, tuple[int, int]], torch.Tensor]
    names: tuple[str, ...] = ()


_KINDS = {
    "classification": _Kind(lambda scenes: scenes.classes[:, 0], _unmoved),
    "multi_label": _Kind(shown_classes, _unmoved),
    "segmentation": _Kind(masks, _moved_masks),
    "detection": _Kind(shown_boxes, _moved_boxes),
    "regression": _Kind(lambda scenes: scenes.places[:, 0], _moved_places, ("centre x", "centre y", "side")),
}


class SceneImages(TensorImages):
    """Scenes in memory with the targets of one task.

    Args:
        scenes: what was rendered.
        task: which targets.
        digest: of what they were made of.
    """

    def __init__(self, scenes: Scenes, task: str, digest: str) -> None:
        self._task, self._kind = task, _KINDS[task]
        super().__init__(scenes.pixels, self._kind.of(scenes), digest)

    def targets(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Images.targets`; DataError where an augmentation moves more than they can follow."""
        targets = self.labels[indices]
        if draws is None or self._kind.move is _unmoved:
            return targets
        if augment.trivial:
            raise DataError(
                f"augment_trivial turns and shears images, and targets of {self._task} tell places: set it to false"
            )
        return self._kind.move(targets, augment, draws, (self.pixels.shape[2], self.pixels.shape[3]))


def scene_data(
    sets: list[tuple[torch.Tensor, torch.Tensor]],
    options: SceneOptions,
    height: int,
    width: int,
    class_names: tuple[str, ...],
) -> ImageData:
    """Training and test scenes, of training and test objects.

    Args:
        sets: the originals, uint8 (m, 28, 28), and their classes, int64 (m,), for training and for testing.
        options: what to draw.
        height, width: of the images, pixels.
        class_names: of the originals.
    """
    images = []
    for stream, ((pixels, labels), count) in enumerate(
        zip(sets, (options.images, max(10, options.images // 5)), strict=True)
    ):
        # By what they are made of: rounding may differ by one from one CPU to another.
        digest = joined_digest([of_tensors(pixels, labels), options.describe(), f"{count} {height}x{width}"])
        scenes = render_scenes(pixels, labels, count, options, height, width, stream)
        images.append(SceneImages(scenes, options.task, digest))
    train, test = images
    mean, std = brightness(train.pixels)
    names = _KINDS[options.task].names or class_names
    if options.outputs > len(names):
        names = ("background", *names)
    return ImageData("fashion_scenes", options.outputs, train, test, (mean,), (std,), names, options.task)
