"""Average precision from histograms of scores, which add up over batches and processes.

Answers are ordered by score; precision and recall follow from how many of the answers above each score are right. With
scores in bins, answers of one bin count as equally sure. Average precision is the area under precision over recall,
without interpolation.
"""

from __future__ import annotations

import torch

BINS = 1000


def score_histogram(scores: torch.Tensor, classes: torch.Tensor, right: torch.Tensor, class_count: int) -> torch.Tensor:
    """Counts answers by class, whether they are right, and score.

    Args:
        scores: between 0 and 1, (m,).
        classes: of the answers, int64 (m,).
        right: whether each is right, bool (m,).
        class_count: how many classes there are.

    Returns:
        float64 (class_count, 2, BINS), on the CPU: wrong answers, then right ones.
    """
    bins = (scores * BINS).long().clamp(0, BINS - 1)
    places = (classes * 2 + right.long()) * BINS + bins
    return torch.bincount(places.cpu(), minlength=class_count * 2 * BINS).view(class_count, 2, BINS).double()


def average_precision(histogram: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Average precision of each class, float64 (classes,); 0 where it has no positives.

    Args:
        histogram: of :func:`score_histogram`.
        positives: what there is to be answered of each class, (classes,).
    """
    wrong, right = histogram.flip(2).cumsum(dim=2).unbind(dim=1)
    precision = right / (right + wrong).clamp_min(1)
    gained = right.diff(dim=1, prepend=torch.zeros_like(right[:, :1]))
    return (precision * gained).sum(dim=1) / positives.clamp_min(1)
