"""What nets are trained for. To add a task: a file here with its name, and that name in the list below.

Every module offers ``TASK``, a :class:`tvmfbnet.tasks.task.Task`. A data set says which task its labels are for
(:attr:`tvmfbnet.data.images.ImageData.task`); search, training, fine-tuning and the parity gate ask that task, and know
no loss or metric of their own. Names are known without loading any of them, as they load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from tvmfbnet.tasks.task import Task

TaskName = Literal["classification", "multi_label", "regression", "segmentation", "detection"]

TASK_NAMES: tuple[str, ...] = get_args(TaskName)
CLASSIFICATION = "classification"
# Kinds of heads (:data:`tvmfbnet.space.heads.HEADS`) of tasks that a classifier is no head for.
_HEADS = {"segmentation": "lraspp", "detection": "ssdlite"}


def head_of(name: str) -> str:
    """The kind of head that a task's nets have."""
    return _HEADS.get(name, "classifier")


def task_named(name: str) -> Task:
    """A registered task."""
    if name not in TASK_NAMES:
        raise ValueError(f"no task is called {name!r}")
    task: Task = import_module(f"tvmfbnet.tasks.{name}").TASK
    return task
