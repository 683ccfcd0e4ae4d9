"""The settings of a training: a recipe's ``training`` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tvmfbnet.config import MOST_BATCH, MOST_EPOCHS, MOST_IMAGES, MOST_STEPS, MOST_THREADS, Config, Seed, given_whole

# With fewer epochs than this, 3 epochs of warm-up would be too large a share.
_SHORT = 30
# What names a model of timm's starts with.
TIMM = "timm:"


# Settings that change how a training is run, but not what comes out of it.
_FREE = frozenset({"checkpoint_steps", "device", "threads"})
# Settings that checkpoints of earlier versions do not have.
_LATER = (
    *("decay_epochs", "rand_augment", "rand_magnitude", "mixup", "cutmix"),
    *("distil_from", "distil_weight", "distil_temperature", "accumulate"),
)


class TrainConfig(Config):
    """SGD with Nesterov momentum, linear warm-up then cosine or steps (timm's schedules), label smoothing, EMA."""

    epochs: int = Field(90, ge=1, le=MOST_EPOCHS, description="passes over the training images")
    warmup_epochs: float = Field(
        3.0,
        ge=0,
        le=MOST_EPOCHS,
        description="of these, a linear rise of the learning rate; unset and with fewer than 30 epochs: a tenth",
    )
    batch_size: int = Field(256, ge=2, le=MOST_BATCH, description="images in a step, all processes together")
    train_images: int | None = Field(
        None, ge=10, le=MOST_IMAGES, description="number of training images to use, chosen at random; all if unset"
    )

    lr: float = Field(0.2, gt=0, le=100, description="learning rate at its peak")
    decay_epochs: tuple[Annotated[int, Field(ge=1, le=MOST_EPOCHS)], ...] | None = Field(
        None, description="epochs after each of which the learning rate falls to a tenth; a cosine if unset"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
    weight_decay: float = Field(
        4e-5, ge=0, le=10, description="of conv and classifier weights; norms and biases have none"
    )
    gradient_clip: float | None = Field(None, gt=0, le=1e6, description="largest norm of the gradient")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of a label spread over all classes")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the classifier's inputs dropped in training")
    ema_decay: float | None = Field(0.999, gt=0, lt=1, description="moving average of the weights; none if null")

    augment_shift: int = Field(
        2, ge=0, le=1024, description="random shift of training images, pixels; folders: random crop"
    )
    augment_flip: bool = Field(True, description="mirror half of the training images")

    rand_augment: int = Field(0, ge=0, le=16, description="RandAugment: random operations on each training image")
    rand_magnitude: float = Field(0.3, ge=0, le=1, description="of these, from 0 to 1; 0.3 is magnitude 9 of 30")
    mixup: float = Field(0.0, ge=0, le=100, description="mixup: alpha of the shares that images are mixed by; 0: off")
    cutmix: float = Field(
        0.0, ge=0, le=100, description="CutMix: alpha of the areas that other images take; with mixup, half the batches"
    )

    distil_from: str | None = Field(
        None, description="trained net to distil from: a net.pt, timm:NAME, or timm:NAME,FILE with weights of a file"
    )
    distil_weight: float = Field(0.5, gt=0, le=1, description="share of the trained net's outputs in the loss")
    distil_temperature: float = Field(2.0, gt=0, le=100, description="that both nets' outputs are softened by")

    accumulate: int = Field(
        1, ge=1, le=1024, description="parts that a batch is computed in, one after another, to take less memory"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of convs and matrix products; auto: bfloat16 on GPUs that have it, float32 elsewhere"
    )
    test_every: int = Field(
        1, ge=1, le=MOST_EPOCHS, description="epochs between tests; the last epoch always ends with one"
    )
    seed: Seed = Field(0, description="seed of everything random")
    device: str = Field("auto", description="where torch computes: auto, cpu, cuda, cuda:1; not the target's device")
    threads: int | None = Field(None, ge=1, le=MOST_THREADS, description="CPU threads; torch's choice if unset")
    checkpoint_steps: int = Field(
        100, ge=1, le=MOST_STEPS, description="steps between checkpoints; each epoch ends with one anyway"
    )

    @model_validator(mode="before")
    @classmethod
    def _adapt_defaults(cls, value: Any) -> Any:
        """If only ``epochs`` is set, the warm-up adapts to it."""
        epochs = given_whole(value, "epochs")
        if epochs is None or epochs >= _SHORT or "warmup_epochs" in value:
            return value
        return {**value, "warmup_epochs": epochs / 10}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})")
        decays = list(self.decay_epochs or ())
        if decays != sorted(set(decays)) or (decays and decays[-1] >= self.epochs):
            raise ValueError(f"decay_epochs ({decays}) must rise and stay below epochs ({self.epochs})")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate ({self.accumulate}) must be at most batch_size ({self.batch_size})")
        return self

    def content(self) -> dict[str, Any]:
        """The settings that decide what comes out, as plain data: one that is off is left out, as before it existed."""
        off = {name: TrainConfig.model_fields[name].default for name in _LATER}
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in _FREE and not (name in off and value == off[name])
        }
