"""Tunes a whole space on an emulated device, then compares every part's output with ONNX Runtime's in float32.

The parts run with the kernels that tuning found, over a real tracker, in the device's own process: an aarch64 one under
qemu (``qemu_arm``) or OpenCL on PoCL (``pocl``). Prints each part's largest error relative to its largest output, and a
verdict; exit code 1 when one is above its dtype's limit or anything failed. Nothing here says how fast anything is.
Errors of int8 parts are in steps of the output's scale, relative to the same quantised part.

    python benchmarks/emulated_space.py qemu_arm
    python benchmarks/emulated_space.py pocl --trials 300
    python benchmarks/emulated_space.py qemu_arm --dtype float16 --cpu cortex-a76 --trials 1 --batch 2
    python benchmarks/emulated_space.py qemu_arm --dtype int8 --cpu cortex-a53 --trials 1 --batch 2
    python benchmarks/emulated_space.py qemu_arm --dtype int8 --cpu max --space fbnet --arch fbnet_a --untimed
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from figures import report_figure

from tvmfbnet.autotune.database import TuningDatabase, existing_database
from tvmfbnet.autotune.engine import tune
from tvmfbnet.autotune.engine_options import Budget, EngineOptions, TuningReport
from tvmfbnet.autotune.plan import Plan
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.dot_products import dot_product_of
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, coverage
from tvmfbnet.compiler.shapes import part_input_shape, part_input_type
from tvmfbnet.deploy.runtimes.onnx_runtime import import_onnxruntime
from tvmfbnet.dtypes import FLOAT32, random_tensor
from tvmfbnet.files import make_folder
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.pipeline.tuning import granted_trials, plan_space, tune_space
from tvmfbnet.pipeline.tuning_options import TuneOptions
from tvmfbnet.progress import progress
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.device_context import ask_context
from tvmfbnet.rpc.device_facts import device_facts
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import run_library
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import HEAD_LINEAR, STEM, NetPart, Space
from tvmfbnet.targets.definition import ResolvedTarget, Target, load_target

# Of float32 parts; other dtypes may differ by their parity limit.
LIMIT = 1e-4
# The emulator's CPU with every feature, by one that LLVM knows: with fullfp16, dotprod and i8mm.
COMPILED_FOR = {"max": "cortex-a710"}
# Of int8 parts: a value between two codes may be rounded either way.
STEPS = 1.001


def emulating(target: Target, cpu: str | None) -> Target:
    """An emulated target with another CPU of the emulator, such as ``cortex-a76``."""
    if cpu is None:
        return target
    old = str(target.tvm["mcpu"])
    emulator = tuple(cpu if word == old else word for word in target.transport.emulator)
    transport = target.transport.model_copy(update={"emulator": emulator})
    return target.model_copy(update={"tvm": {**target.tvm, "mcpu": COMPILED_FOR.get(cpu, cpu)}, "transport": transport})


def halves(database: TuningDatabase) -> tuple[int, int]:
    """How many kernels' fastest schedules keep their sums in half, and how many kernels there are."""
    records = database.records.get_all_tuning_records()
    narrowed = [record for record in records if "unsafe_set_dtype" in str(record.trace)]
    return len(narrowed), len(records)


def int8_error(part: NetPart, model: Any, target: ResolvedTarget, run: Callable[[Any], Any]) -> float:
    """How many steps of its output's scale a part in int8 is off its quantised model in ONNX Runtime."""
    reference, dot = QuantisedReference(model), dot_product_of(target.for_tvm())
    image = random_tensor(part_input_shape(part), "float32")
    source, expected = image, reference.run(image)
    if part.part != STEM:
        source = (reference.input_codes(image).astype("int32") - dot.offset).astype(dot.codes)
    got = run(source).astype("float64")
    if part.part != HEAD_LINEAR:
        return float(np.abs(got + dot.offset - reference.output_codes(expected)).max())
    return float(np.abs(got - expected).max() / reference.output_scale)


