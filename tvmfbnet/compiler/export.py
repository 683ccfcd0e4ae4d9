"""From torch to ONNX: parts of a space (untrained, with randomised batch norm folded in) and whole trained nets.

Parts are exported with the interior layout at their borders, as between neighbours in a net: timing a part with
transposes at its borders would include a cost that no net has.
"""

from __future__ import annotations

import copy
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy.typing as npt
import onnx
import torch
from onnx.utils import Extractor
from torch import nn

from tvmfbnet.compiler.float_tail import tail_nodes
from tvmfbnet.compiler.quantised_model import CODES, INPUT, OUTPUT
from tvmfbnet.compiler.shapes import part_input_shape, part_input_type
from tvmfbnet.dtypes import FLOAT32, DType, random_tensor
from tvmfbnet.nets.blocks import build_part
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.nets.network import ArchNet, ExportedNet
from tvmfbnet.nets.own_blocks import randomise_constants
from tvmfbnet.nets.precision import torch_type
from tvmfbnet.quantisation.post_training import quantise
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.heads import HEAD_BOXES, HEAD_LOGITS, HEAD_RESIZE
from tvmfbnet.space.own_blocks import OwnBlock
from tvmfbnet.space.space import BLOCK, HEAD_LINEAR, HEAD_POOL, STEM, NetPart

# Of random images, for the ranges of a part that is only timed.
_CALIBRATION_IMAGES = 2
# A call of the exporter has costs of its own, so this many parts share one.
_PARTS_PER_CALL = 24
# Parts whose output is that of a net, or what its tail in float32 takes.
_GIVE_REALS = (HEAD_LINEAR, HEAD_LOGITS, HEAD_BOXES)
# The newest that the tracing exporter knows.
_OPSET = 20


def randomise_biases(module: nn.Module) -> None:
    """Gives classifiers a random bias: theirs is initialised to zero, and the exporter would drop adding zeros."""
    for child in module.modules():
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.uniform_(child.bias, -0.5, 0.5)


class _Bordered(nn.Module):
    """A folded body in a dtype, with conversions where it takes or gives the dtype's boundary type.

    Where both are one type there is no conversion, and the graph is that of the body.
    """

    def __init__(self, body: nn.Module, dtype: DType, takes: bool = True, gives: bool = True) -> None:
        super().__init__()
        self.body, differs = body, dtype.boundary != dtype.name
        self.inner = torch_type(dtype.name) if takes and differs else None
        self.outer = torch_type(dtype.boundary) if gives and differs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        y = self.body(x if self.inner is None else x.to(self.inner))
        if self.outer is None:
            return y  # type: ignore[no-any-return]
        return tuple(each.to(self.outer) for each in y) if isinstance(y, tuple) else y.to(self.outer)


