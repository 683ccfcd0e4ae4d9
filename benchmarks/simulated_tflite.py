"""Blocks of a space on TensorFlow Lite's kernels on a simulated core, beside published latencies of a device with it.

The published tables were made with TensorFlow Lite. `simulated_devices.py` runs our kernels; here each block is a
TFLite model (`tflite_block.py`), run by LiteRT's wheel for aarch64 on the simulated core: with TensorFlow Lite's own
kernels, or with XNNPACK, which is newer. One thread, a warm call. Outputs must be the block's. Printed are the rank
correlation and the error that is left after the best single scale. It needs what `simulated_rivals.py` lists, of the
wheels LiteRT's:

    python benchmarks/simulated_tflite.py --core a72 --published fbnet224_raspi4.csv --layout nhwc \\
        --arm-python arm-python --wheels wheels

Times are kept in ``--out``: started again, it times what is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from published_blocks import blocks_of, compare, published_ms
from simulated_rivals import EmulatedPython, check_clock
from tflite_block import LAYOUTS, BlockWriter, import_schema

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.dtypes import random_tensor
from tvmfbnet.errors import ParityError
from tvmfbnet.files import write_json
from tvmfbnet.nets.blocks import FBNetBlock, build_part, input_shape
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.relative_error import relative_error
from tvmfbnet.simulation.cores import load_core
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart

RESOLVERS = {"tflite": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "xnnpack": "AUTO"}
_ROUND = 48  # starting Python in the emulator takes longer than a block
_OUTPUT_ERROR = 1e-3


def name_of(part: NetPart) -> str:
    """A block's name in files."""
    return f"{part.block}-{part.cin}-{part.cout}-{part.height}x{part.width}-{part.stride}"


def write_models(schema: Any, parts: list[NetPart], layout: str, folder: Path) -> dict[str, np.ndarray]:
    """Writes models and inputs of blocks; returns what each must put out, in the layout's order."""
    expected = {}
    for part in parts:
        torch.manual_seed(0)
        block = build_part(part)
        randomise_bn(block, 0)
        block = fold_bn(block)
        if not isinstance(block, FBNetBlock):
            raise ValueError(f"{part.block} is no block of convolutions")
        image = random_tensor(input_shape(part), "float32")
        with torch.no_grad():
            output = block(torch.from_numpy(image)).numpy()
        if layout in ("nhwc", "fused"):
            image, output = (np.ascontiguousarray(tensor.transpose(0, 2, 3, 1)) for tensor in (image, output))
        name = name_of(part)
        (folder / f"{name}.tflite").write_bytes(BlockWriter(schema, input_shape(part), layout).model_of(block))
        np.save(folder / f"{name}.input.npy", image)
        expected[name] = output
    return expected


def time_parts(python: EmulatedPython, parts: list[NetPart], layout: str, kernels: str) -> dict[str, float]:
    """Milliseconds of a warm call of each block, by :func:`name_of`.

    Raises:
        DeviceError: the runtime failed.
        ParityError: a block's output is not PyTorch's.
    """
    folder = python.folder / "models"
    folder.mkdir()
    try:
        expected = write_models(import_schema(python.wheels), parts, layout, folder)
        told = python.run("models", str(folder), RESOLVERS[kernels])
        for name, output in expected.items():
            error = relative_error(np.load(folder / f"{name}.output.npy"), output)
            if not error <= _OUTPUT_ERROR:
                raise ParityError(f"{name}: its output differs from the block's by {error:.2g}")
    finally:
        shutil.rmtree(folder)
    return {name: calls_ms[-1] for name, calls_ms in told["calls_ms"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", required=True)
    parser.add_argument("--published", type=Path, required=True, help="CSV of the device's latencies")
    parser.add_argument("--arm-python", type=Path, required=True, help="folder that scripts/arm_python made")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with LiteRT's wheel for aarch64")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--layout", choices=LAYOUTS, default="nhwc", help="how a converter wrote the blocks")
    parser.add_argument("--kernels", choices=tuple(RESOLVERS), default="tflite")
    parser.add_argument("--out", type=Path, help="file of the blocks' times")
    arguments = parser.parse_args()
    core, published = load_core(arguments.core), published_ms(arguments.published)
    parts = blocks_of(load_space(arguments.space))
    out = arguments.out or Path(f"{arguments.kernels}_{arguments.layout}_{core.name}_{core.digest}.json")
    times: dict[str, float] = json.loads(out.read_text()) if out.exists() else {}
    missing = [part for part in parts if name_of(part) not in times]
    with TemporaryDirectory() as folder:
        python = EmulatedPython(core, arguments.arm_python, arguments.wheels, Path(folder))
        if missing:
            print(f"the clock is off by {check_clock(python):+.2%} on a loop of known length", flush=True)
        for start in range(0, len(missing), _ROUND):
            times |= time_parts(python, missing[start : start + _ROUND], arguments.layout, arguments.kernels)
            write_json(out, times)
            print(f"{len(times)} of {len(parts)} blocks", flush=True)
    compare({part: times[name_of(part)] for part in parts}, published)


if __name__ == "__main__":
    with as_command():
        main()
