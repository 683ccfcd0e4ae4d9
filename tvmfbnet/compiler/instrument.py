"""Instrumented chains of lowered parts: times each part inside a net by reading a clock between parts.

A part timed alone in a loop finds its weights, input and output in the caches; in a net the other layers have evicted
them since the last image. So parts are chained into whole nets, exactly as a compiled net calls their kernels, and a
clock is read at every border. The clock is a kernel of the library itself, so this works for any CPU behind any RPC
server.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import tvm
from tvm import relax, te, topi
from tvm.ir import IRModule
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvmfbnet.compiler.inline import splice
from tvmfbnet.compiler.intrinsics import cheap_stacks
from tvmfbnet.errors import UserError
from tvmfbnet.targets.tvm_target import compiles_for_cpu

# clockid_t of CLOCK_MONOTONIC; on Apple, CLOCK_UPTIME_RAW is the one with nanosecond resolution.
_MONOTONIC, _APPLE_UPTIME_RAW = 1, 8


def chain_nets(nets: Sequence[Sequence[IRModule]], target: tvm.target.Target) -> IRModule:
    """One module with a function per net, named by :func:`net_function`; nets share common kernels.

    Each function runs its parts in sequence. It returns the output and clock readings: (parts + 2, 2) int64, seconds
    and nanoseconds before the first part, after each part, and once more at the end, so that the last two give the cost
    of reading the clock.

    Args:
        nets: the lowered parts of each net in order (see :func:`tvmfbnet.compiler.lowering.lower`).
        target: to compile for; a CPU.

    Raises:
        UserError: the target is not a CPU.
    """
    if not compiles_for_cpu(target):
        raise UserError(f"only CPU targets have a clock to read between kernels, not {target.kind.name}")
    builder = relax.BlockBuilder()
    for number, parts in enumerate(nets):
        _emit_net(builder, net_function(number), parts, target)
    return builder.get()


def net_function(number: int) -> str:
    """The name of a net's function in a module of :func:`chain_nets`."""
    return f"net{number}"


def _emit_net(builder: relax.BlockBuilder, name: str, parts: Sequence[IRModule], target: tvm.target.Target) -> None:
    (given,) = parts[0]["main"].params
    source = relax.Var("input", given.ty)
    readings: list[relax.Expr] = []
    with builder.function(name, [source]):
        with builder.dataflow():
            value: relax.Expr = source
            values = [value]
            readings.append(_read_clock(builder, value, target))
            for number, part in enumerate(parts):
                given = _fitting(values, part)
                value = splice(builder, part, given, number=sum(part is other for other in parts[:number]))
                values.append(value)
                readings.append(_read_clock(builder, value, target))
            readings.append(_read_clock(builder, value, target))
            output = builder.emit_output(relax.Tuple([value, _gathered(builder, readings)]))
        builder.emit_func_output(output)


def _fitting(values: Sequence[relax.Expr], part: IRModule) -> relax.Expr:
    """The value that a part takes: the last one, or the last of its shape and type where the head goes back.

    Pooling returns (1, C, 1, 1), and the classifier takes (1, C): that is reshaped.
    """
    (given,) = part["main"].params
    wanted = [int(size) for size in given.ty.shape.values]
    fitting = [
        value
        for value in values
        if [int(size) for size in value.ty.shape.values] == wanted and value.ty.dtype == given.ty.dtype
    ]
    return fitting[-1] if fitting else relax.op.reshape(values[-1], wanted)


def _read_clock(builder: relax.BlockBuilder, value: relax.Expr, target: tvm.target.Target) -> relax.Expr:
    """Emits a clock reading; its dependency on ``value`` orders it after that."""
    clockid = _APPLE_UPTIME_RAW if "apple" in str(target.attrs.get("mtriple", "")) else _MONOTONIC
    shape = tuple(int(size) for size in value.ty.shape.values)
    kernel = builder.add_func(_clock(shape, str(value.ty.dtype), clockid), "clock")
    return builder.emit(relax.call_tir(kernel, [value], relax.TensorType((1, 2), "int64")))


@cache  # TVM's parsing takes longer than everything else here
@cheap_stacks()
def _clock(shape: tuple[int, ...], dtype: str, clockid: int) -> PrimFunc:
    @T.prim_func(s_tir=True, private=True)  # type: ignore[untyped-decorator]
    def clock(a: T.handle, b: T.handle):  # type: ignore[no-untyped-def]
        value = T.match_buffer(a, shape, dtype)
        reading = T.match_buffer(b, (1, 2), "int64")
        # struct timespec is two 64-bit integers on every 64-bit system.
        for row in range(1):
            with T.sblock("clock"):
                T.axis.spatial(1, row)
                T.reads(value[0:1])
                T.writes(reading[0:1, 0:2])
                T.evaluate(T.call_extern("int32", "clock_gettime", clockid, reading.data))

    return clock


def _gathered(builder: relax.BlockBuilder, readings: Sequence[relax.Expr]) -> relax.Expr:
    placeholders = [te.placeholder((1, 2), "int64", f"reading{number}") for number in range(len(readings))]
    kernel = te.create_prim_func([*placeholders, topi.concatenate(placeholders, axis=0)])
    name = builder.add_func(kernel, "gather_readings")
    return builder.emit(relax.call_tir(name, list(readings), relax.TensorType((len(readings), 2), "int64")))
