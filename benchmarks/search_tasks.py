"""The tasks that searches are judged on, and the archs that were trained on them.

A task is a file of ``benchmarks/tasks``: a space, a data set, latencies, a window of latencies and the settings of a
whole training. Beside ``NAME.yaml`` lies ``NAME.json`` with the trainings that were done, so that no benchmark repeats
them. They count only for exactly that space, data set and settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tvmfbnet.config import Config, validate
from tvmfbnet.files import read_json, read_yaml, write_json
from tvmfbnet.training.config import TrainConfig

FOLDER = Path(__file__).parent / "tasks"
# They decide where and how fast a training runs, and which of its records are kept; not what it learns.
_IRRELEVANT = {"seed", "threads", "device", "test_every", "checkpoint_steps"}


class Task(Config):
    """What a task's file says.

    Attributes:
        space, data, latency_table: as the options of these names say.
        share, width: the window of latencies: its upper end on the way from the fastest net to the slowest, and its
            width as a share of that end.
        train: settings of a whole training.
    """

    space: str
    data: str
    latency_table: str
    share: float = Field(gt=0, lt=1)
    width: float = Field(gt=0, lt=1)
    train: TrainConfig


def load_task(name: str) -> Task:
    """A task by its name."""
    return validate(Task, read_yaml(FOLDER / f"{name}.yaml"), f"task {name}")


class TaskOption(argparse.Action):
    """``--task NAME``: the task's values, for options that the command line does not give."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        task = load_task(str(values))
        namespace.task = values
        given = {name: getattr(task, name) for name in ("space", "data", "latency_table", "share")}
        given |= {"train": task.train.model_dump(exclude_unset=True), "width": task.width, "band": task.width}
        for name, value in given.items():
            if hasattr(namespace, name) and getattr(namespace, name) == parser.get_default(name):
                setattr(namespace, name, value)


def trainings_file(name: str) -> Path:
    """Where a task's trainings are kept."""
    return FOLDER / f"{name}.json"


def _described(space: str, data: str, config: TrainConfig) -> dict[str, Any]:
    return {"space": space, "data": data, "settings": config.model_dump(exclude=_IRRELEVANT)}


def _description(stored: dict[str, Any]) -> dict[str, Any]:
    """What a file says its trainings are of; settings that were added since have their defaults."""
    return _described(stored["space"], stored["data"], validate(TrainConfig, stored["settings"], "known trainings"))


def _stored(name: str, described: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """A task's trainings by arch and seed; none where its file is of other settings."""
    if not trainings_file(name).exists():
        return {}
    stored = read_json(trainings_file(name))
    if _description(stored) != described:
        return {}
    return {(row["arch"], row["seed"]): row for row in stored["trainings"]}


def known_training(name: str | None, space: str, data: str, config: TrainConfig, arch: str) -> float | None:
    """Top-1 accuracy of an arch that was trained so on a task, with the seed in ``config``; None if it was not."""
    if name is None:
        return None
    row = _stored(name, _described(space, data, config)).get((arch, config.seed))
    return None if row is None else float(row["test_accuracy"])


def keep_trainings(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Adds trainings to a task's file: rows of ``arch``, ``seed`` and ``test_accuracy``.

    The trainings of a file of other settings are dropped.
    """
    task = load_task(name)
    described = _described(task.space, task.data, task.train)
    trainings = _stored(name, described)
    for row in rows:
        trainings.setdefault((row["arch"], row["seed"]), dict(row))
    write_json(trainings_file(name), {**described, "trainings": [trainings[key] for key in sorted(trainings)]})
