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

import onnx
import torch
from onnx.utils import Extractor
from torch import nn

from tvmfbnet.compiler.onnx_registry import one_registry
from tvmfbnet.compiler.shapes import part_input_shape, part_input_type
from tvmfbnet.dtypes import FLOAT32, DType
from tvmfbnet.nets.blocks import build_part
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.nets.precision import torch_type
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.space import HEAD_LINEAR, HEAD_POOL, STEM, NetPart

# torch.onnx.export costs about 1 s per call and little per block, so this many parts share a call.
_PARTS_PER_CALL = 24


def randomise_biases(module: nn.Module) -> None:
    """Gives classifiers a random bias: theirs is initialised to zero, and the exporter would drop adding zeros."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.uniform_(child.bias, -0.5, 0.5)


class _InteriorPart(nn.Module):
    """A folded part whose activations are NHWC outside; the image before the stem stays NCHW."""

    def __init__(self, part: NetPart, dtype: DType) -> None:
        super().__init__()
        seed = zlib.crc32(part.name.encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = build_part(part)
            randomise_biases(body)
        randomise_bn(body, seed)
        self.body = folded_in(body, dtype)
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


def export_parts(parts: Sequence[NetPart], dtype: DType = FLOAT32) -> dict[NetPart, onnx.ModelProto]:
    """Exports each part to an ONNX model from ``input`` to ``output``; weights depend only on part and dtype."""
    models: dict[NetPart, onnx.ModelProto] = {}
    for start in range(0, len(parts), _PARTS_PER_CALL):
        models.update(_export_bundle(parts[start : start + _PARTS_PER_CALL], dtype))
    return models


def _export_bundle(parts: Sequence[NetPart], dtype: DType) -> dict[NetPart, onnx.ModelProto]:
    inputs = tuple(
        torch.zeros(part_input_shape(part), dtype=torch_type(part_input_type(part, dtype))) for part in parts
    )
    names = [f"input{index}" for index in range(len(parts))], [f"output{index}" for index in range(len(parts))]
    extractor = Extractor(_export(_Bundle(parts, dtype).eval(), inputs, *names))
    models = {}
    for part, source, result in zip(parts, *names, strict=True):
        model = extractor.extract_model([source], [result])
        _rename(model, {source: "input", result: "output"})
        models[part] = model
    return models


def export_net(net: ArchNet, dtype: DType = FLOAT32) -> onnx.ModelProto:
    """Exports a whole net, batch norm folded: ``input`` (1, C, H, W) to ``output`` (1, classes)."""
    shape = (1, net.space.input_channels, net.space.height, net.space.width)
    return _export(
        folded_in(net, dtype), (torch.zeros(shape, dtype=torch_type(dtype.boundary)),), ["input"], ["output"]
    )


def _export(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], input_names: list[str], output_names: list[str]
) -> onnx.ModelProto:
    with scratch_folder() as folder, _quiet_exporter(), one_registry():
        path = folder / "model.onnx"
        torch.onnx.export(
            module,
            inputs,
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=input_names,
            output_names=output_names,
        )
        return onnx.load(str(path))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences the exporter's logs and warnings about its internals, which users cannot act on."""
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
