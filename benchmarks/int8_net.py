"""Times a whole net in int8 against our own float32, and ONNX Runtime in int8 and float32, in turn.

Kernels are those that tuning found for this host. ONNX Runtime's int8 net is the same QDQ model (uint8 activations,
int8 weights per channel). Everything on one thread; a latency is the fastest of the rounds. Prints the ratios, and how
many kernels have a schedule. ``--tflite`` adds LiteRT with XNNPACK on an int8 model of the same net, which
litert_model.py makes; its image lies channels last in its input before the clock starts.

    tvmfbnet tune --target host --dtype int8 --space fbnet --arch fbnet_c
    tvmfbnet tune --target host --space fbnet --arch fbnet_c
    python benchmarks/int8_net.py --space fbnet --arch fbnet_c --tflite fbnet_c.tflite
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from figures import report_figure
from litert_net import LiteRtNet
from tvm import relax

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.export import export_net
from tvmfbnet.compiler.lowering import build, coverage, lower
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.deploy.runtimes.onnx_runtime import import_onnxruntime
from tvmfbnet.dtypes import DTYPES, random_tensor
from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

CALIBRATION_IMAGES = 4


def ours(net: ArchNet, name: str, dtype: str, root: Path | None) -> tuple[Callable[[], Any], Any, Any]:
    """Runs the net as compiled with the tuned kernels of a dtype; its model; how many kernels have a schedule."""
    target = resolve(load_target(f"{name},dtype={dtype}"))
    shape = (1, net.space.input_channels, net.space.height, net.space.width)
    images = [random_tensor(shape, "float32", seed) for seed in range(CALIBRATION_IMAGES)]
    model = export_net(net, DTYPES[dtype], images)
    compiled_for, mod = target.for_tvm(), lower(model, target.for_tvm())
    try:
        database = existing_database(target, root)
    except StorageError:  # only the other dtype was tuned
        database = None
    records = None if database is None else database.records
    machine = relax.VirtualMachine(build(mod, compiled_for, records), tvm.cpu())
    tensors = {id(image): tvm.runtime.tensor(image, tvm.cpu()) for image in images}
    source = tensors[id(images[0])]
    return lambda: machine["main"](source), model, coverage(mod, compiled_for, records)


def theirs(model: Any, image: Any) -> Callable[[], list[Any]]:
    """Runs a model in ONNX Runtime on one thread."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": image})  # type: ignore[no-any-return]


def run(space: str, arch: str, name: str, root: Path | None, rounds: int, tflite: Path | None = None) -> dict[str, Any]:
    """Times everything in turn."""
    chosen, loaded = resolve_arch(arch, load_space(space))
    net = untrained_net(chosen, loaded)
    image = random_tensor((1, loaded.input_channels, loaded.height, loaded.width), "float32")
    litert = None if tflite is None else LiteRtNet(tflite, image)
    int8, quantised, covered = ours(net, name, "int8", root)
    float32, model, float_covered = ours(net, name, "float32", root)
    reference = theirs(model, image)
    runs: dict[str, Callable[[], Any]] = {"int8": int8}
    runs |= {"onnxruntime_int8": theirs(quantised, image), "onnxruntime_float32": reference}
    if not float_covered.missing:
        runs["float32"] = float32
    of_litert = {}
    if litert is not None:
        runs["litert_int8"] = litert.run
        of_litert = {
            "litert_all_nodes_in_xnnpack": litert.all_delegated,
            "litert_correlation_with_float32": round(litert.correlation(reference()[0]), 5),
        }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, once in runs.items():
            once()
            began = time.perf_counter()
            for _ in range(3):
                once()
            times[name].append((time.perf_counter() - began) / 3 * 1e3)
    for other in [other for other in times if other != "int8"]:
        ratios = np.array(times["int8"]) / np.array(times[other])
        report_figure(f"{arch}, int8 over {other}", ratios, "ratio", better="lower")
    report_figure(f"{arch}, int8", times["int8"], "ms", better="lower")
    fastest = {name: float(np.min(values)) for name, values in times.items()}
    return {
        "space": space,
        "arch": arch,
        "kernels_with_schedule": f"{covered.tuned} of {covered.needed}",
        "milliseconds": {name: round(value, 3) for name, value in fastest.items()},
        "int8_relative_to": {
            name: round(fastest["int8"] / value, 3) for name, value in fastest.items() if name != "int8"
        },
        **of_litert,
    }


def main() -> None:
    """Prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--arch", default="fbnet_c")
    parser.add_argument("--target", default="host", help="a target on this machine, such as one of an older CPU")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tuning-logs", type=Path, help="folder of all targets' logs; default: where tune writes them")
    parser.add_argument("--tflite", type=Path, help="int8 model of the net by litert_model.py, for LiteRT")
    options = parser.parse_args()
    try:
        timed = run(options.space, options.arch, options.target, options.tuning_logs, options.rounds, options.tflite)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    print(json.dumps(timed, indent=1))


if __name__ == "__main__":
    with as_command():
        main()
