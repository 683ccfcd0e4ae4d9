"""A compiled net on a simulated core beside ONNX Runtime's and XNNPACK's own aarch64 builds on the same core.

All run under qemu with the same model for a clock: our package as `tvmfbnet bench` times it, the others in their Python
wheels for aarch64. One thread, milliseconds of a warm call. Every figure is simulated. Outputs of the others must be
those of the package's ONNX model. First a loop of known length is timed in the same way, which checks the clock.

It needs a 64-bit ARM Python with the wheels in a folder (neither is a dependency of the package):

    scripts/arm_python arm-python
    pip install --target wheels --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \\
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 onnxruntime==1.32.0 ai-edge-litert==2.3.0
    tvmfbnet compile fbnet_c --space fbnet --target sim_a76 --out runs/package
    python benchmarks/tflite_net.py --arch fbnet_c --wheels wheels --out fbnet_c.tflite
    python benchmarks/simulated_rivals.py runs/package --target sim_a76 --arm-python arm-python --wheels wheels \\
        --tflite fbnet_c.tflite

`--top 3` also prints the hottest blocks of each runtime, with their code; ours are printed by hot_loops.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from emulated_machine import machine_root
from figures import report_figure
from hot_loops import EVERY_BLOCK, show
from litert_net import all_delegated

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.errors import DeviceError, ParityError, UserError
from tvmfbnet.relative_error import relative_error
from tvmfbnet.simulation.cores import Core
from tvmfbnet.simulation.cycle_server import serving
from tvmfbnet.simulation.emulator import Emulation, emulator_command
from tvmfbnet.simulation.microbenchmarks import assemble
from tvmfbnet.simulation.programs import build_simulator
from tvmfbnet.targets.definition import load_target
from tvmfbnet.targets.simulated import require_core
from tvmfbnet.tools import cache_folder

INSIDE = Path(__file__).with_name("emulated_runtime.py")
# Where each wheel keeps its code.
FOLDERS = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert"}
TITLES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT with XNNPACK"}
_CLOCK_ERROR, _OUTPUT_ERROR, _REPEAT_ERROR = 0.10, 1e-3, 1e-3
_SECONDS = 3600


@dataclass(frozen=True)
class Rival:
    """One runtime's simulated time.

    Attributes:
        version: of the runtime.
        calls_ms: with empty caches, then warm ones.
        output: of the net, flat.
        told: all that it said.
    """

    version: str
    calls_ms: tuple[float, ...]
    output: npt.NDArray[Any]
    told: dict[str, Any]

    @property
    def warm_ms(self) -> float:
        """The second call's time."""
        return self.calls_ms[1]


