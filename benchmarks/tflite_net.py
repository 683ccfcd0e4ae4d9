"""Writes a net as a TFLite model in float32, for simulated_rivals.py, without a converter and what that needs.

The net has the random weights with which `tvmfbnet compile` makes a package without a checkpoint. Needs LiteRT's wheel
of any machine in a folder, for its schema (`simulated_rivals.py` says how to fetch it):

    python benchmarks/tflite_net.py --space fbnet --arch fbnet_c --wheels wheels --out fbnet_c.tflite
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tflite_block import BlockWriter, import_schema

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.errors import UserError
from tvmfbnet.nets.blocks import ConvBNReLU, FBNetBlock
from tvmfbnet.nets.bn_folding import fold_bn
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space


def write_net(schema: Any, net: ArchNet, shape: tuple[int, int, int, int]) -> bytes:
    """The model's file: images channels last to logits.

    Args:
        schema: of :func:`tflite_block.import_schema`.
        net: with folded batch norms.
        shape: of its input, (1, channels, height, width).

    Raises:
        UserError: the net has a layer that is not written here.
    """
    writer = BlockWriter(schema, shape, "fused")
    graph, x = writer.graph, writer.graph.input
    for layer in (net.stem, *net.layers, net.head_conv):
        if isinstance(layer, FBNetBlock):
            x = writer.block(x, layer)
        elif isinstance(layer, ConvBNReLU):
            x = writer.conv(x, layer.conv, relu=True)
        elif not isinstance(layer, torch.nn.Identity):
            raise UserError(f"a layer of {type(layer).__name__} is not written here")
    batch, *_, channels = graph.shape(x)
    x = graph.add("MEAN", [x, graph.constant(np.int32([1, 2]))], [(batch, channels)], "ReducerOptions", keepDims=False)
    weights, bias = (tensor.detach().numpy() for tensor in (net.head_linear.weight, net.head_linear.bias))
    inputs = [x, graph.constant(weights), graph.constant(bias)]
    return graph.finish(graph.add("FULLY_CONNECTED", inputs, [(batch, len(bias))], "FullyConnectedOptions"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--arch", default="fbnet_c")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with LiteRT's wheel")
    parser.add_argument("--out", type=Path, required=True, help="the .tflite file to write")
    options = parser.parse_args()
    arch, space = resolve_arch(options.arch, load_space(options.space))
    shape = (1, space.input_channels, space.height, space.width)
    options.out.write_bytes(write_net(import_schema(options.wheels), fold_bn(untrained_net(arch, space)), shape))


if __name__ == "__main__":
    with as_command():
        main()
