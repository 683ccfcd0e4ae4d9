"""Structured tickets: channels inside blocks are removed, which leaves a smaller dense net that takes less time.

Widths are multiples of what a device's kernels like (8 or 16 channels). The latency table decides where to remove: the
step that saves most latency per loss of magnitude comes first. Only channels inside a block go, so that every other
block's shape stays as it is; blocks with grouped convs stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.nets.blocks import InvertedResidual
from tvmfbnet.nets.bn_folding import fold_bn
from tvmfbnet.nets.network import ArchNet, build_net
from tvmfbnet.pruning.ticket import Size, Ticket
from tvmfbnet.pruning.widths import Narrowing, Width, choose_widths, narrowed_arch, widths_of
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import Tensors, seeded

# Of a block's tensors: the dimension of its inner channels, by the end of the name.
_INNER_FIRST = ("conv_pw.weight", "conv_dw.weight", "se.expand.weight", "se.expand.bias")
_INNER_SECOND = ("conv_pwl.weight", "se.reduce.weight")
_TENSORS = ("weight", "bias", "running_mean", "running_var")
_NORMS = tuple(f"{norm}.{name}" for norm in ("bn1", "bn2") for name in _TENSORS)


def magnitudes(block: InvertedResidual) -> torch.Tensor:
    """The norm of the weights of each inner channel, batch norms folded in, as a share of the block's sum.

    Args:
        block: of a net with folded batch norms (:func:`tvmfbnet.nets.bn_folding.fold_bn`).

    Returns:
        Of each channel, (inner channels,).
    """
    kinds = (block.conv_pw.weight.flatten(1), block.conv_dw.weight.flatten(1), block.conv_pwl.weight[:, :, 0, 0].T)
    norms = torch.cat(kinds, dim=1).detach().double().norm(dim=1)
    shares: torch.Tensor = norms / norms.sum()
    return shares


def _weights(arch: Arch, space: Space) -> int:
    return sum(conv.weights for part in space.parts_of(arch) for conv in convs_of(part))


@dataclass(frozen=True)
class ChannelTicket:
    """A net of which inner channels of blocks are removed.

    Attributes:
        arch: the dense net.
        space: its macro-architecture.
        table: latency of every width of every block (:func:`.widths.widths_space`).
        multiple: widths are multiples of this.
        kept: of each narrowed layer: the dense net's channels that remain, in order.
        dropout: before the classifier, in training.
    """

    arch: Arch
    space: Space
    table: LatencyTable
    multiple: int
    kept: Mapping[int, torch.Tensor] = field(default_factory=dict)
    dropout: float = 0.0

    @property
    def narrowed(self) -> tuple[Arch, Space]:
        """The arch of what remains, and the space that it alone is in."""
        return narrowed_arch(self.arch, self.space, {index: len(kept) for index, kept in self.kept.items()})

    @property
    def size(self) -> Size:
        """See :attr:`.ticket.Ticket.size`."""
        weights, dense = _weights(*self.narrowed), _weights(self.arch, self.space)
        return Size(weights, weights / dense, latency_ms=self._latency_ms)

    def build(self, weights: Tensors) -> ArchNet:
        """See :meth:`.ticket.Ticket.build`."""
        arch, space = self.narrowed
        net = build_net(arch, space, self.dropout)
        net.load_state_dict({name: self._part(name, tensor) for name, tensor in weights.items()})
        return net

    def _part(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What remains of a tensor of the dense net's state."""
        place, _, inside = name.removeprefix("layers.").partition(".")
        kept = self.kept.get(int(place)) if name.startswith("layers.") else None
        if kept is None:
            return tensor
        if inside in _INNER_FIRST or inside in _NORMS:
            return tensor[kept]
        return tensor[:, kept] if inside in _INNER_SECOND else tensor

    def control(self, seed: int) -> ArchNet:
        """See :meth:`.ticket.Ticket.control`; initialised as a net of its widths is."""
        arch, space = self.narrowed
        with seeded(seed):
            return build_net(arch, space, self.dropout)

    def plain(self, net: ArchNet) -> ArchNet:
        """The net itself."""
        return net

    def pruned(self, trained: ArchNet, level: float) -> Ticket:
        """See :meth:`.ticket.Ticket.pruned`; ``level`` is a latency in milliseconds.

        Raises:
            ConstraintError: even the narrowest net takes longer.
        """
        options: dict[int, list[Narrowing]] = {}
        ranked: dict[int, torch.Tensor] = {}
        folded = fold_bn(trained)
        for index in range(len(self.space.layers)):
            block = folded.get_submodule(f"layers.{index}")
            widths = widths_of(self.arch, self.space, index, self.multiple)
            if isinstance(block, InvertedResidual) and widths:
                shares = magnitudes(block)
                ranked[index] = shares.argsort(descending=True, stable=True)
                options[index] = self._options(index, widths, shares[ranked[index]].cumsum(0).tolist())
        kept = dict(self.kept)
        for index, channels in choose_widths(options, self._latency_ms, level).items():
            before = self.kept.get(index, torch.arange(len(ranked[index])))
            kept[index] = before[ranked[index][:channels].sort().values]
        return replace(self, kept=kept)

    def _options(self, index: int, widths: Sequence[Width], sums: Sequence[float]) -> list[Narrowing]:
        """The present width of a layer and those below; ``sums`` of its channels' magnitudes, largest first."""
        layer = self.space.layers[index]
        costs = {width.channels: self.table.lookup(layer.cell(width.block)).latency_ms for width in widths}
        return [Narrowing(count, ms, 1 - sums[count - 1]) for count, ms in costs.items() if count <= len(sums)]

    @property
    def _latency_ms(self) -> float:
        return self.table.arch_ms(*self.narrowed)
