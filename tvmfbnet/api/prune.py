"""``tvmfbnet.prune``: a net that is made small by pruning; also one that a run found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmfbnet.api.arguments import as_arch, as_settings, as_space, names_of
from tvmfbnet.errors import UserError
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.library_calls import OnProgress, library_call
from tvmfbnet.pipeline.found_net import PRUNINGS, read_found_net
from tvmfbnet.progress import loading
from tvmfbnet.pruning.config import PruneConfig, require_rewind_within
from tvmfbnet.pruning.widths import widths_space
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.inputs import check_inputs

if TYPE_CHECKING:
    from tvmfbnet.pruning.rounds import PruneResult


def prune(
    arch: Arch | str,
    space: Space | str,
    data: str,
    settings: PruneConfig | Mapping[str, Any] | None = None,
    training: TrainConfig | Mapping[str, Any] | None = None,
    *,
    table: LatencyTable | str | Path | None = None,
    out: str | Path = "pruning",
    on_progress: OnProgress | None = None,
) -> PruneResult:
    """Prunes a net in rounds: train, remove the smallest weights, rewind the others, repeat. Resumable: call it again.

    With a latency target channels inside blocks are removed in place of single weights, those first that save
    most latency per loss of magnitude by a latency table.

    Args:
        arch: the dense net: an arch, its string, or a published net: ``fbnet_a``, ``fbnet_c``.
        space: a space, or a shipped name or ``.yaml`` file; it gets as many classes as the data set has.
        data: a data set, such as ``fashion_mnist`` or ``imagefolder:DIR``: ``docs/reference/data.md`` has all.
        settings: a :class:`PruneConfig` or its fields.
        training: of every round: a :class:`TrainConfig` or its fields.
        table: with a latency target: what :meth:`LatencyTable.load` takes; what it lacks is predicted.
        out: folder of the files; every round has a ``net.pt`` in a folder of its own.
        on_progress: called with an event for everything that is reported meanwhile.

    Returns:
        The rounds, from the dense net to the smallest.

    Raises:
        ConfigError: bad settings; lists all problems.
        ArchError: the arch does not fit the space.
        ConstraintError: the net is faster than the latency target, or no narrower one meets it.
        LatencyError: the table has too little to predict from.
        DataError: the data set is missing or does not fit.
        StorageError: ``out`` is not writable, or holds a pruning of something else.
        DivergedError: the loss of a round became NaN or infinite.

    Example:
        >>> import tvmfbnet as tf
        >>> arch, training = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3", {"epochs": 1}
        >>> settings = tf.PruneConfig(remaining=(0.5,), rounds=1)
        >>> pruned = tf.prune(arch, "fbnet_mini", "fashion_mnist", settings, training, out="pruning")
        >>> [round(each.size.remaining, 2) for each in pruned.rounds]
        [1.0, 0.5]
    """
    with library_call(on_progress, **names_of(space)):
        checked = as_settings(PruneConfig, settings, "prune settings")
        trained = as_settings(TrainConfig, training, "training settings")
        require_rewind_within(checked.rewind_epochs, trained)
        net_arch, net_space = as_arch(arch, fit_classes(as_space(space), data))
        folder = Path(out)
        check_inputs(net_space, data, folder, trained.device)
        latencies = _latencies(table, checked, net_arch, net_space)
        with loading("PyTorch"):
            from tvmfbnet.pruning.prune import prune_channels, prune_weights  # torch: only after all checks passed

        if latencies is None:
            return prune_weights(net_arch, net_space, data, checked, trained, folder)
        return prune_channels(net_arch, net_space, latencies, data, checked, trained, folder)


def prune_run(
    run: str | Path,
    settings: PruneConfig | Mapping[str, Any] | None = None,
    training: TrainConfig | Mapping[str, Any] | None = None,
    *,
    table: LatencyTable | str | Path | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> PruneResult:
    """As :func:`prune`, of the net that a run found; the run's report shows it.

    Args:
        run: the run's folder.
        settings: as there.
        training: a :class:`TrainConfig` in place of the run's, or fields that replace the run's.
        table: with a latency target: as there; by default the latencies that the net was found on.
        out: folder of the files; by default ``pruning/weights`` or ``pruning/channels`` in the run's.
        on_progress: as there.

    Raises:
        UserError: there is no such run, it has found no net yet, or its latencies cannot be read.
    """
    checked = as_settings(PruneConfig, settings, "prune settings")
    net = read_found_net(Path(run))
    if not isinstance(training, TrainConfig):
        training = {**net.training.model_dump(exclude_unset=True), **(training or {})}
    kind = "channels" if checked.of_channels else "weights"
    latencies = net.latencies if checked.of_channels and table is None else table
    folder = Path(run) / PRUNINGS / kind if out is None else out
    return prune(net.arch, net.space, net.data, checked, training, table=latencies, out=folder, on_progress=on_progress)


def _latencies(
    table: LatencyTable | str | Path | None, settings: PruneConfig, arch: Arch, space: Space
) -> LatencyTable | None:
    """The latencies of all widths that channels are removed by; None for single weights.

    Raises:
        UserError: a table without a latency target, or the other way round.
    """
    if (table is None) == settings.of_channels:
        raise UserError("channels are removed by a latency table until a latency target is met: give both or neither")
    if table is None:
        return None
    widths = widths_space(arch, space, settings.multiple)
    return table if isinstance(table, LatencyTable) else LatencyTable.load(table, widths)
