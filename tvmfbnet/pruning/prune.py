"""Finds lottery tickets in a net: subnets that train from their own initial weights to the dense net's accuracy.

Frankle and Carbin 2019, "The Lottery Ticket Hypothesis" (arXiv 1803.03635); the rewinding to early weights is that of
Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (arXiv 1912.05671).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvmfbnet.errors import ConstraintError
from tvmfbnet.files import digest
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.pruning.channels import ChannelTicket
from tvmfbnet.pruning.config import PruneConfig, geometric_levels
from tvmfbnet.pruning.masks import MaskedTicket
from tvmfbnet.pruning.rounds import PruneResult, run_rounds
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import with_subset


def prune_weights(
    arch: Arch, space: Space, data_spec: str, config: PruneConfig, training: TrainConfig, out: Path
) -> PruneResult:
    """Iterative magnitude pruning of single weights, or resumes that in ``out``.

    Args:
        arch, space: the dense net.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`.
        config: what to remove.
        training: of every round.
        out: folder of the files (:mod:`.rounds`).

    Raises:
        DataError, StorageError, DivergedError, OutOfMemoryError: as :func:`.rounds.run_rounds`.
    """
    space = with_subset(space, data_spec)
    dense = MaskedTicket.whole(arch, space, config.scope, training.dropout)
    settings = _settings(config, "weights", "remaining", "scope")
    return run_rounds(dense, arch, space, data_spec, training, config.shares[1:], settings, out)


def prune_channels(
    arch: Arch,
    space: Space,
    table: LatencyTable,
    data_spec: str,
    config: PruneConfig,
    training: TrainConfig,
    out: Path,
) -> PruneResult:
    """As :func:`prune_weights`, of channels inside blocks until a latency is met; each round by the same factor.

    Args:
        arch, space, data_spec, training, out: as there.
        table: latency of every net of :func:`.widths.widths_space`.
        config: what to remove; has a latency target.

    Raises:
        ConstraintError: the net is fast enough already, or even the narrowest one is not.
        LatencyError: the table lacks parts.
        DataError, StorageError, DivergedError, OutOfMemoryError: as :func:`.rounds.run_rounds`.
    """
    space = with_subset(space, data_spec)
    dense = ChannelTicket(arch, space, table, config.multiple, dropout=training.dropout)
    latency_ms = table.arch_ms(*dense.narrowed)
    target_ms = config.latency_target_ms or (config.latency_target_share or 1.0) * latency_ms
    if latency_ms <= target_ms:
        raise ConstraintError(f"the net takes {latency_ms:.4g} ms, no more than the latency target: nothing to prune")
    levels = geometric_levels(latency_ms, (target_ms,), config.rounds)
    # The rounds' sizes follow from the latencies, so these belong to what a resumed pruning must have in common.
    settings = _settings(config, "channels", "latency_target_ms", "latency_target_share", "multiple")
    settings["latencies"] = digest(table.to_records(sorted(table.cells)))
    return run_rounds(dense, arch, space, data_spec, training, levels[1:], settings, out)


def _settings(config: PruneConfig, what: str, *names: str) -> dict[str, Any]:
    """What the result depends on."""
    values = config.model_dump(mode="json")
    return {"prune": what, **{name: values[name] for name in ("rounds", "rewind_epochs", "control", *names)}}
