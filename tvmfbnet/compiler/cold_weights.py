"""Calls a kernel repeatedly, each time with the next slice of a weight pool, to time it with cold weights.

Tuning trials time kernels in isolation. In a hot loop the weights stay in the nearest cache, so the schedule that is
fastest with hot weights wins; in a net they come from further away. Cycling through a pool that does not fit the
nearest cache times, and so selects for, the conditions in a net.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache

import tvm
from tvm import tirx
from tvm.ir import IRModule
from tvm.tirx import op

from tvmfbnet.compiler.unchecked import unchecked
from tvmfbnet.dtypes import bytes_of
from tvmfbnet.rpc.session import CHECKED, ROTATE, Pool
from tvmfbnet.scratch import scratch_folder

# Number of output positions up to which the source of the weights matters.
_FEW_USES = 8 * 8
# Symbol of the exported function ``main`` in a library.
_MAIN_SYMBOL = "__tvm_ffi_main"
# A slice starts at a cache line, as a separate tensor would.
_LINE = 64


def pool_for(mod: IRModule, pool_bytes: float) -> Pool | None:
    """The pool that a kernel with prepacked weights should cycle through; None if cold weights make no difference.

    Args:
        mod: a scheduled kernel that takes its weights in the schedule's layout.
        pool_bytes: pool size, well beyond the nearest cache.
    """
    main = mod["main"]
    free = [int(index) for index in main.attrs.get("layout_free_buffers", [])]
    if not free:
        return None
    largest = max(free, key=lambda index: _values(main.params[index]))  # the others are biases
    weights, output = main.params[largest], main.params[len(main.params) - 1]
    size = bytes_of(weights.dtype)
    one = _padded(_values(weights), size)
    slices = math.ceil(pool_bytes / (size * one))
    # A weight used at many positions is loaded once and reused, so its source hardly matters.
    uses = math.prod(int(size) for size in output.shape[:-1])
    return Pool(largest, slices, slices * one) if slices > 1 and uses <= _FEW_USES else None


def _values(buffer: tirx.Buffer) -> int:
    return math.prod(int(size) for size in buffer.shape)


def _padded(values: int, size: int) -> int:
    """Values of a slice that ends at a cache line; ``size`` is the bytes of one."""
    return math.ceil(size * values / _LINE) * _LINE // size


def rotation_of(arguments: Sequence[tuple[str, int]], pool: Pool) -> IRModule:
    """A module with ``rotate``, which takes the pool as weights and calls a kernel's ``main`` once per slice.

    It must be built separately and linked with the kernel: in a single module LLVM inlines the kernel, loses the
    information that its arguments do not alias, and the kernel runs at two thirds of its speed.

    Arguments are passed as vectors, whatever the kernel calls their shapes, so that all schedules of a kernel share one
    rotation. It and ``main`` must therefore be built without checks (:mod:`tvmfbnet.compiler.unchecked`).

    Args:
        arguments: (dtype, number of values) of each argument of ``main``.
        pool: to cycle through.
    """
    one = pool.values // pool.slices
    number, taken, passed = tirx.Var("number", "int32"), [], []
    for index, (dtype, values) in enumerate(arguments):
        rotates = index == pool.argument
        argument = tirx.decl_buffer((pool.values if rotates else values,), dtype, f"argument{index}", layout=None)
        taken.append(argument)
        address = op.address_of(argument[number * one if rotates else 0])
        shape = op.tvm_stack_make_shape(one if rotates else values)
        passed.append(op.tvm_stack_make_array(address, shape, 0, 1, dtype, 0))
    call = op.call_cpacked(_MAIN_SYMBOL, *passed)
    body = tirx.For(number, 0, pool.slices, tirx.ForKind.SERIAL, tirx.Evaluate(call))
    function = tirx.PrimFunc(taken, body).with_attr("global_symbol", ROTATE)
    return tvm.IRModule({ROTATE: function})


def rotation_object(mod: IRModule, pool: Pool, target_json: str) -> bytes:
    """The object file of a scheduled kernel's rotation; built once for all schedules of a kernel."""
    values = [_values(buffer) for buffer in mod["main"].params]
    values[pool.argument] = pool.values  # without a schedule's own padding of the weights
    dtypes = [str(buffer.dtype) for buffer in mod["main"].params]
    return _rotation_object(tuple(zip(dtypes, values, strict=True)), pool, target_json)


@lru_cache(maxsize=256)
def _rotation_object(arguments: tuple[tuple[str, int], ...], pool: Pool, target_json: str) -> bytes:
    with unchecked(), scratch_folder() as folder:
        built = tirx.build(rotation_of(arguments, pool), target=tvm.target.Target(json.loads(target_json)))
        built.write_to_file(str(folder / "rotation.o"))
        return (folder / "rotation.o").read_bytes()


def checked_of(scheduled: IRModule) -> IRModule:
    """A module with ``checked``: the kernel with its prepacking, for arguments as they are before that.

    Built separately for the same reason as the rotation.
    """
    return tvm.IRModule({CHECKED: scheduled["main"].with_attr("global_symbol", CHECKED)})
