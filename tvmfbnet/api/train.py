"""``tvmfbnet.train``: a net, from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmfbnet.api.arguments import as_arch, as_settings, as_space, names_of
from tvmfbnet.library_calls import OnProgress, library_call
from tvmfbnet.progress import loading
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.inputs import check_inputs

if TYPE_CHECKING:
    from tvmfbnet.training.train import TrainResult


def train(
    arch: Arch | str,
    space: Space | str,
    data: str,
    settings: TrainConfig | Mapping[str, Any] | None = None,
    *,
    out: str | Path = "training",
    on_progress: OnProgress | None = None,
) -> TrainResult:
    """Trains a net from scratch and tests it. Resumable: call it again.

    Args:
        arch: an arch, its string, or a published net: ``fbnet_a``, ``fbnet_c``.
        space: a space, or a shipped name or ``.yaml`` file; it gets as many classes as the data set has.
        data: a data set, such as ``fashion_mnist`` or ``imagefolder:DIR``: ``docs/reference/data.md`` has all.
        settings: a :class:`TrainConfig` or its fields.
        out: folder of the training's files; ``net.pt`` in it has the weights.
        on_progress: called with an event for everything that is reported meanwhile.

    Raises:
        ConfigError: bad settings; lists all problems.
        ArchError: the arch does not fit the space.
        DataError: the data set is missing or does not fit.
        StorageError: ``out`` is not writable, or holds a training of something else.
        DivergedError: the loss became NaN or infinite.

    Example:
        >>> import tvmfbnet as tf
        >>> arch = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"
        >>> trained = tf.train(arch, "fbnet_mini", "fashion_mnist", {"epochs": 1}, out="training")
        >>> trained.checkpoint.name, 0 <= trained.test_accuracy <= 1
        ('net.pt', True)
    """
    with library_call(on_progress, **names_of(space)):
        checked = as_settings(TrainConfig, settings, "training settings")
        net_arch, net_space = as_arch(arch, fit_classes(as_space(space), data))
        folder = Path(out)
        check_inputs(net_space, data, folder, checked.device)
        with loading("PyTorch"):
            from tvmfbnet.training.train import train as train_net  # torch: only after all checks passed

        return train_net(net_arch, net_space, data, checked, folder)
