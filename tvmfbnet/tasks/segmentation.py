"""A class for each pixel: logits (n, classes, h, w) against masks (n, H, W) of class indices, uint8; 255 is not judged.

The net's map may be coarser than the mask: logits are enlarged to it, bilinearly. Class 0 is the background. Accuracy
is the mean over classes of intersection over union (mIoU), of the classes that some mask has.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tvmfbnet.tasks.chance import Chance
from tvmfbnet.tasks.task import Task

IGNORED = 255


class Segmentation(Task):
    """Soft targets are probabilities for each place of a map, (n, classes, h, w)."""

    name, metric = "segmentation", "mIoU"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Cross entropy, the mean over pixels."""
        enlarged = _enlarged(outputs, targets)
        if targets.dim() == 4:
            return F.cross_entropy(enlarged, targets, label_smoothing=smoothing)
        return F.cross_entropy(enlarged, targets.long(), ignore_index=IGNORED, label_smoothing=smoothing)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Pixels by class of the mask and class of the answer."""
        classes, judged = outputs.shape[1], targets != IGNORED
        answers = _enlarged(outputs, targets).argmax(dim=1)
        pairs = targets[judged].long() * classes + answers[judged]
        return torch.bincount(pairs.cpu(), minlength=classes * classes).double()

    def accuracy(self, tally: torch.Tensor) -> float:
        """The mean intersection over union; 0 where no pixel is judged."""
        classes = round(len(tally) ** 0.5)
        pairs = tally.view(classes, classes)
        truth = pairs.sum(dim=1)
        union = truth + pairs.sum(dim=0) - pairs.diagonal()
        shares = pairs.diagonal()[truth > 0] / union[truth > 0]
        return float(shares.mean()) if len(shares) else 0.0

    def soft(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities for each place."""
        return outputs.softmax(dim=1)

    def mixed(self, targets: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """Probabilities for each pixel, of which half are the mask's; a pixel that is not judged has none."""
        judged = (targets != IGNORED).unsqueeze(1)
        hard = F.one_hot(targets.long().masked_fill(targets == IGNORED, 0), soft.shape[1]).permute(0, 3, 1, 2)
        return (_enlarged(soft, targets) + hard) / 2 * judged

    def agreement(self, outputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """The share of places that get one class."""
        return (outputs.argmax(dim=1) == others.argmax(dim=1)).double().flatten(1).mean(dim=1).cpu()

    def chance(self, targets: torch.Tensor) -> Chance:
        """Of always answering the most frequent class: its share of the pixels, divided by the classes there are."""
        counts = torch.bincount(targets[targets != IGNORED].long())
        present = int((counts > 0).sum())
        accuracy = float(counts.max() / counts.sum()) / present if present else 0.0
        return Chance(accuracy, len(targets), "always the most frequent class")


def _enlarged(maps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Maps (n, c, h, w) at the size of the targets, (n, H, W) or (n, c, H, W)."""
    size = targets.shape[-2:]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


TASK = Segmentation()
