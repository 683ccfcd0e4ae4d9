"""The work of a search, counted: its steps of each kind and the images that go through archs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.rungs import rungs_of

# Forward and backward cost about three times what forward alone costs.
BACKWARD = 3
# Archs that a step which fits theta judges.
FITTED_ARCHS = 8

StepKind = Literal["single", "weight", "theta"]
"""A step of w in the warm-up, of w after it, of theta."""


@dataclass(frozen=True)
class SearchPlan:
    """What a search will do.

    Attributes:
        warmup_steps: of w, through one block per layer.
        weight_steps: of w after the warm-up.
        theta_steps: of theta.
        finalist_steps: of all short trainings together.
        judged_images: images that go through an arch when archs are judged, all archs together.
        batch: images in a step of w.
        theta_batch: images in a step of theta; as ``batch`` if 0.
        warmup_paths, weight_paths: how often a batch runs in a step of w, in the warm-up and after it.
        theta_paths: the same of a step of theta.
    """

    warmup_steps: int
    weight_steps: int
    theta_steps: int
    finalist_steps: int
    judged_images: int
    batch: int
    theta_batch: int = 0
    warmup_paths: int = 1
    weight_paths: int = 1
    theta_paths: float = 1.0

    @property
    def images(self) -> float:
        """The cost in training images; an image that is only judged counts a third of one that is trained on."""
        for_weights = self.warmup_steps * self.warmup_paths + self.weight_steps * self.weight_paths
        trained = (for_weights + self.finalist_steps) * self.batch
        for_theta = self.theta_steps * self.theta_paths * (self.theta_batch or self.batch)
        return trained + for_theta + self.judged_images / BACKWARD

    @property
    def step_kinds(self) -> tuple[StepKind, ...]:
        """The kinds of steps whose duration matters."""
        return ("single", "weight", "theta") if self.weight_steps or self.theta_steps else ("single",)

    @classmethod
    def of(cls, config: SearchConfig, images: int, epoch: int = 0, step: int = 0) -> SearchPlan:
        """What is left to do of a differentiable search.

        Args:
            config: the settings.
            images: training images of the data set.
            epoch: whole epochs that are done.
            step: steps of the epoch after them that are done.
        """
        used = min(images, config.train_images or images)
        for_weights = round(used * config.weight_share)
        for_theta = used - for_weights
        batch = min(config.batch_size, for_weights)
        weight_steps = for_weights // batch
        theta_batch = min(config.theta_batch_size or config.batch_size, for_theta)
        theta_steps = for_theta // theta_batch
        counts = {"warmup": 0, "weight": 0, "theta": 0}
        for number in range(epoch, config.epochs):
            done = step if number == epoch else 0
            warmup = number < config.warmup_epochs
            counts["warmup" if warmup else "weight"] += max(0, weight_steps - done)
            counts["theta"] += 0 if warmup else theta_steps - max(0, done - weight_steps)
        validated = min(for_theta, config.validation_images or for_theta)
        screened = min(config.samples, config.screened)
        judged = min(screened, config.candidates) * (min(config.bn_images, for_weights) + validated)
        if screened > config.candidates:
            judged += screened * (min(config.screen_images, for_weights) + min(config.screen_images, for_theta))
        rungs = rungs_of(config)
        judged += sum(rung.archs for rung in rungs) * validated
        trained = sum(rung.all_steps for rung in rungs) + min(screened, config.candidates) * config.tune_steps
        paths = config.step_paths + (2 if config.sandwich else 0)
        return cls(
            *(counts["warmup"], counts["weight"], counts["theta"], trained, judged, batch, theta_batch),
            warmup_paths=paths,
            weight_paths=paths if config.weight_steps == "sampled" else 1,
            theta_paths=FITTED_ARCHS / BACKWARD if config.theta_steps == "fitted" else 1.0,
        )
