"""Adapts a space to the classes and the task of the data; search, train and run share it."""

from __future__ import annotations

from tvmfbnet.data.places import classes_of, task_of
from tvmfbnet.progress import say
from tvmfbnet.space.heads import head_parts
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import head_of


def fit_classes(space: Space, data: str) -> Space:
    """The space with as many classes as a data set has, and the head of its task. Says what it changed.

    For a subset (``?classes=``) it keeps its classes: the subset stands in for all of them in a search. A net that is
    trained on the subset has its classes all the same (:func:`tvmfbnet.training.train.train`).

    Raises:
        DataError: unknown data set, or a missing folder.
        UserError: the head of the task does not fit the space's images.
    """
    space, classes = _with_head(space, data), classes_of(data)
    if classes is None or classes == space.classes:
        return space
    values = task_of(data) == "regression"
    said = f"{classes} values per image" if values else f"{classes} classes"
    say(
        f"note: {data} has {said} and space {space.name} {space.classes}{' classes' if values else ''}; nets get "
        f"{classes} (in other commands append `,classes={classes}` to the space)"
    )
    return space.with_classes(classes)


def _with_head(space: Space, data: str) -> Space:
    """The space with the head of the data set's task."""
    task = task_of(data)
    kind = head_of(task)
    if kind != space.head_kind:
        say(f"note: {data} is for {task}; nets get the head {kind} (in other commands append `,head={kind}`)")
        space = space.with_head(kind)
    head_parts(space)  # refuses images that the head does not fit
    return space
