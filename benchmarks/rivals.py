"""One net in several runtimes on this machine: float32, one thread, each in a process of its own, all in turn.

    pip install --target benchmark_inputs/rivals --no-deps -r benchmarks/rivals.txt
    python benchmarks/rivals.py fbnet_c --space fbnet --wheels benchmark_inputs/rivals

The net has random weights and is compiled from the tuning database; nothing is tuned here. Every process is pinned to
the same core, and in every round each makes one pass of as many calls as take ``--pass-ms``; the others wait meanwhile.
Outputs must be ONNX Runtime's. Prints for each runtime its version, the fastest and the median milliseconds of a call,
and our time over its own: within a round, the median with the 10th and 90th percentile, and of the fastest passes,
which other work on the machine changes least. A runtime that is not installed or cannot take the net is left out, with
the reason; only ours and ONNX Runtime must be there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
from figures import report_figure
from rival_runtimes import RUNTIMES, RivalNet, version_of

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.errors import ParityError, RuntimeUnavailableError, UserError
from tvmfbnet.machine import core_numbers

OURS, REFERENCE = "tvmfbnet", "onnxruntime"
# Of outputs, relative to the largest one. All compute in float32, in other orders.
_LARGEST_ERROR = 1e-3


class Rival:
    """A process with a net in one runtime.

    Raises:
        RuntimeUnavailableError: it cannot be loaded, or does not take the net; says why.
    """

    def __init__(self, name: str, net: RivalNet) -> None:
        words = [sys.executable, __file__, net.arch, "--space", net.space, "--wheels", str(net.wheels)]
        words += ["--serve", name, "--folder", str(net.folder)]
        self._errors = net.folder / f"{name}.txt"
        # Runtimes of others: none may install anything into the environment, as one tries to.
        environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_NO_INPUT": "1"}
        with self._errors.open("wb") as stream:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                cwd=net.folder,
                env=environment,
            )
        self.name, self.times_ms, self.calls = name, list[float](), 1
        try:
            told = self._answer()
            self.version, self.output = str(told["version"]), np.load(net.folder / f"{name}.npy")
        except RuntimeUnavailableError:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else ""
        if not line:
            lines = self._errors.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise RuntimeUnavailableError(lines[-1].strip())
        return dict(json.loads(line))

    def pass_ms(self, calls: int) -> float:
        """Milliseconds of a call, in a pass of some."""
        if self._process.stdin is None:
            raise RuntimeUnavailableError("its process has no input")
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        return float(self._answer()["ms"])

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def serve(name: str, net: RivalNet) -> None:
    """Loads the net, saves its output, then times a pass for each line of input. Only answers go to stdout."""
    sys.path.append(str(net.wheels))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # converters print
    run, output = RUNTIMES[name][0](net)
    run()
    np.save(net.folder / f"{name}.npy", np.asarray(output(), np.float32).ravel())
    print(json.dumps({"version": version_of(name)}), file=answers, flush=True)
    for line in sys.stdin:
        calls, began = int(line), time.perf_counter()
        for _ in range(calls):
            run()
        print(json.dumps({"ms": 1e3 * (time.perf_counter() - began) / calls}), file=answers, flush=True)


def write_net(net: RivalNet, target_name: str) -> None:
    """Compiles the net and writes what the runtimes read."""
    from tvmfbnet.autotune.database import existing_database
    from tvmfbnet.deploy.package import compile_net, untrained_net
    from tvmfbnet.space.arch_text import resolve_arch
    from tvmfbnet.space.registry import load_space
    from tvmfbnet.targets.definition import load_target, resolve

    arch, space = resolve_arch(net.arch, load_space(net.space))
    target = resolve(load_target(target_name))
    package = compile_net(untrained_net(arch, space), target, existing_database(target), net.folder / "package")
    print(f"{package.kernels.tuned} of {package.kernels.needed} conv kernels are tuned", flush=True)
    for source, name in ((package.library, "lib.so"), (package.model, "net.onnx")):
        (net.folder / name).write_bytes(source.read_bytes())
    np.save(net.folder / "image.npy", np.random.default_rng(0).standard_normal(package.input_shape, np.float32))


def start(names: list[str], net: RivalNet) -> list[Rival]:
    """The runtimes that take the net and compute what ONNX Runtime does.

    Raises:
        RuntimeUnavailableError: ours or ONNX Runtime is not among them.
        ParityError: ours computes something else.
    """
    rivals = [Rival(REFERENCE, net)]
    expected = rivals[0].output
    try:
        for name in [OURS, *(name for name in names if name not in (OURS, REFERENCE))]:
            try:
                rival = Rival(name, net)
            except RuntimeUnavailableError as error:
                if name == OURS:
                    raise
                print(f"{name} is left out: {error}", flush=True)
                continue
            rivals.append(rival)
            same = rival.output.shape == expected.shape
            error_of_output = np.abs(rival.output - expected).max() / np.abs(expected).max() if same else np.inf
            if error_of_output > _LARGEST_ERROR:
                if name == OURS:
                    raise ParityError(f"our output differs from ONNX Runtime's by {error_of_output:.1e}")
                print(f"{name} is left out: its output differs by {error_of_output:.1e} of the largest", flush=True)
                rivals.pop().close()
    except BaseException:
        for rival in rivals:
            rival.close()
        raise
    return rivals


def time_in_turn(rivals: list[Rival], rounds: int, pass_ms: float) -> list[Rival]:
    """Passes of each runtime in every round; what warms up and says how many calls a pass has is left out.

    Returns:
        Those that lived to the end: a runtime of others whose process dies is left out with a message.

    Raises:
        RuntimeUnavailableError: ours or ONNX Runtime's died.
    """
    alive = list(rivals)

    def timed(rival: Rival, calls: int) -> float:
        try:
            return rival.pass_ms(calls)
        except (RuntimeUnavailableError, BrokenPipeError) as error:
            if rival.name in (OURS, REFERENCE):
                raise RuntimeUnavailableError(f"the process of {rival.name} died: {error}") from error
            print(f"{rival.name} is left out, its process died: {error}", flush=True)
            alive.remove(rival)
            return 0.0

    for rival in rivals:
        timed(rival, 3)
        if rival in alive:
            rival.calls = max(2, round(pass_ms / max(timed(rival, 3), 1e-3)))
    for number in range(rounds):
        for rival in list(alive if number % 2 else reversed(alive)):
            rival.times_ms.append(timed(rival, rival.calls))
    return alive


def show(arch: str, rivals: list[Rival]) -> None:
    """A line per runtime."""
    ours = next(rival for rival in rivals if rival.name == OURS)
    report_figure(f"{arch}, ours", ours.times_ms, "ms", better="lower")
    for rival in rivals:
        ratios = np.array(ours.times_ms) / np.array(rival.times_ms)
        low, middle, high = np.percentile(ratios, (10, 50, 90))
        print(
            f"{rival.name:13} {rival.version:14} {min(rival.times_ms):8.3f} ms, median {np.median(rival.times_ms):8.3f}"
            + ("" if rival is ours else f"; ours over it {middle:.3f} ({low:.3f} to {high:.3f}), fastest passes ")
            + ("" if rival is ours else f"{min(ours.times_ms) / min(rival.times_ms):.3f}"),
            flush=True,
        )
        if rival is not ours:
            what, fastest = f"{arch}, ours over {rival.name} {rival.version}", min(ours.times_ms) / min(rival.times_ms)
            report_figure(what, ratios, "ratio", better="lower")
            report_figure(f"{what}, fastest passes", fastest, "ratio", better="lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--target", default="host")
    parser.add_argument("--wheels", type=Path, default=Path("benchmark_inputs/rivals"), help="where rivals.txt is")
    parser.add_argument("--runtimes", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--pass-ms", type=float, default=60.0)
    parser.add_argument("--serve", choices=list(RUNTIMES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, RivalNet(options.folder, options.space, options.arch, options.wheels))
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, core_numbers()[-1:])  # the processes inherit it
    with TemporaryDirectory() as folder:
        net = RivalNet(Path(folder), options.space, options.arch, options.wheels.resolve())
        try:
            write_net(net, options.target)
            rivals = start(options.runtimes, net)
        except UserError as error:
            parser.exit(2, f"error: {error}\n")
        try:
            alive = time_in_turn(rivals, options.rounds, options.pass_ms)
        except UserError as error:
            parser.exit(2, f"error: {error}\n")
        finally:
            for rival in rivals:
                rival.close()
        show(options.arch, alive)


if __name__ == "__main__":
    with as_command():
        main()