@dataclass(frozen=True)
class EmulatedPython:
    """A 64-bit ARM Python on a simulated core.

    Attributes:
        core: the core.
        python: folder that scripts/arm_python made.
        wheels: folder with the runtimes.
        folder: for files of the run.
    """

    core: Core
    python: Path
    wheels: Path
    folder: Path

    def run(self, *words: str, summarised: bool = False) -> dict[str, Any]:
        """Runs `emulated_runtime.py` and returns what it said; if asked for, :attr:`summary` then says where time went.

        Raises:
            DeviceError: it failed.
        """
        root = self.folder / "root"
        if not root.exists():
            machine_root(self.core, self.python / "root", self.folder)
        self.summary.unlink(missing_ok=True)
        socket, summary = self.folder / "cycles", self.folder / "summary" if summarised else None
        emulation = Emulation(
            build_simulator(),
            mailbox=self.folder / "mailbox",
            cycle_server=socket,
            summary=summary,
            hottest=EVERY_BLOCK,
            sysroot=str(root),
        )
        program = [str(self.python.resolve() / "root" / "usr" / "bin" / "python3.11"), "-B", str(INSIDE), *words]
        with serving(self.core, cache_folder() / "block-cycles", socket):
            done = subprocess.run(
                [*emulator_command(self.core, emulation), *program],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                env=self._environment(summary),
            )
        if done.returncode != 0:
            raise DeviceError(f"{words[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    @property
    def summary(self) -> Path:
        """Where the last run's time went."""
        return self.folder / "summary.json"

    def _environment(self, summary: Path | None) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        paths = os.pathsep.join(str(path.resolve()) for path in (self.wheels, self.python / "site"))
        return {
            **{"PATH": os.environ["PATH"], "PYTHONPATH": paths, "HOME": str(self.folder)},
            **{"ORT_DISABLE_TELEMETRY": "1", "SIMULATED_SUMMARY": str(summary or "")},
            **threads,
        }


def clock_error(python: EmulatedPython) -> float:
    """How much longer than documented a loop of independent multiply-adds takes by the clock, as a share.

    Raises:
        UserError: no throughput of the core is documented.
    """
    figures, iterations = python.core.documented, 500_000
    if figures is None:
        raise UserError(f"core {python.core.name} has no section documented: nothing to check its clock with")
    sums = [number for number in range(24) if not 8 <= number < 16]  # those a function need not preserve
    body = ["subs x0, x0, #1", *(f"fmla v{number}.4s, v30.4s, v31.4s" for number in sums)]
    code = assemble([*body, f"b.ne #-{4 * len(body)}", "ret"])
    told = python.run("loop", code.hex(), str(iterations))
    expected_ms = iterations * len(sums) / figures.fmas_per_cycle / python.core.frequency_ghz / 1e6
    return float(told["calls_ms"][1] / expected_ms - 1)


def time_rival(
    python: EmulatedPython, kind: str, model: Path, image: npt.NDArray[Any], summarised: bool = False
) -> Rival:
    """Times a model in a runtime.

    Raises:
        DeviceError: it failed, or two warm calls differ.
        ParityError: XNNPACK leaves nodes to another implementation.
    """
    given, output = python.folder / "image.npy", python.folder / "output.npy"
    np.save(given, image)
    told = python.run(kind, str(model.resolve()), str(given), str(output), summarised=summarised)
    rival = Rival(told["version"], tuple(told["calls_ms"]), np.load(output).ravel(), told)
    if abs(rival.calls_ms[2] / rival.warm_ms - 1) > _REPEAT_ERROR:
        raise DeviceError(f"{kind}: warm calls take {rival.calls_ms[1:]} ms and should be equal")
    if kind == "litert" and not all_delegated(told["nodes"], told["outputs"]):
        raise ParityError(f"{model}: XNNPACK does not run every node")
    return rival


def require_same(rival: Rival, expected: npt.NDArray[Any], name: str) -> None:
    """Raises a ParityError if a runtime's output is not that of the package's model."""
    error = relative_error(rival.output, expected.ravel())
    if not error <= _OUTPUT_ERROR:
        raise ParityError(f"{name}: its output differs from the package's model by {error:.2g}: not the same net")


def compare(package_folder: Path, target_name: str, python: EmulatedPython, tflite: Path | None, top: int) -> None:
    """Times all and prints a table."""
    from tvmfbnet.deploy.package import Package
    from tvmfbnet.deploy.runtimes.onnx_runtime import import_onnxruntime
    from tvmfbnet.dtypes import random_tensor

    print(f"the clock is off by {check_clock(python):+.2%} on a loop of known length", flush=True)
    package = Package.load(package_folder, target_name)
    image = random_tensor(package.input_shape, "float32")
    session = import_onnxruntime().InferenceSession(str(package.model), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: image})[0]
    models = {"onnxruntime": package.model} | ({} if tflite is None else {"litert": tflite})
    rivals = {}
    for kind, model in models.items():
        rivals[kind] = time_rival(python, kind, model, image, summarised=top > 0)
        require_same(rivals[kind], expected, TITLES[kind])
        if top:
            folder = python.wheels / FOLDERS[kind]
            title = f"{TITLES[kind]}, {len(rivals[kind].calls_ms)} calls,"
            show(python.core, json.loads(python.summary.read_text()), folder, top, title)
    ours_ms = package.bench().latency_ms
    kernels = f"{package.kernels.tuned} of {package.kernels.needed} conv kernels tuned"
    print(f"{package.arch} on the simulated {python.core.description}, one thread; every figure is simulated")
    print(f"{'ours':32} {ours_ms:9.3f} ms   {kernels}")
    for kind, rival in rivals.items():
        title, cold_ms = f"{TITLES[kind]} {rival.version}", rival.calls_ms[0]
        ratio = f"ours takes {ours_ms / rival.warm_ms:.3f} of it"
        name = f"{package.arch} on {python.core.name}, ours over {title}"
        report_figure(name, ours_ms / rival.warm_ms, "ratio", better="lower", exact=True)
        print(f"{title:32} {rival.warm_ms:9.3f} ms   {ratio}; {cold_ms:.3f} ms with empty caches")


def check_clock(python: EmulatedPython) -> float:
    """The clock's error; a DeviceError if it is too large to believe anything else."""
    error = clock_error(python)
    if abs(error) > _CLOCK_ERROR:
        raise DeviceError(f"a loop of known length takes {1 + error:.2f} of its time by the simulated clock")
    return error


def main() -> int:
    """Reads the arguments and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder that `tvmfbnet compile` wrote")
    parser.add_argument("--target", required=True, help="the simulated target that it was compiled for")
    parser.add_argument("--arm-python", type=Path, required=True, help="folder that scripts/arm_python made")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the runtimes' wheels for aarch64")
    parser.add_argument("--tflite", type=Path, help="the same net for LiteRT, in float32")
    parser.add_argument("--top", type=int, default=0, help="number of hottest blocks to print of each runtime")
    arguments = parser.parse_args()
    core = require_core(load_target(arguments.target))
    with TemporaryDirectory() as folder:
        python = EmulatedPython(core, arguments.arm_python, arguments.wheels, Path(folder))
        compare(arguments.package, arguments.target, python, arguments.tflite, arguments.top)
    return 0


if __name__ == "__main__":
    with as_command():
        sys.exit(main())
