"""The settings of a search: a recipe's ``search`` section, with FBNet's published values as defaults."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tvmfbnet.config import (
    MOST_BATCH,
    MOST_EPOCHS,
    MOST_IMAGES,
    MOST_LATENCY_MS,
    MOST_SAMPLES,
    MOST_STEPS,
    MOST_THREADS,
    Seed,
    given_whole,
)
from tvmfbnet.errors import ConstraintError
from tvmfbnet.nets.sampling_modes import Form, ThetaForm
from tvmfbnet.search.constraints import Bound, parse_bounds
from tvmfbnet.search.evaluators import EvaluatorName
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.strategies import StrategyName
from tvmfbnet.search.supernet_config import SupernetConfig

if TYPE_CHECKING:  # loads torch
    from tvmfbnet.data.augment import Augment


MOST_BUDGET = 10**15
MOST_BUDGET_MINUTES = 10**7
MOST_FRONT = 100
MOST_RUNGS = 6
# Below this, theta divided by the temperature overflows 32 bits.
_LEAST_TEMPERATURE = 1e-4


_PAPER_EPOCHS = 90
# With fewer epochs than this, the paper's 10 epochs of warm-up would be too large a share.
_SHORT = 30


class SearchConfig(SupernetConfig):
    """FBNet's training scheme (section 3.3 and 4.1 of the paper) and our additions.

    Each epoch trains the weights w on ``weight_share`` of the training images, then, after the warm-up, theta on the
    others. The split is fixed for the run.
    """

    strategy: StrategyName = Field(
        "differentiable",
        description="how archs are searched; all at an equal budget of training images",
    )
    evaluator: EvaluatorName = Field(
        "short_training",
        description="how a strategy that judges whole archs does so: by short trainings from scratch, or with the "
        "weights of one supernet that is trained first",
    )
    epochs: int = Field(90, ge=1, le=MOST_EPOCHS, description="passes over the training images, warm-up included")
    warmup_epochs: int = Field(
        10,
        ge=0,
        le=MOST_EPOCHS,
        description="first epochs, which train w only, each block equally likely; unset and with fewer than 30 epochs: "
        "a third of them",
    )
    batch_size: int = Field(192, ge=2, le=MOST_BATCH, description="images in a step that trains w")
    theta_batch_size: int | None = Field(
        None, ge=2, le=MOST_BATCH, description="images in a step that trains theta; batch_size if unset"
    )
    train_images: int | None = Field(
        None, ge=10, le=MOST_IMAGES, description="number of training images to use, chosen at random; all if unset"
    )
    weight_share: float = Field(0.8, gt=0, lt=1, description="share of the training images that train w")

    weight_lr: float = Field(0.1, gt=0, le=100, description="learning rate of w at its peak (SGD, cosine to 0)")
    weight_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of w (Nesterov)")
    weight_decay: float = Field(1e-4, ge=0, le=10, description="weight decay of w")
    weight_steps: Form = Field(
        "mixture",
        description="how w learns after the warm-up: through the Gumbel-softmax mixture of all blocks (the paper), or "
        "at a fraction of the cost through one block per layer sampled from softmax(theta), or two",
    )
    theta_steps: ThetaForm = Field(
        "mixture",
        description="how theta learns: by gradient through the same three forms, or fitted to validation losses of "
        "archs drawn near the constraints",
    )
    save_memory: bool = Field(False, description="recompute mixtures in the backward pass: slower, far less memory")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of convs and matrix products")
    gradient_clip: float | None = Field(None, gt=0, le=1e6, description="largest norm of the gradient of w")
    theta_lr: float = Field(0.01, gt=0, le=100, description="learning rate of theta (Adam)")
    theta_decay: float = Field(5e-4, ge=0, le=10, description="weight decay of theta")
    temperature: float = Field(
        5.0, ge=_LEAST_TEMPERATURE, le=1e4, description="Gumbel-softmax temperature at the first epoch"
    )
    temperature_decay: float = Field(
        math.exp(-0.045),
        gt=0,
        le=1,
        description="its factor from epoch to epoch; unset and with more than 90 epochs: what leads to the same last "
        "temperature",
    )

    loss: Literal["additive", "multiplicative"] = Field("additive", description="how latency joins cross entropy")
    alpha: float = Field(0.2, ge=0, le=1e6, description="weight of the latency term")
    beta: float = Field(0.6, gt=0, le=100, description="exponent of the latency term")
    latency_reference_ms: float = Field(
        0.001, ge=1e-6, le=MOST_LATENCY_MS, description="unit of the latency inside the logarithm"
    )
    latency_target_ms: float | None = Field(
        None, gt=0, le=MOST_LATENCY_MS, description="find the most accurate net up to this latency"
    )
    constraints: tuple[str, ...] = Field(
        (), description="further bounds on every net, such as [params<=4.5M]; latency<=8ms is the latency target"
    )
    mode: Literal["auto", "penalty", "target"] = Field(
        "auto",
        description="penalty: alpha and beta rule, constraints only select; target: only what exceeds the latency "
        "target or another constraint costs; auto: target where one of them is given",
    )
    target_strength: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="penalty strength for what exceeds a constraint (mu); a controller adapts the Lagrange multiplier",
    )
    target_tolerance: float = Field(0.03, gt=0, lt=1, description="how far below a bound archs are looked for")

    augment_shift: int = Field(2, ge=0, le=1024, description="random shift of training images, pixels")
    augment_flip: bool = Field(True, description="mirror half of the training images")
    augment_colour: float = Field(0.0, ge=0, lt=1, description="random brightness, contrast, saturation")
    augment_trivial: bool = Field(False, description="one random operation per image (TrivialAugment)")
    augment_erase: float = Field(0.0, ge=0, le=1, description="share of images with a random rectangle blanked")

    samples: int = Field(200, ge=1, le=MOST_SAMPLES, description="archs sampled from the learned distribution")
    screened: int = Field(
        32, ge=1, le=MOST_SAMPLES, description="how many of these, the most probable, are judged on few images"
    )
    screen_images: int = Field(512, ge=2, le=MOST_IMAGES, description="the few images")
    candidates: int = Field(
        10, ge=1, le=MOST_SAMPLES, description="how many of those, the best, are validated on all images"
    )
    bn_images: int = Field(1024, ge=2, le=MOST_IMAGES, description="images that recalibrate a candidate's batch norm")
    validation_images: int | None = Field(
        None, ge=1, le=MOST_IMAGES, description="most images that rank a candidate; all if unset"
    )

    front: int | None = Field(
        None,
        ge=2,
        le=MOST_FRONT,
        description="search a whole Pareto front: the most accurate nets up to this number of latency bounds, spread "
        "evenly up to the latency target, or else up to the slowest net",
    )
    finalists: int = Field(
        0,
        ge=0,
        le=1000,
        description="how many archs that meet the target are trained briefly from scratch to pick the best; "
        "0: accuracy with the supernet's weights decides",
    )
    finalist_steps: int = Field(
        150, ge=1, le=MOST_STEPS, description="steps of such a training, with the settings of w"
    )
    finalist_rungs: int = Field(
        1,
        ge=1,
        le=MOST_RUNGS,
        description="successive halving: with more than one rung, each trains a third as many archs for three times "
        "the steps, the last one for finalist_steps; all at the cost of that many finalists; 1: all are trained alike",
    )
    finalist_start: Literal["scratch", "supernet"] = Field(
        "scratch", description="weights that finalists of the differentiable search start from"
    )
    budget_images: int | None = Field(
        None,
        ge=1,
        le=MOST_BUDGET,
        description="training images that a strategy which judges whole archs may process; unset: as many as the "
        "differentiable search of these settings would",
    )
    budget_minutes: float | None = Field(
        None,
        gt=0,
        le=MOST_BUDGET_MINUTES,
        description="the same budget as a time, which is converted to images once, when the search starts",
    )

    collapse_skip: float = Field(0.9, gt=0, le=1, description="mean probability of skip that counts as a collapse")
    stop_on_collapse: bool = Field(True, description="stop, with a checkpoint, when the search has collapsed")
    loggers: tuple[Literal["csv", "tensorboard"], ...] = Field(("csv",), description="where figures go meanwhile")

    seed: Seed = Field(0, description="seed of everything random")
    device: str = Field("auto", description="where torch computes: auto, cpu, cuda, cuda:1; not the target's device")
    threads: int | None = Field(None, ge=1, le=MOST_THREADS, description="CPU threads; torch's choice if unset")
    checkpoint_steps: int = Field(
        50, ge=1, le=MOST_STEPS, description="steps between checkpoints; each epoch ends with one anyway"
    )

    @model_validator(mode="before")
    @classmethod
    def _adapt_defaults(cls, value: Any) -> Any:
        """Where ``epochs`` is set alone, the settings that follow from it adapt, so that they never contradict it."""
        value = _with_latency_target(value)
        epochs = given_whole(value, "epochs")
        if epochs is None:
            return value
        adapted: dict[str, Any] = {}
        if epochs < _SHORT and "warmup_epochs" not in value:
            adapted["warmup_epochs"] = epochs // 3
        if epochs > _PAPER_EPOCHS and "temperature_decay" not in value:
            adapted["temperature_decay"] = math.exp(-0.045 * _PAPER_EPOCHS / epochs)
        return {**value, **adapted}

    @field_validator("constraints")
    @classmethod
    def _readable(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Every constraint in one form."""
        try:
            return tuple(bound.text for bound in parse_bounds(texts))
        except ConstraintError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) leaves no epoch of {self.epochs} to train theta")
        if self.budget_images is not None and self.budget_minutes is not None:
            raise ValueError("budget_images and budget_minutes are two budgets: give one")
        if self.front is not None and self.finalist_rungs > 1:
            raise ValueError("front and finalist_rungs exclude each other: trainings of a front are all of one length")
        coldest = self.temperature_at(self.epochs - 1)
        if coldest < _LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature would fall to {coldest:.1g} by the last epoch, below {_LEAST_TEMPERATURE:g}; "
                "take a temperature_decay nearer to 1"
            )
        return self

    def require_consistent_target(self) -> None:
        """ValueError where a setting lacks the target that it needs; a recipe may work it out only with a table."""
        if self.latency_target_ms is None and not self.constraints:
            for name, value in (("mode", "target"), ("weight_paths", "window")):
                if getattr(self, name) == value:
                    raise ValueError(f"{name} {value} needs latency_target_ms or constraints")

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The bounds on other quantities than latency."""
        return parse_bounds(self.constraints)

    @property
    def augment(self) -> Augment:
        """The random changes to training images."""
        from tvmfbnet.data.augment import Augment

        return Augment(
            self.augment_shift, self.augment_flip, self.augment_colour, self.augment_trivial, self.augment_erase
        )

    def temperature_at(self, epoch: int) -> float:
        """Gumbel-softmax temperature of an epoch, counted from 0."""
        return self.temperature * self.temperature_decay**epoch


def _with_latency_target(value: Any) -> Any:
    """Settings in which a constraint on latency has become the latency target."""
    texts = value.get("constraints") if isinstance(value, dict) else None
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    try:
        bounds = parse_bounds(texts)
    except ConstraintError:  # said by the field's own validator, with its name
        return value
    latency = next((bound for bound in bounds if bound.quantity is LATENCY), None)
    if latency is None:
        return value
    target_ms = value.get("latency_target_ms")
    if target_ms is not None and target_ms != latency.value:
        raise ValueError(f"latency has two bounds, latency_target_ms {target_ms} and {latency.text}: give one")
    others = [bound.text for bound in bounds if bound is not latency]
    return {**value, "latency_target_ms": latency.value, "constraints": others}
