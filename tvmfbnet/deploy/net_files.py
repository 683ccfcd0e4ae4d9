"""A net in a file, for use outside of this package: ONNX, a program of ``torch.export``, or weights by timm's names."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import torch

from tvmfbnet.errors import UserError
from tvmfbnet.extras import require
from tvmfbnet.files import write_atomically
from tvmfbnet.nets.bn_folding import fold_bn
from tvmfbnet.nets.features import FeatureNet
from tvmfbnet.nets.network import ArchNet, ExportedNet
from tvmfbnet.nets.timm_weights import to_timm
from tvmfbnet.space.heads import output_names

FORMS = {".onnx": "ONNX", ".pt2": "torch.export", ".safetensors": "weights by timm's names"}


def require_form(path: Path) -> None:
    """UserError where a file's suffix names no form that a net is written in."""
    if path.suffix not in FORMS:
        raise UserError(f"{path}: a net is written as {', '.join(f'{end} ({name})' for end, name in FORMS.items())}")


def write_net(net: ArchNet | FeatureNet, path: Path) -> None:
    """Writes a net in the form that the suffix names; the net stays as it is.

    Raises:
        UserError: the suffix names no form, or a backbone's weights are asked for.
        MissingExtraError: what exports to ONNX is not installed.
        StorageError: the file cannot be written.
    """
    require_form(path)
    space = net.space
    shape = (space.input_channels, space.height, space.width)
    if path.suffix == ".safetensors":
        _write_weights(net, path)
    elif path.suffix == ".pt2":
        # Exported with two images, as a program for one is for no other number.
        write_atomically(path, lambda part: _save_program(net, torch.zeros(2, *shape), part))
    else:
        _write_onnx(net, torch.zeros(1, *shape), path)


def _write_weights(net: ArchNet | FeatureNet, path: Path) -> None:
    from safetensors.torch import save_file

    if isinstance(net, FeatureNet):
        raise UserError(f"{path}: a backbone has no weights of its own by timm's names; write those of the whole net")
    weights = {name: tensor.contiguous() for name, tensor in to_timm(net.state_dict(), net).items()}
    write_atomically(path, lambda part: save_file(weights, part))


def _save_program(net: torch.nn.Module, images: torch.Tensor, path: Path) -> None:
    sizes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(copy.deepcopy(net).eval(), (images,), dynamic_shapes=sizes)
    with path.open("wb") as stream:
        torch.export.save(program, stream)


def _write_onnx(net: ArchNet | FeatureNet, image: torch.Tensor, path: Path) -> None:
    require("tune")  # brings the exporter
    import onnx

    from tvmfbnet.compiler.export import export_module

    folded = fold_bn(net)
    if isinstance(net, ArchNet):
        folded, names = ExportedNet(cast(ArchNet, folded)), list(output_names(net.space.head_kind))
    else:
        names = [f"feature{index}" for index in net.feature_info.out_indices]
    model = export_module(folded.eval(), (image,), ["input"], names)
    write_atomically(path, lambda part: onnx.save(model, str(part)))
