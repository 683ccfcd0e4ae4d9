"""Adapts a space to the number of classes of the data; search, train and run share it."""

from __future__ import annotations

from tvmfbnet.data.places import classes_of
from tvmfbnet.progress import say
from tvmfbnet.space.space import Space


def fit_classes(space: Space, data: str) -> Space:
    """The space with as many classes as a data set has. Says what it changed.

    For a subset (``?classes=``) it stays as it is: the subset stands in for all of them in a search. A net that is
    trained on the subset has its classes all the same (:func:`tvmfbnet.training.train.train`).

    Raises:
        DataError: unknown data set, or a missing folder.
    """
    classes = classes_of(data)
    if classes is None or classes == space.classes:
        return space
    say(
        f"note: {data} has {classes} classes and space {space.name} {space.classes}; nets get {classes} "
        f"(in other commands append `,classes={classes}` to the space)"
    )
    return space.with_classes(classes)