class _InteriorPart(nn.Module):
    """A folded part whose activations are NHWC outside; the image before the stem stays NCHW.

    Activations between parts have the dtype, the image and the outputs its boundary type.
    """

    def __init__(self, part: NetPart, dtype: DType) -> None:
        super().__init__()
        seed = zlib.crc32(part.name.encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = build_part(part)
            randomise_biases(body)
            if part.part == BLOCK and isinstance(parse_block(part.block), OwnBlock):
                randomise_constants(body)
        randomise_bn(body, seed)
        takes, gives = part.part == STEM, part.part == HEAD_LINEAR
        self.body = _Bordered(folded_in(body, dtype), dtype, takes, gives)
        self.nhwc_in = part.part not in (STEM, HEAD_LINEAR)
        self.nhwc_out = part.part not in (HEAD_POOL, HEAD_LINEAR)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # contiguous() is free in ONNX; without it torch decomposes pooling into a gather over the strides.
        y = self.body(x.permute(0, 3, 1, 2).contiguous() if self.nhwc_in else x)
        return y.permute(0, 2, 3, 1) if self.nhwc_out else y  # type: ignore[no-any-return]


class _Bundle(nn.Module):
    """Several parts side by side, each with its own input and output."""

    def __init__(self, parts: Sequence[NetPart], dtype: DType) -> None:
        super().__init__()
        self.parts = nn.ModuleList(_InteriorPart(part, dtype) for part in parts)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


def part_module(part: NetPart, dtype: DType = FLOAT32) -> nn.Module:
    """The torch module behind a part's ONNX model (same weights, same layout), for parity checks."""
    return _InteriorPart(part, dtype).eval()


def folded_in(module: nn.Module, dtype: DType) -> nn.Module:
    """A copy in eval mode with batch norms folded in the dtype's reference type, and then weights of the dtype."""
    precise = copy.deepcopy(module).to(torch_type(dtype.reference))
    return fold_bn(precise).to(torch_type(dtype.name))


def export_parts(parts: Sequence[NetPart], dtype: DType = FLOAT32, batch: int = 1) -> dict[NetPart, onnx.ModelProto]:
    """Exports each part to an ONNX model from ``input`` to ``output``; weights depend only on part and dtype.

    ``batch`` is the number of images; quantised parts take one. Logits are enlarged in float32, of a quantised net too.
    """
    if dtype.is_quantised:
        exported = export_parts(parts)
        return {
            part: model if part.part == HEAD_RESIZE else quantised_part(part, model) for part, model in exported.items()
        }
    models: dict[NetPart, onnx.ModelProto] = {}
    for start in range(0, len(parts), _PARTS_PER_CALL):
        models.update(_export_bundle(parts[start : start + _PARTS_PER_CALL], dtype, batch))
    return models


def quantised_part(part: NetPart, model: onnx.ModelProto) -> onnx.ModelProto:
    """A part's float model in QDQ form, with ranges of random images: latency does not depend on them.

    Its metadata say where it takes or gives codes, as between neighbours in a net.
    """
    images = [random_tensor(part_input_shape(part), "float32", seed) for seed in range(_CALIBRATION_IMAGES)]
    quantised = quantise(model, images)
    borders = {INPUT: part.part != STEM, OUTPUT: part.part not in _GIVE_REALS}
    onnx.helper.set_model_props(quantised, {key: CODES for key, is_inner in borders.items() if is_inner})
    return quantised


def _export_bundle(parts: Sequence[NetPart], dtype: DType, batch: int) -> dict[NetPart, onnx.ModelProto]:
    inputs = tuple(
        torch.zeros(part_input_shape(part, batch), dtype=torch_type(part_input_type(part, dtype))) for part in parts
    )
    names = [f"input{index}" for index in range(len(parts))], [f"output{index}" for index in range(len(parts))]
    extractor = Extractor(export_module(_Bundle(parts, dtype).eval(), inputs, *names))
    models = {}
    for part, source, result in zip(parts, *names, strict=True):
        model = extractor.extract_model([source], [result])
        _rename(model, {source: "input", result: "output"})
        models[part] = model
    return models


def export_net(
    net: ArchNet, dtype: DType = FLOAT32, images: Sequence[npt.NDArray[Any]] = (), batch: int = 1
) -> onnx.ModelProto:
    """Exports a whole net, batch norm folded: ``input`` (N, C, H, W) to the outputs of its head.

    These are ``output`` (N, classes), of LR-ASPP (N, classes, h, w); of SSDLite ``scores`` (N, anchors, classes) and
    ``boxes`` (N, anchors, 4): see :meth:`tvmfbnet.nets.heads.SsdliteHead.exported`.

    Args:
        net: the net.
        dtype: of the exported model; int8 gives a model in QDQ form.
        images: calibration images (1, C, H, W) as the net sees them in training, for int8 only.
        batch: N, the number of images; 1 in int8.

    Raises:
        UserError: the dtype is int8, and there is no image.
    """
    if dtype.is_quantised:
        model = export_net(net)
        return quantise(model, images, [node.name for node in tail_nodes(model)])
    shape = (batch, net.space.input_channels, net.space.height, net.space.width)
    exported = ExportedNet(cast(ArchNet, folded_in(net, dtype)))
    return export_module(
        _Bordered(exported, dtype).eval(),
        (torch.zeros(shape, dtype=torch_type(dtype.boundary)),),
        ["input"],
        list(exported.output_names),
    )


def export_module(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], input_names: list[str], output_names: list[str]
) -> onnx.ModelProto:
    """Exports a module in eval mode; nothing of it is changed.

    By tracing, for an eighth of what torch's newer exporter takes, which also loads for seconds; the kernels are equal.
    The newer one exports what the tracing one cannot.
    """
    options: dict[str, Any] = {"input_names": input_names, "output_names": output_names, "verbose": False}
    with scratch_folder() as folder, _quiet_exporter():
        path = folder / "model.onnx"
        try:
            torch.onnx.export(module, inputs, str(path), dynamo=False, opset_version=_OPSET, **options)
        except torch.onnx.errors.OnnxExporterError:
            torch.onnx.export(module, inputs, str(path), dynamo=True, external_data=False, **options)
        model = onnx.load(str(path))
    _constants_to_initializers(model.graph)
    return model


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turns what computes nothing into initializers, which all our passes read.

    These are constants, such as the shapes of reshapes, and the identities by which the exporter shares equal weights.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            source = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in stored:
            source = stored[node.input[0]]
        else:
            continue
        tensor = graph.initializer.add()
        tensor.CopyFrom(source)
        tensor.name = node.output[0]
        stored[tensor.name] = tensor
        graph.node.remove(node)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences the exporters' logs and warnings about their internals, which users cannot act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
