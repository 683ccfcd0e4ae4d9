"""How much a kernel's output is off when it adds up in half: as a whole, and in chunks whose sums are in float32.

Each conv kernel of a space in float16 gets one schedule of each kind and runs on this machine on the fixed random data
of the tuning's check. Prints, by the number of products of a sum, the largest error relative to the largest output of
the same kernel with float32 sums. x86 rounds each product before it is added, which CPUs with half arithmetic do not.

With ``--arch`` it compiles that net instead, with random weights, once with float32 sums and once with all its sums in
half as tuning may choose them, and prints how far its outputs are from PyTorch's in float32.

    python benchmarks/half_sums.py --space fbnet_mini
    python benchmarks/half_sums.py --space fbnet --arch fbnet_c
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import tvm
from figures import report_figure
from tvm import relax
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.autotune.candidate import argument_infos
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.half_sums import LIMIT, FloatSums
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.registers import Registers
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.export import export_net, export_parts
from tvmfbnet.compiler.lowering import Kernel, build, kernels_of, lower
from tvmfbnet.compiler.wide_sums import narrow_half_sums
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.deploy.parity import expected_outputs, parity_inputs
from tvmfbnet.dtypes import FLOAT16, random_tensor
from tvmfbnet.progress import progress, step
from tvmfbnet.relative_error import relative_error
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


def ways(shape: KernelShape, registers: Registers) -> dict[str, Knobs]:
    """One schedule that sums up in half as a whole, and one of each length of chunks."""
    narrowed = [knobs for knobs in all_knobs(shape, registers) if knobs.sum_bytes]
    typical = narrowed[len(narrowed) // 2]
    chunks = sorted({knobs.chunk for knobs in narrowed if knobs.chunk})
    return {
        "whole": replace(typical, chunk=0),
        **{f"chunks of {chunk}": replace(typical, chunk=chunk) for chunk in chunks},
    }


def error(kernel: Kernel, shape: KernelShape, knobs: Knobs, floats: FloatSums, target: tvm.target.Target) -> float:
    """The relative error of one schedule's output."""
    scheduled = narrow_half_sums(apply_knobs(kernel.mod, shape, knobs).mod)
    arguments = [
        tvm.runtime.tensor(random_tensor(size, dtype, index), tvm.cpu())
        for index, (dtype, size) in enumerate(floats.reference.arguments)
    ]
    tvm.driver.build(scheduled, target=target)["main"](*arguments)
    return relative_error(arguments[-1].numpy(), floats.reference.output)


def errors_of_kernels(name: str, target: tvm.target.Target, registers: Registers) -> dict[str, Any]:
    """The largest error by the number of products of a sum."""
    models = export_parts(load_space(name).distinct_parts(), FLOAT16).values()
    kernels = {kernel.key: kernel for model in models for kernel in kernels_of(lower(model, target), target)}
    convs = [(kernel, shape_of(kernel.mod)) for kernel in kernels.values() if kernel.is_conv]
    errors: dict[int, dict[str, float]] = defaultdict(dict)
    with progress("running kernels", len(convs)) as reporter:
        for kernel, shape in convs:
            floats, products = FloatSums(kernel), shape.reduction * shape.kernel**2
            for way, knobs in ways(shape, registers).items():
                worst = max(errors[products].get(way, 0.0), error(kernel, shape, knobs, floats, target))
                errors[products][way] = float(f"{worst:.2g}")
            reporter.advance()
    by_products = {str(products): errors[products] for products in sorted(errors)}
    return {"space": name, "kernels": len(convs), "limit": LIMIT, "errors": by_products}


def errors_of_net(name: str, arch: str, target: tvm.target.Target, registers: Registers) -> dict[str, Any]:
    """The largest relative error of a whole net for the images of the parity check, by the type of its sums."""
    chosen, space = resolve_arch(arch, load_space(name))
    net = untrained_net(chosen, space)
    shape = (1, space.input_channels, space.height, space.width)
    lowered = lower(export_net(net.eval(), FLOAT16), target)
    kernels = [(kernel, shape_of(kernel.mod)) for kernel in kernels_of(lowered, target) if kernel.is_conv]
    images = parity_inputs(shape, FLOAT16)
    expected = [output for (output,) in expected_outputs(net, shape, FLOAT16)]
    errors = {}
    for sums, narrowed in (("float32", False), ("float16", True)):
        database = ms.database.MemoryDatabase()
        for kernel, kernel_shape in kernels:
            typical = [knobs for knobs in all_knobs(kernel_shape, registers) if bool(knobs.sum_bytes) == narrowed]
            schedule = apply_knobs(kernel.mod, kernel_shape, typical[len(typical) // 2])
            record = (schedule.trace, database.commit_workload(kernel.mod), [1e-3], target, argument_infos(schedule))
            database.commit_tuning_record(ms.database.TuningRecord(*record))
        with step(f"compiling with {sums} sums"):
            run = relax.VirtualMachine(build(lowered, target, database).jit(), tvm.cpu())["main"]
        got = [run(tvm.runtime.tensor(image, tvm.cpu())).numpy() for image in images]
        errors[sums] = max(relative_error(*pair) for pair in zip(got, expected, strict=True))
    return {"arch": arch, "kernels": len(kernels), "limit": FLOAT16.parity_limit, "errors": errors}


def main() -> None:
    """Prints the errors as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--arch", help="a net to compile instead, such as fbnet_c")
    options = parser.parse_args()
    target = resolve(load_target("host")).for_tvm()
    registers = replace(registers_of(target), halves=True)
    if options.arch is None:
        result = errors_of_kernels(options.space, target, registers)
        for way in ("whole", "chunks of 16", "chunks of 32"):
            errors = [errors[way] for errors in result["errors"].values() if way in errors]
            if errors:
                name = f"{options.space}, sums in half, {way}, largest error"
                report_figure(name, 100 * max(errors), "%", better="lower", exact=True)
    else:
        result = errors_of_net(options.space, options.arch, target, registers)
        for sums, error_of_net in result["errors"].items():
            name = f"{options.arch}, sums in {sums}, error"
            report_figure(name, 100 * error_of_net, "%", better="lower", exact=True)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    with as_command():
        main()
