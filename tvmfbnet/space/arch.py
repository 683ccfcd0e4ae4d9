"""Archs, and the nets published with the FBNet paper.

How an arch is written, and read for a space, is :mod:`tvmfbnet.space.arch_text`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """One block per layer, in the order of the layers."""

    blocks: tuple[str, ...]


@dataclass(frozen=True)
class NamedArch:
    """A published net of the ``fbnet`` space.

    Attributes:
        blocks: its blocks, one a layer.
        last_channels: width of the head's 1x1 conv it was published with.
    """

    blocks: tuple[str, ...]
    last_channels: int


def _named(text: str, last_channels: int) -> NamedArch:
    return NamedArch(tuple(text.replace("/", ",").split(",")), last_channels)


# Table A.1 of the FBNet paper. FBNet-B is left out: no source gives its blocks beyond doubt.
NAMED_ARCHS: dict[str, NamedArch] = {
    "fbnet_a": _named(
        "skip/k3_e3,k3_e1,skip,skip/k5_e6,k3_e3,k5_e1,k3_e3/k5_e6,k5_e3,k5_e1_g2,k5_e6"
        "/k3_e6,k5_e1_g2,k5_e3,k3_e1_g2/k5_e6,k5_e6,k5_e3,k5_e6/k5_e6",
        1504,
    ),
    "fbnet_c": _named(
        "k3_e1/k3_e6,skip,k3_e1,k3_e1/k5_e6,k5_e3,k5_e6,k3_e6/k5_e6,k5_e3,k5_e6,k5_e6"
        "/k5_e6,k5_e6,k5_e6,k5_e3/k5_e6,k5_e6,k5_e6,k5_e6/k3_e6",
        1984,
    ),
}
