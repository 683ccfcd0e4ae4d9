"""COCO's mean average precision of boxes, by pycocotools: over classes and overlaps of 0.5 to 0.95."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch

# Answers of an image that count, the surest ones.
MOST_ANSWERS = 100


def box_rows(image: int, labels: torch.Tensor, corners: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
    """Boxes of an image as rows of a tally, float64 (k, 7): image, class, score, left, top, right, bottom.

    Args:
        image: its number.
        labels: classes from 1 on, (k,).
        corners: as shares of the image, (k, 4).
        scores: of answers, (k,), from 0 to 1; None for the boxes that there are, whose score is -1.
    """
    sure = torch.full((len(labels),), -1.0) if scores is None else scores
    numbers = torch.full((len(labels),), float(image))
    return torch.cat(
        [torch.stack([numbers, labels.cpu().float(), sure.cpu().float()], 1), corners.cpu().float()], 1
    ).double()


def mean_average_precision(rows: torch.Tensor) -> float:
    """mAP of :func:`box_rows` of all images; 0 where there are no boxes, or no answers."""
    values = rows.numpy()
    answered = values[:, 2] >= 0
    wanted, given = values[~answered], values[answered]
    if not len(wanted) or not len(given):
        return 0.0
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):  # which says what it does
        truth = COCO()
        truth.dataset = _dataset(wanted, sorted(set(values[:, 0].astype(int).tolist())))
        truth.createIndex()
        sizes = given[:, 5:] - given[:, 3:5]
        answers = truth.loadRes(
            np.concatenate([given[:, :1], given[:, 3:5], sizes, given[:, 2:3], given[:, 1:2]], axis=1)
        )
        judged = COCOeval(truth, answers, "bbox")
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
        judged.params.maxDets = [MOST_ANSWERS]
        judged.evaluate()
        judged.accumulate()
    precisions = judged.eval["precision"]
    return float(precisions[precisions >= 0].mean())


def _dataset(wanted: np.ndarray[Any, Any], images: list[int]) -> dict[str, Any]:
    """What there is, as COCO's annotations. Their numbers start at 1: 0 counts as no match."""
    boxes = np.concatenate([wanted[:, 3:5], wanted[:, 5:] - wanted[:, 3:5]], axis=1)
    annotations = [
        {"id": number, "image_id": int(row[0]), "category_id": int(row[1]), "iscrowd": 0}
        | {"bbox": box.tolist(), "area": float(box[2] * box[3])}
        for number, (row, box) in enumerate(zip(wanted, boxes, strict=True), start=1)
    ]
    classes = sorted({int(row[1]) for row in wanted})
    return {
        "images": [{"id": i} for i in images],
        "categories": [{"id": c} for c in classes],
        "annotations": annotations,
    }
