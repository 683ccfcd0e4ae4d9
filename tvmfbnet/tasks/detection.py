"""Boxes with classes: what SSDLite answers against the boxes of an image.

Outputs are (n, anchors, classes + 8): for each anchor logits, class 0 being background, then four offsets, then the
anchor itself, which the net hands on so that its answer can be read by itself. Targets are (n, most, 5): class, left,
top, right, bottom as shares of the image; class 0 fills up images with fewer boxes.

Loss: cross entropy of matched anchors and of three times as many of the hardest others, and smooth L1 of offsets (Liu
et al. 2016, "SSD"). Accuracy: COCO's mAP, the mean over classes and over ten thresholds of intersection over union,
0.5 to 0.95, of average precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from tvmfbnet.nets.boxes import as_centres, as_corners, decoded, encoded, overlap
from tvmfbnet.tasks.chance import Chance
from tvmfbnet.tasks.coco_precision import MOST_ANSWERS, box_rows, mean_average_precision
from tvmfbnet.tasks.task import Task

# An anchor is matched with a box from this intersection over union on, and each box at least with its best anchor.
_MATCHED = 0.5
_HARD_PER_MATCHED = 3
# Scores of 0 have a logarithm then.
_TINY = 1e-30
# Of what is answered: the lowest score, boxes before suppression, and the overlap that is suppressed.
_SCORE, _CANDIDATES, _SUPPRESSED = 0.01, 300, 0.5


class Detection(Task):
    """Soft targets are another net's outputs."""

    name, metric, distils = "detection", "mAP", False

    def joined(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores and boxes of :meth:`tvmfbnet.nets.heads.SsdliteHead.exported`: each box as an anchor of its own."""
        scores, boxes = outputs
        return torch.cat([scores.clamp_min(_TINY).log(), torch.zeros_like(boxes), as_centres(boxes)], dim=2)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """The sum over anchors, divided by the number of matched ones."""
        logits, offsets, anchors = _split(outputs)
        if targets.shape[-1] == outputs.shape[-1]:
            return _soft_loss(logits, offsets, targets)
        matched, which = match(anchors, targets)
        wanted = torch.where(matched, targets[..., 0].gather(1, which), 0).long()
        losses = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none", label_smoothing=smoothing)
        hardness = losses.detach().masked_fill(matched, -1.0)
        rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
        judged = matched | (rank < _HARD_PER_MATCHED * matched.sum(dim=1, keepdim=True).clamp_min(1))
        boxes = targets[..., 1:].gather(1, which.unsqueeze(2).expand(-1, -1, 4))
        wanted_offsets = encoded(boxes, anchors.expand_as(boxes))
        places = F.smooth_l1_loss(offsets[matched], wanted_offsets[matched], reduction="sum")
        return (losses[judged].sum() + places) / matched.sum().clamp_min(1)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The boxes that there are and those that are answered, by :func:`.coco_precision.box_rows`, (k, 7)."""
        rows = []
        for image, (answer, truth) in enumerate(zip(answers(outputs), targets.detach().cpu(), strict=True)):
            scores, labels, corners = answer
            present = truth[truth[:, 0] > 0]
            rows += [box_rows(image, present[:, 0], present[:, 1:], None), box_rows(image, labels, corners, scores)]
        return torch.cat(rows)

    def added(self, tallies: Sequence[torch.Tensor]) -> torch.Tensor:
        """All boxes, images numbered on."""
        numbered, first = [], 0.0
        for tally in tallies:
            numbered.append(tally + torch.tensor([first, 0, 0, 0, 0, 0, 0], dtype=torch.float64))
            first += float(tally[:, 0].max()) + 1 if len(tally) else 0.0
        return torch.cat(numbered)

    def accuracy(self, tally: torch.Tensor) -> float:
        """mAP; 0 where there are no boxes."""
        return mean_average_precision(tally)

    def batch_accuracy(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """The share of matched anchors that get their box's class: quick, as this is asked in every step."""
        logits, _, anchors = _split(outputs.detach())
        matched, which = match(anchors, targets)
        right = logits.argmax(dim=2) == targets[..., 0].gather(1, which)
        return float(right[matched].float().mean()) if bool(matched.any()) else 0.0

    def soft(self, outputs: torch.Tensor) -> torch.Tensor:
        """The outputs."""
        return outputs

    def mixed(self, targets: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """Boxes and outputs have no mean: the outputs alone."""
        return soft

    def agreement(self, outputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Of anchors that either net gives an object, the share to which both give the same; 1 where there is none."""
        mine, theirs = (each[..., :-8].argmax(dim=2) for each in (outputs, others))
        objects = (mine > 0) | (theirs > 0)
        same = ((mine == theirs) & objects).sum(dim=1).double() / objects.sum(dim=1).clamp_min(1)
        return torch.where(objects.any(dim=1), same, 1.0).cpu()

    def chance(self, targets: torch.Tensor) -> Chance:
        """Of no boxes at all."""
        return Chance(0.0, len(targets), "no boxes")


def _split(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, offsets, and the anchors, which all images share, (1, anchors, 4)."""
    return outputs[..., :-8], outputs[..., -8:-4], outputs[:1, :, -4:].detach()


def _soft_loss(logits: torch.Tensor, offsets: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """Cross entropy with another net's probabilities, and offsets where that net sees an object."""
    probabilities = soft[..., :-8].softmax(dim=2)
    objects = 1 - probabilities[..., 0]
    entropy = -(probabilities * logits.log_softmax(dim=2)).sum(dim=2)
    places = F.smooth_l1_loss(offsets, soft[..., -8:-4], reduction="none").sum(dim=2)
    return entropy.mean() + (objects * places).sum() / objects.sum().clamp_min(1)


def match(anchors: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each anchor has a box, bool (n, anchors), and which, int64 (n, anchors).

    Args:
        anchors: (1, anchors, 4), centre and size.
        targets: (n, most, 5).
    """
    present = targets[..., 0] > 0
    shares = overlap(as_corners(anchors), targets[..., 1:]).masked_fill(~present.unsqueeze(1), -1.0)
    best, which = shares.max(dim=2)
    matched, favourites = best >= _MATCHED, shares.argmax(dim=1)
    for number in range(targets.shape[1]):
        rows = present[:, number].nonzero()[:, 0]
        which[rows, favourites[rows, number]] = number
        matched[rows, favourites[rows, number]] = True
    return matched, which


@torch.no_grad()
def answers(outputs: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What a net says of each image, surest first, on the CPU: scores (k,), classes from 1 on (k,), corners (k, 4)."""
    from torchvision.ops import batched_nms

    outputs = outputs.float().cpu()
    logits, offsets, anchors = outputs[..., :-8], outputs[..., -8:-4], outputs[..., -4:]
    boxes, probabilities = decoded(offsets, anchors).clamp(0, 1), logits.softmax(dim=2)[..., 1:]
    answered = []
    for corners, shares in zip(boxes, probabilities, strict=True):
        scores, order = shares.flatten().sort(descending=True)
        count = min(_CANDIDATES, int((scores > _SCORE).sum()))
        scores, order = scores[:count], order[:count]
        chosen, labels = corners[order // shares.shape[1]], order % shares.shape[1] + 1
        kept = batched_nms(chosen, scores, labels, _SUPPRESSED)[:MOST_ANSWERS]
        answered.append((scores[kept], labels[kept], chosen[kept]))
    return answered


TASK = Detection()
