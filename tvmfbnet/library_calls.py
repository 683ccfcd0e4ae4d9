"""What every public function does around its work: observe, explain missing extras, leave the process as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from tvmfbnet import advice, extras
from tvmfbnet.progress import Event, observing

OnProgress = Callable[[Event], None]


@contextmanager
def library_call(on_progress: OnProgress | None, **names: object) -> Iterator[None]:
    """The block does the work of a public function.

    Args:
        on_progress: called with the events of the block; None keeps the observer that is in force.
        names: what the caller named, for advice in messages; see :func:`tvmfbnet.advice.note`.
    """
    with (
        advice.noted(**names),
        extras.explained(),
        nullcontext() if on_progress is None else observing(on_progress),
    ):
        yield
