"""Evaluators tell how accurate whole archs are, at a cost; a meter lets a strategy spend no more than its budget.

A strategy that judges whole archs asks a :class:`Meter` and does not know what lies behind it: a short training
(:mod:`tvmfbnet.search.short_training`), or a table of trained archs in a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from tvmfbnet.progress import Reporter


def _ignore() -> None:
    """Is told of steps and does nothing."""


def whole_evaluations(budget_images: float, images: float) -> int:
    """How many evaluations of ``images`` each a budget pays for; rounding takes none away."""
    return int(budget_images / images * (1 + 1e-12))


class Evaluator(Protocol):
    """Gives the accuracy of archs.

    The same arch always gets the same accuracy, whatever was asked before: a search that is killed repeats its
    questions, and an evaluator that remembers its answers makes it resume bit-equal.
    """

    @property
    def images(self) -> float:
        """Cost of one arch, in training images."""
        ...

    @property
    def steps(self) -> int:
        """Steps of one evaluation, for progress."""
        ...

    @property
    def together(self) -> int:
        """How many archs are best evaluated in one call."""
        ...

    def evaluate(self, archs: Sequence[str], stepped: Callable[[], None] = _ignore) -> Mapping[str, float]:
        """Accuracy (0 to 1) of each arch string; ``stepped`` is called after steps of the work."""
        ...


@runtime_checkable
class RepeatingEvaluator(Evaluator, Protocol):
    """An evaluator whose answers are noisy, and which can give others."""

    def evaluate_again(
        self, archs: Sequence[str], repetition: int, stepped: Callable[[], None] = _ignore
    ) -> Mapping[str, float]:
        """Accuracy (0 to 1) of each arch string, with other noise for each ``repetition``, counted from 1."""
        ...


class Meter:
    """Hands questions on to an evaluator and counts their cost.

    An answer that the evaluator remembers costs as much as a new one, so that a resumed search spends what an
    uninterrupted one does. An arch that was asked for before through this meter costs nothing.

    Args:
        evaluator: gives the accuracies.
        budget_images: the most that may be spent, in training images.
        reporter: shows progress.
    """

    def __init__(self, evaluator: Evaluator, budget_images: float, reporter: Reporter | None = None) -> None:
        self._evaluator, self.budget_images, self._reporter = evaluator, budget_images, reporter
        self.accuracies: dict[str, float] = {}
        self.repeated: dict[str, list[float]] = {}

    @property
    def _asked(self) -> int:
        return len(self.accuracies) + sum(map(len, self.repeated.values()))

    @property
    def spent_images(self) -> float:
        """Cost so far."""
        return self._asked * self._evaluator.images

    @property
    def can_repeat(self) -> bool:
        """Whether an arch may be evaluated again, with other noise."""
        return isinstance(self._evaluator, RepeatingEvaluator)

    @property
    def together(self) -> int:
        """How many archs are best evaluated in one call."""
        return self._evaluator.together

    @property
    def affordable(self) -> int:
        """How many further archs the budget allows."""
        return max(0, whole_evaluations(self.budget_images, self._evaluator.images) - self._asked)

    def evaluate(self, archs: Sequence[str]) -> dict[str, float]:
        """The accuracy of each arch.

        Raises:
            ValueError: they cost more than is left of the budget.
        """
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.accuracies]
        if len(new) > self.affordable:
            raise ValueError(f"{len(new)} evaluations are beyond the budget, which allows {self.affordable}")
        for start in range(0, len(new), self._evaluator.together):
            part = new[start : start + self._evaluator.together]
            self.accuracies.update(self._evaluator.evaluate(part, self._stepped))
            self._report()
        return {arch: self.accuracies[arch] for arch in archs}

    def evaluate_again(self, arch: str) -> float:
        """The accuracy of an arch that was evaluated before, with other noise.

        Raises:
            ValueError: the budget is spent, or the evaluator does not repeat itself.
        """
        if not isinstance(self._evaluator, RepeatingEvaluator) or not self.affordable:
            raise ValueError("a repeated evaluation is beyond the budget, or the evaluator cannot give one")
        repeats = self.repeated.setdefault(arch, [])
        repeats.append(self._evaluator.evaluate_again([arch], len(repeats) + 1, self._stepped)[arch])
        self._report()
        return repeats[-1]

    def _report(self) -> None:
        if self._reporter is not None:
            best = max([*self.accuracies.values(), *(again for repeats in self.repeated.values() for again in repeats)])
            self._reporter.update(self._asked * self._evaluator.steps, f"best {best:.1%}")

    def share(self, archs: int) -> Meter:
        """A meter with a budget for ``archs`` of them, which are paid from this one's budget too."""
        return Meter(_Shared(self, self._evaluator), archs * self._evaluator.images)

    def _stepped(self) -> None:
        if self._reporter is not None:
            self._reporter.advance(note=self._reporter.note)


class _Shared:
    """The evaluator behind a meter, asked through that meter."""

    def __init__(self, meter: Meter, evaluator: Evaluator) -> None:
        self._meter = meter
        self.images, self.steps, self.together = evaluator.images, evaluator.steps, evaluator.together

    def evaluate(self, archs: Sequence[str], stepped: Callable[[], None] = _ignore) -> Mapping[str, float]:
        """Asks the meter, which shows the progress itself."""
        return self._meter.evaluate(archs)
