"""Warnings of a search that completed but learned little or nothing, with a remedy for each.

Such a search finds an arch that meets the target like any other one; only its theta and its accuracies show that the
arch might as well have been drawn by lot. Three signs are looked for, each with a threshold of its own:

Theta is near uniform: a layer has no favourite where its entropy is above that of a distribution in which one block is
twice as probable as each other (for nine blocks 98.5 % of the largest possible entropy). Where that is so in more than
half of the layers, most of the arch is chance.

Archs are compared on few images: with fewer than 100, the standard error of one accuracy, sqrt(p (1 - p) / n), may be
5 percentage points and more, which is more than archs of one latency differ by.

The found net is no better than chance (:mod:`tvmfbnet.data.chance`): then the supernet's weights have learned nothing
that theta could be judged by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.health import Health
from tvmfbnet.space.space import Space
from tvmfbnet.tasks.chance import Chance

# Ratio of a favourite's probability to that of each other block of its layer.
_FAVOURED = 2.0
FEW_IMAGES = 100


@dataclass(frozen=True)
class Notice:
    """One thing to know about a finished search.

    Attributes:
        kind: ``uniform_theta``, ``few_images`` or ``chance_accuracy``.
        text: the finding and the remedy, one line.
    """

    kind: str
    text: str

    def to_dict(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


def notices_of(
    health: Health, space: Space, accuracy: float | None, chance: Chance, config: SearchConfig
) -> list[Notice]:
    """The notices of a completed search.

    Args:
        health: of its last theta.
        space: the search space.
        accuracy: of the found arch, between 0 and 1; None where it was not judged.
        chance: on the images that archs are judged on.
        config: the settings.
    """
    candidates = few_images(chance.images, config), _uniform_theta(health, space, config)
    notices = [notice for notice in candidates if notice is not None]
    if accuracy is not None and chance.explains(accuracy):
        learner = "the supernet" if config.strategy == "differentiable" else "the short training"
        text = (
            f"{learner} learned nothing: the found net's accuracy of {chance.describe(accuracy)}; train longer "
            f"(epochs is {config.epochs}), with another weight_lr (it is {config.weight_lr:g}), or on more images"
        )
        notices.append(Notice("chance_accuracy", text))
    return notices


def few_images(judged: int, config: SearchConfig) -> Notice | None:
    """The notice that archs are compared on few images, which is known before a search starts."""
    if judged >= FEW_IMAGES:
        return None
    if config.validation_images is not None and config.validation_images <= judged:
        cure = f"raise validation_images (it is {config.validation_images})"
    elif config.train_images is not None:
        cure = f"raise train_images (it is {config.train_images})"
    else:
        cure = f"add images, or lower weight_share (it is {config.weight_share:g})"
    error = 50 / math.sqrt(judged)
    text = (
        f"theta learns and archs are compared on few images ({judged}): accuracies are uncertain by {error:.0f} "
        f"percentage points, so which arch is found is mostly chance; {cure}"
    )
    return Notice("few_images", text)


def _uniform_theta(health: Health, space: Space, config: SearchConfig) -> Notice | None:
    near, searched = layers_without_favourite(health.layer_entropy, space)
    if not searched or near <= searched / 2:
        return None
    text = (
        f"theta ended near uniform: in {near} of {searched} layers no block is twice as probable as the others, so "
        f"the found arch is little better than a random one of its latency; train theta longer (epochs is "
        f"{config.epochs}, of which {config.warmup_epochs} are warm-up) or raise theta_lr (it is {config.theta_lr:g})"
    )
    return Notice("uniform_theta", text)


def layers_without_favourite(entropies: Sequence[float], space: Space) -> tuple[int, int]:
    """In how many layers theta has no favourite (see the module), and how many have more than one candidate.

    Args:
        entropies: of each layer's distribution, in nats.
        space: the search space.
    """
    searched = [(entropy, len(layer.blocks)) for entropy, layer in zip(entropies, space.layers, strict=True)]
    searched = [(entropy, count) for entropy, count in searched if count > 1]
    return sum(entropy > entropy_of_a_favourite(count) for entropy, count in searched), len(searched)


def entropy_of_a_favourite(candidates: int) -> float:
    """Entropy in nats of a distribution in which one block is twice as probable as each of the others."""
    other = 1 / (candidates - 1 + _FAVOURED)
    return -(candidates - 1) * other * math.log(other) - _FAVOURED * other * math.log(_FAVOURED * other)
