"""One set of weights for all blocks of a layer: each block is a part of the largest one.

A supernet whose blocks have weights of their own divides its training among them: of nine blocks, each learns in every
ninth step. Blocks of one structure can share: a smaller expansion takes the first channels (Yu et al. 2020, BigNAS,
section 3), a smaller kernel the middle of the larger (Cai et al. 2020, once-for-all, section 3.3), a grouped conv the
diagonal blocks of the dense one. So every step trains all of them. Running statistics stay each block's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.func import functional_call

from tvmfbnet.nets.blocks import FBNetBlock, initialise
from tvmfbnet.space.blocks import BlockSpec


class SharedWeights(nn.Module):
    """The weights that blocks of one structure share, as those of a block that is as large as the largest of them.

    Args:
        blocks: of one layer, with one activation, all or none of them with squeeze-and-excitation.
        cin, cout, stride: the layer's.
    """

    def __init__(self, blocks: Sequence[FBNetBlock], cin: int, cout: int, stride: int) -> None:
        super().__init__()
        specs = [block.spec for block in blocks]
        largest = BlockSpec(
            max(spec.kernel for spec in specs),
            max(spec.expansion for spec in specs),
            squeeze_excite=specs[0].squeeze_excite,
            activation=specs[0].activation,
        )
        self.largest = FBNetBlock(largest, cin, cout, stride)
        initialise(self.largest)
        if self.largest.has_residual:
            nn.init.zeros_(self.largest.bn3.weight)  # as of the supernet's blocks

    def of(self, block: FBNetBlock) -> dict[str, torch.Tensor]:
        """The parameters of a block by name: views of the shared ones where possible, differentiable in them."""
        spec, largest = block.spec, self.largest
        middle, cout = block.conv_dw.weight.shape[0], block.conv_pwl.weight.shape[0]
        border = (largest.spec.kernel - spec.kernel) // 2
        inside = slice(border, border + spec.kernel)
        # Place by place before the shuffle: which of the channels behind it that is.
        shuffled = torch.arange(middle).view(-1, spec.groups).t().reshape(-1)
        parameters = {
            "conv_pw.weight": _diagonal(largest.conv_pw.weight[shuffled], spec.groups),
            "conv_dw.weight": largest.conv_dw.weight[:middle, :, inside, inside],
            "conv_pwl.weight": _diagonal(largest.conv_pwl.weight[:, :middle], spec.groups),
        }
        for name, channels in (("bn1", shuffled), ("bn2", slice(middle)), ("bn3", slice(cout))):
            norm = largest.get_submodule(name)
            parameters |= {f"{name}.{kind}": getattr(norm, kind)[channels] for kind in ("weight", "bias")}
        if spec.squeeze_excite:
            squeezed = block.se.get_parameter("reduce.bias").shape[0]
            get = largest.se.get_parameter
            parameters |= {
                "se.reduce.weight": get("reduce.weight")[:squeezed, :middle],
                "se.reduce.bias": get("reduce.bias")[:squeezed],
                "se.expand.weight": get("expand.weight")[:middle, :squeezed],
                "se.expand.bias": get("expand.bias")[:middle],
            }
        return parameters

    def run(self, block: FBNetBlock, x: torch.Tensor) -> torch.Tensor:
        """``block(x)`` with the shared parameters."""
        return functional_call(block, self.of(block), (x,))  # type: ignore[no-any-return]

    def branch(self, block: FBNetBlock, x: torch.Tensor) -> torch.Tensor:
        """``block.branch(x)`` with the shared parameters."""
        named = {f"block.{name}": tensor for name, tensor in self.of(block).items()}
        return functional_call(_Branch(block), named, (x,))  # type: ignore[no-any-return]


class _Branch(nn.Module):
    """A block without the addition of its input."""

    def __init__(self, block: FBNetBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All but the addition of (N, cin, H, W)."""
        return self.block.branch(x)


def _diagonal(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The grouped conv on the diagonal of a dense 1x1 one: (cout, cin, 1, 1) to (cout, cin / groups, 1, 1)."""
    if groups == 1:
        return weight
    inputs = weight.shape[1] // groups
    rows = weight.chunk(groups)
    return torch.cat([part[:, inputs * index : inputs * (index + 1)] for index, part in enumerate(rows)])


def shared_by_structure(
    blocks: Iterable[nn.Module], cin: int, cout: int, stride: int
) -> tuple[nn.ModuleList, Mapping[int, int]]:
    """The shared weights of a layer, and for each block that shares, which of them are its own.

    Blocks share that have one activation and agree in whether they have squeeze-and-excitation.
    """
    kinds: dict[tuple[str, bool], list[tuple[int, FBNetBlock]]] = {}
    for index, block in enumerate(blocks):
        if isinstance(block, FBNetBlock):
            kinds.setdefault((block.spec.activation, block.spec.squeeze_excite), []).append((index, block))
    shared = nn.ModuleList(SharedWeights([block for _, block in kind], cin, cout, stride) for kind in kinds.values())
    return shared, {index: place for place, kind in enumerate(kinds.values()) for index, _ in kind}
