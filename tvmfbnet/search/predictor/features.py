"""Archs as the accuracy predictor sees them: blocks by layer, their fields, sums over the net, and sizes.

All features have mean 0 and deviation 1 over archs whose blocks are drawn with equal probability, whatever archs they
are asked for; one that never differs is left out. Archs are rows of candidates' indices, (archs, layers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.quantities.macs import macs_costs
from tvmfbnet.search.quantities.params import params_costs
from tvmfbnet.space.blocks import block_features
from tvmfbnet.space.space import Layer, Space

Choices = NDArray[np.int64]
Table = NDArray[np.float64]

# Archs that give the mean and deviation of what is no sum over layers.
_SAMPLE = 2000
# Relative spread of a feature that is mere rounding.
_SAME = 1e-9


@dataclass(frozen=True)
class Described:
    """Features of n archs.

    Attributes:
        blocks: (n, candidates of all layers): 1 where an arch has that block there.
        fields: (n, fields of all layers): skip, log of expansion and groups, kernel, squeeze-and-excitation.
        totals: (n, fields): their sums over the layers; that of skip is the depth.
        sizes: (n, sizes): parameters and MACs.
        log_sizes: (n, sizes): their logarithms.
    """

    blocks: Table
    fields: Table
    totals: Table
    sizes: Table
    log_sizes: Table

    def __len__(self) -> int:
        return len(self.blocks)

    def joined(self, more: Described) -> Described:
        """These archs and more of them."""
        return Described(*(np.concatenate(pair) for pair in zip(self.arrays, more.arrays, strict=True)))

    def take(self, indices: NDArray[np.int64]) -> Described:
        """Some of the archs."""
        return Described(*(array[indices] for array in self.arrays))

    @property
    def arrays(self) -> tuple[Table, ...]:
        """All features."""
        return (self.blocks, self.fields, self.totals, self.sizes, self.log_sizes)


class ArchFeatures:
    """Describes the archs of one space.

    Args:
        space: the space.
        sizes: what an arch's size is; parameters and MACs if None.
    """

    def __init__(self, space: Space, sizes: Sequence[AdditiveCosts] | None = None) -> None:
        models = (params_costs(space), macs_costs(space)) if sizes is None else tuple(sizes)
        self.widths = [len(layer.blocks) for layer in space.layers]
        self.starts = np.cumsum([0, *self.widths[:-1]])
        raw = np.array([block_features(block) for layer in space.layers for block in layer.blocks])
        self._fields = self._by_layer(raw)
        self._totals = self._summed(raw)
        self._sizes = self._summed(np.array([[c for row in model.cells for c in row] for model in models]).T)
        self._models = [(np.array([c for row in model.cells for c in row]), model.fixed) for model in models]
        draw = np.random.default_rng(0)
        sample = np.stack([draw.integers(width, size=_SAMPLE) for width in self.widths], axis=1)
        logs = self._logs(self.places(sample))
        self._log_mean, self._log_spread = logs.mean(axis=0), _spread(logs)

    def places(self, choices: Choices) -> Choices:
        """Where the chosen blocks stand among the candidates of all layers, (archs, layers)."""
        return np.asarray(choices + self.starts)

    def of(self, choices: Choices) -> Described:
        """The features of archs."""
        places = self.places(choices)
        blocks = np.zeros((len(choices), sum(self.widths)))
        np.put_along_axis(blocks, places, 1.0, axis=1)
        logs = (self._logs(places) - self._log_mean) / self._log_spread
        return Described(
            blocks,
            self._fields[places].reshape(len(choices), -1)[:, self._differing],
            blocks @ self._totals,
            blocks @ self._sizes,
            logs,
        )

    def cells(self, blocks: Table, fields: Table, totals: Table, sizes: Table) -> list[list[float]]:
        """What each candidate adds to a sum that is linear in the features, apart from a constant.

        Args:
            blocks, fields, totals, sizes: the weight of each feature.
        """
        whole = np.zeros(len(self._differing))
        whole[self._differing] = fields
        by_layer = whole.reshape(len(self.widths), -1)
        layer_of = np.repeat(np.arange(len(self.widths)), self.widths)
        added = blocks + (self._fields * by_layer[layer_of]).sum(axis=1) + self._totals @ totals + self._sizes @ sizes
        return [row.tolist() for row in np.split(added, self.starts[1:])]

    def _by_layer(self, raw: Table) -> Table:
        """(candidates, fields) within each layer with mean 0 and deviation 1; notes which of them differ."""
        scaled, differing = [], []
        for rows in np.split(raw, self.starts[1:]):
            spread = rows.std(axis=0)
            differs = spread > _SAME * np.abs(rows).max(axis=0)
            scaled.append(np.where(differs, (rows - rows.mean(axis=0)) / np.where(differs, spread, 1.0), 0.0))
            differing.append(differs)
        self._differing = np.concatenate(differing)
        return np.concatenate(scaled)

    def _summed(self, raw: Table) -> Table:
        """(candidates, features) so scaled that their sums over layers have mean 0 and deviation 1."""
        rows = np.split(raw, self.starts[1:])
        variance = sum(part.var(axis=0) for part in rows)
        centred = np.concatenate([part - part.mean(axis=0) for part in rows])
        largest = np.abs(raw).max(axis=0) if len(raw) else np.zeros(raw.shape[1])
        differs = np.sqrt(variance) > _SAME * largest
        return np.asarray((centred / np.where(differs, np.sqrt(variance), 1.0))[:, differs])

    def _logs(self, places: Choices) -> Table:
        return np.stack([np.log(cells[places].sum(axis=1) + fixed) for cells, fixed in self._models], axis=1)


class Canonical:
    """One arch for all that compute the same: skips that are identities stand behind the other blocks of their run.

    A run are neighbouring layers of one shape, with the same candidates at the same costs.

    Args:
        space: the space.
        costs: what archs are bounded by.
    """

    def __init__(self, space: Space, costs: Sequence[AdditiveCosts]) -> None:
        self.runs: list[tuple[int, int, int]] = []
        layers, start = space.layers, 0
        for end in range(1, len(layers) + 1):
            if end < len(layers) and _alike(layers[end - 1], layers[end], costs):
                continue
            identity = [layers[start].cell(block).is_identity for block in layers[start].blocks]
            if end - start > 1 and any(identity):
                self.runs.append((start, end, identity.index(True)))
            start = end

    def of(self, choices: Choices) -> Choices:
        """The canonical form of each arch."""
        moved = choices.copy()
        for start, end, skip in self.runs:
            run = moved[:, start:end]
            order = np.argsort(run == skip, axis=1, kind="stable")
            moved[:, start:end] = np.take_along_axis(run, order, axis=1)
        return moved


def _alike(one: Layer, other: Layer, costs: Sequence[AdditiveCosts]) -> bool:
    shapes = [(x.cin, x.cout, x.height, x.width, x.stride, x.blocks) for x in (one, other)]
    return shapes[0] == shapes[1] and all(model.cells[one.index] == model.cells[other.index] for model in costs)


def as_choices(choices: Iterable[Choice]) -> Choices:
    """Archs as rows."""
    return np.array(list(choices), dtype=np.int64)


def _spread(table: Table) -> Table:
    spread = table.std(axis=0)
    return np.asarray(np.where(spread > _SAME * np.abs(table).max(axis=0), spread, 1.0))
