"""Tables of trained archs as search problems: spaces, MACs, accuracies and the noise of a training.

NAS-Bench-Macro (Su et al. 2021, Apache-2.0): every net of 8 layers with three candidates each, trained three times on
CIFAR-10. Parameters and MACs counted in the space here equal the table's to the unit, which is checked.

Accel-NASBench (Ahmad et al. 2024, Apache-2.0): 5138 nets of the MnasNet space, trained once on ImageNet by a proxy
recipe. They are a tiny share of their space. Strategies that rank what is listed choose among the trained nets; those
that make archs of their own need a surrogate, which is what that benchmark is made for: xgboost fitted to all nets is
the truth, its errors in cross-validation are the noise of a training. A stage counts as one layer, whose block also
says its depth: the group count in ``k3_e4_g2_se`` stands for a depth of 2.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.derive import arch_string, choice_of
from tvmfbnet.search.draw import Window, choices_between
from tvmfbnet.search.evaluator import Meter
from tvmfbnet.search.predictor.candidates import Candidates
from tvmfbnet.search.quantities.macs import MACS, macs_costs
from tvmfbnet.search.quantities.params import PARAMS, params_costs
from tvmfbnet.search.strategies.evaluating import ArchProblem
from tvmfbnet.space.blocks import BlockSpec
from tvmfbnet.space.space import Layer, Space

Table = NDArray[np.float64]
_FIELDS = ("e", "k", "l", "se")


@dataclass(frozen=True)
class Truth:
    """The archs of one space within one bound on MACs, and what accuracy they reach.

    Attributes:
        name: of the table and the bound.
        space: the space.
        macs: of every arch.
        sizes: parameters and MACs.
        bound: the most MACs.
        tolerance: how far below the bound archs are looked for.
        accuracy: the true accuracy of an arch, in percent.
        training: an arch's accuracy in a training that a random generator decides, in percent.
        best: the largest true accuracy within the bound.
        listed: the only archs whose accuracy is known; None for all.
    """

    name: str
    space: Space
    macs: AdditiveCosts
    sizes: tuple[AdditiveCosts, ...]
    bound: float
    tolerance: float
    accuracy: Callable[[Choice], float]
    training: Callable[[Choice, np.random.Generator], float]
    best: float
    listed: tuple[str, ...] | None = None

    def problem(self, evaluations: int, seed: int) -> ArchProblem:
        """What a strategy is given."""
        meter = Meter(Trainings(self, seed), float(evaluations))
        limits = (Constraint(self.macs, self.bound),)
        return ArchProblem(self.space, self.macs, limits, self.tolerance, seed, meter, self.sizes, listed=self.listed)

    def regret(self, arch: str) -> float:
        """How far an arch is below the best one, in percentage points."""
        return self.best - self.accuracy(choice_of(arch, self.space))


class Trainings:
    """An evaluator that looks trainings up; the same question always has the same answer for a seed."""

    images, steps, together = 1.0, 1, 1

    def __init__(self, truth: Truth, seed: int) -> None:
        self._truth, self._seed = truth, seed

    def evaluate(self, archs: Sequence[str], stepped: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Accuracies as shares."""
        return self.evaluate_again(archs, 0, stepped)

    def evaluate_again(
        self, archs: Sequence[str], repetition: int, stepped: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Of further trainings; which of a table's trainings each shows is drawn again."""
        choices = {arch: choice_of(arch, self._truth.space) for arch in archs}
        draws = {arch: np.random.default_rng([self._seed, repetition, *choice]) for arch, choice in choices.items()}
        return {arch: self._truth.training(choice, draws[arch]) / 100 for arch, choice in choices.items()}


# --- NAS-Bench-Macro ---


def macro_space() -> Space:
    """Three stages of 2, 3 and 3 layers on images of 32x32 pixels."""
    layers, channels, side = [], 32, 32
    for stage, (count, width) in enumerate([(2, 64), (3, 128), (3, 256)]):
        for number in range(count):
            stride = 2 if number == 0 else 1
            blocks = ("skip", "k3_e3", "k5_e6")
            layers.append(Layer(len(layers), stage, channels, width, side, side, stride, blocks))
            channels, side = width, side // stride
    return Space("nas_bench_macro", 3, 32, 32, 10, 32, 1, 1280, tuple(layers))


def macro_truths(file: Path, bounds: Sequence[float]) -> list[Truth]:
    """One for each bound on MACs; SystemExit where the file does not belong to the space."""
    table = {tuple(int(digit) for digit in arch): net for arch, net in json.loads(file.read_text()).items()}
    space = macro_space()
    macs, params = macs_costs(space), params_costs(space)
    if any((macs.value(c), params.value(c)) != (net["flops"], net["params"]) for c, net in table.items()):
        raise SystemExit(f"{file} is not NAS-Bench-Macro: its parameters and MACs are others")
    mean = {choice: float(np.mean(net["test_acc"])) for choice, net in table.items()}
    trainings = {choice: net["test_acc"] for choice, net in table.items()}
    truths = []
    for bound in bounds:
        best = max(accuracy for choice, accuracy in mean.items() if macs.value(choice) <= bound)
        name = f"NAS-Bench-Macro, {MACS.text(bound)} MACs"
        training = lambda choice, draw: float(trainings[choice][int(draw.integers(3))])  # noqa: E731
        truths.append(Truth(name, space, macs, (params, macs), bound, 0.07, mean.__getitem__, training, best))
    return truths


# --- Accel-NASBench ---


class AccelTable:
    """The trained nets, and a surrogate of all others.

    Args:
        file: ``accel-nasbench_dataset_jsons.tar.gz``.
    """

    def __init__(self, file: Path) -> None:
        with tarfile.open(file) as archive:
            members = sorted((m for m in archive if m.name.endswith(".json")), key=lambda m: m.name)
            nets = [json.load(stream) for m in members if (stream := archive.extractfile(m)) is not None]
        archs = [[[net["architecture"][f"block{i}_{name}"] for name in _FIELDS] for i in range(7)] for net in nets]
        self.described = np.array(archs, dtype=float)
        self.accuracies = np.array([net["metrics"]["val_top1"] for net in nets])
        self._sizes = {name: np.array([net["model_info"][name] for net in nets]) * 1e6 for name in ("macs", "params")}
        stages = [sorted({tuple(row) for row in self.described[:, stage].tolist()}) for stage in range(7)]
        self._blocks = np.array([row for stage in stages for row in stage])
        self._starts = np.cumsum([0, *(len(stage) for stage in stages[:-1])])
        layers = [
            Layer(i, i, 16, 16, 14, 14, 1, tuple(_block(*row) for row in stage)) for i, stage in enumerate(stages)
        ]
        self.space = Space("accel_nasbench", 3, 224, 224, 1000, 16, 2, 1280, tuple(layers))
        places = [{row: index for index, row in enumerate(stage)} for stage in stages]
        self.choices = [tuple(places[i][tuple(row)] for i, row in enumerate(net)) for net in self.described.tolist()]
        self.macs, self.params = (self._additive(quantity.name, quantity) for quantity in (MACS, PARAMS))

    def _additive(self, name: str, quantity: object) -> AdditiveCosts:
        """The sizes of single stages, which add up exactly to those of the nets: checked."""
        rows = np.zeros((len(self.choices), len(self._blocks)))
        np.put_along_axis(rows, np.array(self.choices) + self._starts, 1.0, axis=1)
        cells, *_ = np.linalg.lstsq(rows, self._sizes[name], rcond=None)
        if np.abs(rows @ cells - self._sizes[name]).max() > 1.0:
            raise SystemExit(f"{name} of the nets are no sums over stages: not Accel-NASBench")
        stages = np.split(cells, self._starts[1:])
        fixed = sum(stage.min() for stage in stages)
        shifted = tuple(tuple((stage - stage.min()).tolist()) for stage in stages)
        return AdditiveCosts(quantity, shifted, float(fixed))  # type: ignore[arg-type]

    @cached_property
    def surrogate(self) -> Callable[[NDArray[np.int64]], Table]:
        """Accuracies of archs given as rows of candidates' indices."""
        predict = _fit(self.described.reshape(len(self.described), -1), self.accuracies)
        return lambda rows: predict(self._blocks[rows + self._starts].reshape(len(rows), -1))

    def held_out(self, folds: int = 5) -> tuple[float, float]:
        """Kendall's tau of predictions for nets that were not fitted, and the deviation of their errors."""
        from scipy.stats import kendalltau

        inputs, fold = self.described.reshape(len(self.described), -1), np.arange(len(self.described)) % folds
        predicted = np.zeros(len(inputs))
        for number in range(folds):
            predict = _fit(inputs[fold != number], self.accuracies[fold != number])
            predicted[fold == number] = predict(inputs[fold == number])
        return float(kendalltau(predicted, self.accuracies)[0]), float((predicted - self.accuracies).std())

    def truth(self, low: float, high: float, noise: float) -> Truth:
        """The archs of a window of MACs.

        Args:
            low, high: the window.
            noise: standard deviation of a training.
        """
        cache: dict[Choice, float] = {}

        def accuracy(choice: Choice) -> float:
            if choice not in cache:
                cache[choice] = float(self.surrogate(np.array([choice]))[0])
            return cache[choice]

        def training(choice: Choice, draw: np.random.Generator) -> float:
            return accuracy(choice) + float(draw.normal(0.0, noise))

        name = f"Accel-NASBench, {low / 1e6:g} to {high / 1e6:g}M MACs"
        sizes = (self.params, self.macs)
        empty = Truth(name, self.space, self.macs, sizes, high, 1 - low / high, accuracy, training, 0.0)
        return replace(empty, best=self._best_within(high))

    def trained(self, low: float, high: float) -> Truth:
        """The nets of a window that were trained; each training shows the one accuracy there is."""
        accuracies = {
            choice: float(accuracy)
            for choice, accuracy in zip(self.choices, self.accuracies, strict=True)
            if low <= self.macs.value(choice) <= high
        }
        training = lambda choice, draw: accuracies[choice]  # noqa: E731
        name = f"Accel-NASBench, {len(accuracies)} trained nets of {low / 1e6:g} to {high / 1e6:g}M MACs"
        listed, sizes = tuple(arch_string(choice, self.space) for choice in accuracies), (self.params, self.macs)
        best = max(accuracies.values())
        tolerance = 1 - low / high
        return Truth(
            name, self.space, self.macs, sizes, high, tolerance, accuracies.__getitem__, training, best, listed
        )

    def _best_within(self, bound: float) -> float:
        """The best accuracy that local searches find: ten starts, changes of one or two stages until none helps."""
        limits = [Constraint(self.macs, bound)]
        candidates, draw = Candidates(self.space, limits), np.random.default_rng(0)
        uniform = [[-np.log(len(layer.blocks))] * len(layer.blocks) for layer in self.space.layers]
        windows = [Window(self.macs, 0.95 * bound, bound)]
        drawn = np.array(choices_between(uniform, windows, 20_000, torch.Generator().manual_seed(0)))
        values = self.surrogate(drawn)
        starts = drawn[np.argsort(-values)[:10]]
        best = float(values.max())
        for start in starts:
            current, highest = start, float(self.surrogate(start[None])[0])
            while True:
                near = candidates.near(tuple(current.tolist()), draw)
                accuracies = self.surrogate(near)
                if accuracies.max() <= highest:
                    break
                current, highest = near[int(accuracies.argmax())], float(accuracies.max())
            best = max(best, highest)
        return best


def _fit(inputs: Table, outputs: Table) -> Callable[[Table], Table]:
    """Boosted trees, as a function of more inputs."""
    import xgboost

    settings = {"max_depth": 4, "eta": 0.05, "subsample": 0.7, "nthread": 1, "seed": 0}
    booster = xgboost.train(settings, xgboost.DMatrix(inputs, outputs), num_boost_round=600)
    return lambda more: np.asarray(booster.inplace_predict(more), dtype=float)


def _block(expansion: float, kernel: float, depth: float, squeeze_excite: float) -> str:
    return BlockSpec(int(kernel), int(expansion), int(depth), bool(squeeze_excite)).name
