"""Ranks archs by accuracy with the supernet's weights, after batch-norm recalibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import in_order
from tvmfbnet.nets.bn_recalibration import recalibrate
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.progress import progress
from tvmfbnet.search.arch_tuning import ArchTuning
from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import task_named
from tvmfbnet.tasks.task import Task
from tvmfbnet.training.device import place_net, place_pixels
from tvmfbnet.training.evaluation import accuracy

VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Judge:
    """Judges archs on fixed images.

    Attributes:
        supernet: gives the weights.
        data: the images.
        calibration: images for batch-norm recalibration, from the part that trained w.
        judged: those that accuracy is measured on, from the other part.
        tuning: what each arch learns before it is judged; nothing if None.
    """

    supernet: Supernet
    data: ImageData
    calibration: torch.Tensor
    judged: torch.Tensor
    tuning: ArchTuning | None = None

    @classmethod
    def of(cls, searcher: Searcher, bn_images: int, judged: int | None, tuned: bool = False) -> Judge:
        """A judge for a search's archs.

        Args:
            searcher: the search.
            bn_images: those that recalibrate batch norm.
            judged: how many images it judges on; all of theta's if None.
            tuned: whether archs are tuned before, by the settings' ``tune_steps``.
        """
        calibration, images = searcher.weight_indices[:bn_images], searcher.theta_indices[:judged]
        config = searcher.config
        tuning = ArchTuning(searcher.data, searcher.weight_indices, config) if tuned and config.tune_steps else None
        return cls(searcher.judged_supernet, searcher.data, calibration, images, tuning)

    def rank(self, candidates: Sequence[ScoredArch], what: str) -> list[ScoredArch]:
        """The candidates with their accuracy, most accurate first; among equals the faster."""
        ranked = []
        with progress(what, len(candidates)) as reporter:
            for candidate in candidates:
                ranked.append(replace(candidate, accuracy=self.accuracy(parse_arch(candidate.arch, self.space))))
                reporter.advance(note=f"best {max(c.accuracy or 0.0 for c in ranked):.1%}")
        return sorted(ranked, key=lambda c: (-(c.accuracy or 0.0), c.predicted_ms))

    @property
    def space(self) -> Space:
        """The archs' search space."""
        return self.supernet.space

    @property
    def task(self) -> Task:
        """What archs are judged by."""
        return task_named(self.data.task)

    @cached_property
    def _calibration_batches(self) -> list[torch.Tensor]:
        batches = in_order(self.data, self.data.train, self.calibration, VALIDATION_BATCH)
        return [pixels for pixels, _ in batches]

    def validation(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The images that accuracy is measured on, with their targets."""
        return in_order(self.data, self.data.train, self.judged, VALIDATION_BATCH)

    def accuracy(self, arch: Arch) -> float:
        """Accuracy of one arch, between 0 and 1."""
        return validate_arch(self.supernet, arch, self._calibration_batches, self.validation(), self.task, self.tuning)


def validate_arch(
    supernet: Supernet,
    arch: Arch,
    calibration: Iterable[torch.Tensor],
    validation: Iterable[tuple[torch.Tensor, torch.Tensor]],
    task: Task,
    tuning: ArchTuning | None = None,
) -> float:
    """Accuracy of an arch with the supernet's weights, after batch-norm recalibration.

    Args:
        supernet: gives the weights; stays as it is.
        arch: the net to judge.
        calibration: images for the statistics, from the part that trained w.
        validation: batches with targets to judge on, from the other part.
        task: what the targets are for.
        tuning: what the arch learns first.
    """
    device = supernet.theta.device
    net = place_net(supernet.extract(arch), device)
    if tuning is not None:
        tuning.tune(net, device)
    recalibrate(net, (place_pixels(batch, device) for batch in calibration))
    return accuracy(net, validation, device, task)
