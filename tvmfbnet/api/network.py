"""``tvmfbnet.build_network`` and ``tvmfbnet.export_network``: a net in PyTorch, whole or as backbone, and in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from tvmfbnet.api.arguments import as_arch, as_space
from tvmfbnet.errors import ArchError, UserError
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space

if TYPE_CHECKING:
    from torch import nn

    from tvmfbnet.nets.features import FeatureNet
    from tvmfbnet.nets.network import ArchNet


@overload
def build_network(
    arch: Arch | str,
    space: Space | str = "fbnet",
    *,
    checkpoint: str | Path | None = None,
    features_only: Literal[False] = False,
) -> ArchNet: ...


@overload
def build_network(
    arch: Arch | str,
    space: Space | str = "fbnet",
    *,
    checkpoint: str | Path | None = None,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
) -> FeatureNet: ...


def build_network(
    arch: Arch | str,
    space: Space | str = "fbnet",
    *,
    checkpoint: str | Path | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
) -> ArchNet | FeatureNet:
    """The net of an arch as a PyTorch module, to be used outside of this package.

    Args:
        arch: an arch, its string, or a published net: ``fbnet_a``, ``fbnet_c``.
        space: a space, or a shipped name or ``.yaml`` file.
        checkpoint: trained weights (``net.pt``), whose classes the net has then; freshly initialised ones if None.
        features_only: without its head: gives a list of feature maps, the last of each resolution, and has a
            ``feature_info`` with their channels and reductions, both as timm's models with ``features_only=True``.
        out_indices: of the maps to give; all if None.

    Returns:
        The net in training mode, as freshly built modules are.

    Raises:
        ArchError: the arch does not fit the space, or the checkpoint holds another net.
        UserError: ``out_indices`` without ``features_only``, or of no map.

    Example:
        >>> import tvmfbnet as tf
        >>> backbone = tf.build_network("fbnet_c", features_only=True)
        >>> backbone.feature_info.channels(), backbone.feature_info.reduction()
        ([16, 24, 32, 112, 352], [2, 4, 8, 16, 32])
    """
    from tvmfbnet.nets.features import FeatureNet
    from tvmfbnet.nets.network import build_net
    from tvmfbnet.training.train import load_net

    if out_indices is not None and not features_only:
        raise UserError("out_indices choose feature maps: add features_only=True")
    net_arch, net_space = as_arch(arch, as_space(space))
    if checkpoint is None:
        net = build_net(net_arch, net_space)
    else:
        net, _ = load_net(Path(checkpoint))
        there = format_arch(net.arch, net.space)
        if there != format_arch(net_arch, net_space):
            raise ArchError(f"{checkpoint} holds {there}, not the arch that was asked for")
        net.train()
    return FeatureNet(net, out_indices) if features_only else net


def export_network(net: nn.Module, path: str | Path) -> None:
    """Writes a net that :func:`build_network` gave to a file; its suffix says in which form.

    ``.onnx`` is ONNX with batch norms folded in, ``.pt2`` a program of ``torch.export``, both in eval mode from
    ``input`` (N, channels, height, width) to ``output`` or one output for each feature map. ``.pt2`` takes any N,
    ``.onnx`` one image. ``.safetensors`` has the weights by timm's names, which ``timm.create_model(...,
    checkpoint_path=...)`` loads where it knows the same arch: ``fbnetc_100`` is ``fbnet_c``.

    Args:
        net: the net, as a whole or as a backbone; it stays as it is.
        path: ends in ``.onnx``, ``.pt2`` or ``.safetensors``.

    Raises:
        UserError: another suffix or module, or a backbone to ``.safetensors``.
        StorageError: the file cannot be written.

    Example:
        >>> import tvmfbnet as tf
        >>> net = tf.build_network("k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3", "fbnet_mini")
        >>> tf.export_network(net, "net.pt2")
    """
    from tvmfbnet.deploy.net_files import write_net
    from tvmfbnet.nets.features import FeatureNet
    from tvmfbnet.nets.network import ArchNet

    if not isinstance(net, ArchNet | FeatureNet):
        raise UserError(f"export_network takes what build_network gives, not {type(net).__name__}")
    write_net(net, Path(path))