def compare(plan: Plan, database: TuningDatabase) -> tuple[dict[str, float], int, dict[str, str]]:
    """Every part's largest relative error, how many kernels lacked a schedule, what the device says about itself."""
    target = plan.target
    compiled_for = target.for_tvm()
    dtype = target.data_type
    models = export_parts(list(plan.parts), dtype if dtype.is_quantised else FLOAT32)
    errors: dict[str, float] = {}
    missing: set[str] = set()
    with (
        connect_device(target) as endpoint,
        worker_for(target, endpoint) as worker,
        TemporaryDirectory() as folder,
        progress("comparing parts with ONNX Runtime", len(models)) as reporter,
    ):
        facts = worker.call(device_facts, seconds=target.timeouts.session)
        for number, (part, model) in enumerate(models.items()):
            missing |= set(coverage(plan.parts[part], compiled_for, database.records).missing)
            library = Path(folder) / f"part{number}.so"
            save_library(build(plan.parts[part], compiled_for, database.records), library, target)

            def on_device(image: Any, library: Path = library) -> Any:
                return worker.call(run_library, str(library), [image], seconds=target.timeouts.session)

            if dtype.is_quantised:
                errors[part.name] = int8_error(part, model, target, on_device)
            else:
                image = random_tensor(part_input_shape(part), part_input_type(part, dtype), number)
                session = import_onnxruntime().InferenceSession(
                    model.SerializeToString(), providers=["CPUExecutionProvider"]
                )
                expected = session.run(None, {"input": image.astype(np.float32)})[0]
                errors[part.name] = relative_error(on_device(image), expected)
            library.unlink()
            reporter.advance()
    return errors, len(missing), facts


def tune_alone(plan: Plan, options: TuneOptions, root: Path) -> TuningReport:
    """Tunes the kernels of a plan, and times no parts."""
    folder = make_folder(target_folder(plan.target.name, root))
    budget = Budget(granted_trials(plan, options), options.seconds)
    with target_lock(folder), connect_device(plan.target) as address:
        context, endpoint = ask_context(plan.target, address)
        return tune(plan, endpoint, folder, budget, EngineOptions(options.seed, options.batch), context)


def run(space: Space, target: Target, options: TuneOptions, root: Path, timed: bool) -> dict[str, Any]:
    """Tunes (resumable), compares, and prints the result."""
    started = time.monotonic()
    chosen, own = (None, space) if options.arch is None else resolve_arch(options.arch, space)
    plan = plan_space(own, target, arch=chosen, folder=make_folder(target_folder(target.name, root)))
    if timed:
        outcome = tune_space(space, target, options, root)
        report, parts = outcome.report, outcome.parts
    else:
        report, parts = tune_alone(plan, options, root), len(plan.parts)
    database, limit = existing_database(plan.target, root), LIMIT
    if target.dtype != FLOAT32.name:
        limit = STEPS if target.data_type.is_quantised else target.data_type.parity_limit
    errors, missing, facts = compare(plan, database)
    worst = max(errors, key=errors.__getitem__)
    good = errors[worst] <= limit and not report.untuned and parts == len(errors)
    return {
        "target": target.name,
        "cpu": target.tvm.get("mcpu"),
        "dtype": target.dtype,
        "schedules_with_sums_in_half": halves(database),
        "space": space.name,
        "machine": facts.get("machine", ""),
        "tuning_tasks": len(plan.tasks),
        **{key: value for key, value in asdict(report).items() if key != "profile"},
        "parts_timed": parts if timed else 0,
        "parts_compared": len(errors),
        "kernels_without_schedule": missing,
        "errors": {name: float(f"{error:.2g}") for name, error in errors.items()},
        "worst": [worst, float(f"{errors[worst]:.2g}")],
        "limit": limit,
        "verdict": "every part equals ONNX Runtime" if good else "NOT every part equals ONNX Runtime",
        "whole_seconds": round(time.monotonic() - started),
    }


def main() -> None:
    """Prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", help="qemu_arm, pocl, or any other that can be reached")
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--arch", help="only the blocks of this arch; default: of the whole space")
    parser.add_argument("--untimed", action="store_true", help="tune and compare only: times of blocks mean nothing")
    parser.add_argument("--dtype", default=FLOAT32.name)
    parser.add_argument("--cpu", help="emulate this one, such as cortex-a76; default: the target's")
    parser.add_argument("--batch", type=int, default=8, help="trials that each task gets at least")
    parser.add_argument("--trials", type=int, help="in all; default: one round a task")
    parser.add_argument("--tuning-logs", type=Path, help="keep (or resume from) tuning logs here; default: discarded")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="tvmfbnet-") as folder:
        root = options.tuning_logs or Path(folder)
        target = emulating(load_target(f"{options.target},dtype={options.dtype}"), options.cpu)
        chosen = TuneOptions(trials=options.trials, batch=options.batch, quality="quick", arch=options.arch)
        result = run(load_space(options.space), target, chosen, root, timed=not options.untimed)
    name = f"{options.target}, {options.dtype}, largest error of a part over its limit"
    report_figure(name, result["worst"][1] / result["limit"], "ratio", better="lower")
    name = f"{options.target}, {options.dtype}, failed trials"
    report_figure(name, sum(result["failures"].values()), "count", better="lower")
    print(json.dumps(result, indent=1))
    sys.exit(0 if str(result["verdict"]).startswith("every") else 1)


if __name__ == "__main__":
    with as_command():
        main()
