"""Spaces whose kernels are known before anything is compiled: what quantities in exact bytes need."""

from __future__ import annotations

from tvmfbnet.errors import ConstraintError
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.own_blocks import OwnBlock
from tvmfbnet.space.space import Space


def require_known_kernels(space: Space, quantity: str) -> None:
    """Raises ConstraintError where the space has blocks of a user's own.

    Args:
        space: to be searched.
        quantity: that is bounded, for the message.
    """
    blocks = {block for layer in space.layers for block in layer.blocks}
    own = ", ".join(sorted(block for block in blocks if isinstance(parse_block(block), OwnBlock)))
    if own:
        raise ConstraintError(
            f"a bound on {quantity} is not for blocks of your own, whose kernels only the compiler knows: {own}"
        )
