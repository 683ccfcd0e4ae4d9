"""Batches: how many images a call computes, as targets spell it and as the names of their measurements have it.

Latencies of two batches say nothing of each other. So a target with a batch of 8 keeps its measurements and schedules
under a name of its own, ``host-batch8``, whether its file says ``batch: 8`` or a user writes ``host,batch=8``.
"""

from __future__ import annotations

import re

from tvmfbnet.errors import UserError

LARGEST_BATCH = 256
_SPELLED = re.compile(r"(.*),batch=([^,]*)(.*)", re.DOTALL)
_NAMED = re.compile(r"(.+)-batch([1-9][0-9]{0,2})")


def split_batch(target: str) -> tuple[str, int | None]:
    """A target as users spell it, ``host,batch=8``: the name or file, and the batch; None where it names none.

    Raises:
        UserError: it is no number of images, or there are two.
    """
    match = _SPELLED.fullmatch(target)
    if match is None:
        return target, None
    if _SPELLED.fullmatch(match[1]):
        raise UserError(f"{target[:80]!r} names two batches: write one, as in host,batch=8")
    number = int(match[2]) if re.fullmatch(r"[0-9]{1,4}", match[2]) else 0
    if not 1 <= number <= LARGEST_BATCH:
        raise UserError(f"{target[:80]!r}: a batch is a number of images from 1 to {LARGEST_BATCH}, as in host,batch=8")
    return match[1] + match[3], number


def named_batch(name: str) -> tuple[str, int]:
    """The name of a target without its batch, and that batch: ``host-batch8`` is ``host`` with 8, ``host`` with 1."""
    match = _NAMED.fullmatch(name)
    return (name, 1) if match is None else (match[1], int(match[2]))


def name_with_batch(name: str, batch: int) -> str:
    """The name of a target's measurements; that of single images is the target's own."""
    return name if batch == 1 or named_batch(name)[1] == batch else f"{name}-batch{batch}"
