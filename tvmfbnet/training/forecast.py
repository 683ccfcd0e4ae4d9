"""How long a training will take, from its own first steps: all of them cost the same."""

from __future__ import annotations

import statistics

from tvmfbnet.durations import spell_seconds, warning_of_days
from tvmfbnet.training.config import TrainConfig

# Steps that a forecast is made from, the first one, which also allocates, left out. Of slow ones (seconds) the first
# one is enough.
_STEPS, _SLOW_SECONDS = 4, 5.0
# A test goes forward only: a third of a step for as many images.
_FORWARD = 1 / 3


class Forecaster:
    """Watches the first steps of a training and then says once how long the remaining steps will take.

    Args:
        config: the settings.
        steps: that are left to do.
        tested: batches of test images in each epoch's test.
        epochs: tests that are left to do.
        device: type of the torch device.
        what: is done, for the line.
    """

    def __init__(
        self, config: TrainConfig, steps: int, tested: float, epochs: float, device: str, what: str = "train"
    ) -> None:
        self._config, self._steps, self._device, self._what = config, steps, device, what
        self._tests = tested * epochs / config.test_every
        self._seen: list[float] = []
        self._waiting = True

    def step(self, seconds: float) -> list[str]:
        """Records a step's duration; returns the lines to print, if any."""
        if not self._waiting:
            return []
        self._seen.append(seconds)
        told = self._seen if seconds >= _SLOW_SECONDS else self._seen[1:]
        if not told or (len(told) < min(_STEPS, self._steps - 1) and told[-1] < _SLOW_SECONDS):
            return []
        self._waiting = False
        step = statistics.median(told)
        whole = step * (self._steps + self._tests * _FORWARD)
        line = f"{self._what}: about {spell_seconds(whole)} ({self._steps:,} steps x {spell_seconds(step)}, and tests)"
        warning = warning_of_days(whole, self._shorter())
        return [line, warning] if warning else [line]

    def _shorter(self) -> list[str]:
        ways = ["a GPU (--device cuda)"] if self._device == "cpu" else []
        ways.append(f"fewer epochs (it is {self._config.epochs})")
        return [*ways, "fewer train_images", "smaller images (append `@96` to the space)"]
