"""How long a search will take: its steps of each kind, counted, times what such a step takes here, measured.

Steps cost very different times: in the warm-up one block per layer runs, in a mixture all of them. So each kind of step
is tried a few times before a search starts, on a supernet of its own, and on few images where a whole batch would take
long. A search that is over in moments anyway is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.images import ImageData
from tvmfbnet.durations import spell_seconds, warning_of_days
from tvmfbnet.errors import ConstraintError
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.progress import say
from tvmfbnet.progress import step as step_shown
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.cost_model import AdditiveCosts, CostSources
from tvmfbnet.search.derive import search_constraints
from tvmfbnet.search.front.nets import front_bounds
from tvmfbnet.search.plan import BACKWARD, SearchPlan, StepKind
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.result import advice_for
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.search.strategies import strategy_named
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import seeded
from tvmfbnet.training.device import pick_device
from tvmfbnet.training.memory import memory_advice
from tvmfbnet.training.workers import Workers

# On a CPU the first steps have _FEW images. While steps are quick (one of each kind together), the number of images is
# multiplied by _MORE: small batches alone would show overhead, large ones take minutes.
_FEW, _MORE, _QUICK_SECONDS = 8, 4, 0.7
# Less work than this, in multiply-accumulates, is done in moments.
_LITTLE_WORK = 2e10


@dataclass(frozen=True)
class StepSeconds:
    """Seconds per step on a whole batch: through one block per layer, of w after the warm-up, of theta."""

    single: float
    weight: float
    theta: float


@dataclass(frozen=True)
class Forecast:
    """A plan and what its steps take."""

    plan: SearchPlan
    step: StepSeconds
    shorter: tuple[str, ...]

    @property
    def _parts(self) -> list[tuple[str, int, float]]:
        plan, step = self.plan, self.step
        short = "of finalists" if "theta" in plan.step_kinds else "of short trainings"
        parts = [
            ("of warm-up", plan.warmup_steps, step.single),
            ("of weights", plan.weight_steps, step.weight),
            ("of theta", plan.theta_steps, step.theta),
            (short, plan.finalist_steps, step.single),
        ]
        return [part for part in parts if part[1]]

    @property
    def _judging(self) -> float:
        return self.plan.judged_images / self.plan.batch * self.step.single / BACKWARD

    @property
    def seconds(self) -> float:
        """Of the whole search."""
        return sum(count * seconds for _, count, seconds in self._parts) + self._judging

    def describe(self) -> str:
        """``about 3 h 20 min (15,000 steps of theta x 0.8 s + judging archs 1 min)``."""
        parts = [f"{count:,} steps {what} x {spell_seconds(seconds)}" for what, count, seconds in self._parts]
        parts.append(f"judging archs {spell_seconds(self._judging)}")
        return f"about {spell_seconds(self.seconds)} ({' + '.join(parts)})"

    @property
    def warning(self) -> str:
        """Says that it takes days, and what shortens it; empty where it does not."""
        return warning_of_days(self.seconds, self.shorter)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"estimated_seconds": self.seconds, "step_seconds": vars(self.step), "steps": vars(self.plan)}


def forecast_search(space: Space, data_spec: str, table: LatencyTable, config: SearchConfig) -> Forecast:
    """What a whole search would take; tries steps of each kind, and says where constraints would be refused.

    Args:
        space: what would be searched.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`.
        table: latency of every block of ``space``.
        config: the settings.

    Raises:
        UserError: as a search does.
    """
    with planned(space, data_spec, table, config) as (data, latency, alone, plan):
        return forecast(space, data, latency, config, alone, plan)


@contextmanager
def planned(
    space: Space, data_spec: str, table: LatencyTable, config: SearchConfig
) -> Iterator[tuple[ImageData, AdditiveCosts, Workers, SearchPlan]]:
    """What trying steps of a search takes; says where constraints would be refused.

    Args:
        space, data_spec, table, config: as of :func:`forecast_search`.
    """
    latency = latency_costs(table, space)
    try:
        constraints = search_constraints(config, latency, CostSources(space, table))
        if config.front is not None:
            front_bounds(latency, constraints, config.front)
    except ConstraintError as error:
        say(f"warning: the search would be refused: {error}")
    with memory_advice("the search", advice_for(config)):
        data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes, check=False)
        alone = Workers.alone(pick_device(config.device))
        if config.budget_minutes is not None:
            images = 60 * config.budget_minutes * images_per_second(space, data, latency, config, alone)
            config = config.model_copy(update={"budget_minutes": None, "budget_images": max(1, int(images))})
        plan = strategy_named(config.strategy).plan(config, len(data.train))
        yield data, latency, alone, plan


def forecast(
    space: Space, data: ImageData, costs: AdditiveCosts, config: SearchConfig, workers: Workers, plan: SearchPlan
) -> Forecast:
    """What the work of ``plan`` would take here; all processes call it together."""
    # Several processes must decide alike, and each has a clock of its own.
    batch = _FEW if workers.size == 1 and workers.device.type == "cpu" else config.batch_size
    with step_shown("trying steps, for a forecast", patience=2.0), seeded(config.seed, config.threads):
        while True:
            step, took = _try_steps(space, data, costs, config, workers, min(batch, config.batch_size), plan.step_kinds)
            if batch >= config.batch_size or took > _QUICK_SECONDS:
                break
            batch *= _MORE
    return Forecast(plan, step, shorter(config, space, workers.device.type, len(data.train)))


def images_per_second(
    space: Space, data: ImageData, costs: AdditiveCosts, config: SearchConfig, workers: Workers
) -> float:
    """How many images per second archs train on here, one arch per process; all processes call it together.

    Args:
        space, data, costs, config, workers: as of :func:`forecast`.
    """
    plan = SearchPlan(1, 0, 0, 0, 0, SearchPlan.of(config, len(data.train)).batch)
    step = forecast(space, data, costs, config, workers, plan).step
    return plan.batch / workers.average({"seconds": step.single})["seconds"]


def _try_steps(
    space: Space,
    data: ImageData,
    costs: AdditiveCosts,
    config: SearchConfig,
    workers: Workers,
    batch: int,
    kinds: Sequence[StepKind],
) -> tuple[StepSeconds, float]:
    """Tries steps on ``batch`` images: their seconds scaled to a whole batch (0 if not tried), and unscaled, summed."""
    theta_batch = config.theta_batch_size or config.batch_size
    changes = {"epochs": 2, "warmup_epochs": 1, "weight_lr": 1e-4}
    changes |= {"batch_size": batch, "theta_batch_size": batch if batch < config.batch_size else theta_batch}
    searcher = Searcher(space, data, costs, config.model_copy(update=changes), workers)
    tried: dict[StepKind, float] = {"single": 0.0, "weight": 0.0, "theta": 0.0}
    for kind in kinds:
        took = searcher.try_step(kind)  # the first one also allocates
        tried[kind] = took if took > 1 and workers.size == 1 else min(took, searcher.try_step(kind))
    for_weights, for_theta = len(searcher.weight_indices), len(searcher.theta_indices)
    scale = min(config.batch_size, for_weights) / min(batch, for_weights)
    theta_scale = min(theta_batch, for_theta) / min(searcher.config.theta_batch_size or batch, for_theta)
    step = StepSeconds(tried["single"] * scale, tried["weight"] * scale, tried["theta"] * theta_scale)
    return step, sum(tried.values())


def shorter(config: SearchConfig, space: Space, device: str, images: int) -> tuple[str, ...]:
    """The settings that make a search with these settings shorter."""
    ways = ["a GPU (--device cuda)"] if device == "cpu" else []
    if "mixture" in (config.weight_steps, config.theta_steps):
        ways.append("weight_steps: sampled and theta_steps: sampled")
    ways.append(f"fewer epochs (it is {config.epochs})")
    ways.append(f"fewer train_images (it is {min(images, config.train_images or images):,})")
    if space.classes > 100:
        ways.append("some of the classes (`?classes=100` behind the data set)")
    if min(space.height, space.width) > 96:
        ways.append("smaller images (append `@96` to the space)")
    return tuple(ways)


def say_forecast(
    space: Space, data: ImageData, costs: AdditiveCosts, config: SearchConfig, workers: Workers, plan: SearchPlan
) -> None:
    """Says how long the work of ``plan`` will take; skips the measurement for what ends in moments."""
    if is_little(space, config, plan):
        say("search: less than a minute's work")
        return
    expected = forecast(space, data, costs, config, workers, plan)
    say(f"search: {expected.describe()}")
    if expected.warning:
        say(expected.warning)


def is_little(space: Space, config: SearchConfig, plan: SearchPlan) -> bool:
    """Whether the work of ``plan`` is done in moments on any machine, by its multiply-accumulates."""
    fixed = sum(count_part(part).macs for part in space.fixed_parts())
    layers = [[count_part(layer.cell(block)).macs for block in layer.blocks] for layer in space.layers]
    one, all_of_them = fixed + sum(max(row) for row in layers), fixed + sum(sum(row) for row in layers)
    single = plan.warmup_steps + plan.finalist_steps
    work = BACKWARD * plan.batch * (single * one + (plan.weight_steps + plan.theta_steps) * all_of_them)
    return work + plan.judged_images * one < _LITTLE_WORK
