"""A kernel called several times in a row, each time with the next slice of a pool of weights.

Tuning trials time kernels alone. In a hot loop a kernel finds its weights in the nearest cache, so the schedule that
wins is the one that is fastest with hot weights; in a net they come from further away. Going around a pool that the
nearest cache does not hold times, and so chooses, what a net will see.
"""

from __future__ import annotations

import math

import tvm
from tvm import tirx
from tvm.ir import IRModule
from tvm.tirx import op

from tvmfbnet.rpc.session import ROTATE, Pool

# Output positions up to which the way that weights come from counts.
_FEW_USES = 8 * 8
# What the exported function ``main`` is called in a library.
_MAIN_SYMBOL = "__tvm_ffi_main"
# A slice starts at a cache line, as a tensor of its own would.
_LINE = 64


def pool_for(mod: IRModule, pool_bytes: float) -> Pool | None:
    """The pool that a kernel with prepacked weights should go around; None where its weights make no difference.

    Args:
        mod: a scheduled kernel that takes its weights in the schedule's own layout.
        pool_bytes: what the nearest cache surely does not hold.
    """
    main = mod["main"]
    free = [int(index) for index in main.attrs.get("layout_free_buffers", [])]
    if not free:
        return None
    largest = max(free, key=lambda index: _values(main.params[index]))  # the others are biases
    weights, output = main.params[largest], main.params[len(main.params) - 1]
    one = _padded(_values(weights))
    slices = math.ceil(pool_bytes / (4 * one))
    # A weight that serves many positions is loaded once and used often: where it comes from hardly matters.
    uses = math.prod(int(size) for size in output.shape[:-1])
    return Pool(largest, slices, slices * one) if slices > 1 and uses <= _FEW_USES else None


def _values(buffer: tirx.Buffer) -> int:
    return math.prod(int(size) for size in buffer.shape)


def _padded(values: int) -> int:
    return math.ceil(4 * values / _LINE) * _LINE // 4


def rotation_of(mod: IRModule, pool: Pool) -> IRModule:
    """A module with ``rotate``, which takes the pool for weights and calls a kernel's ``main`` once a slice.

    It is to be built by itself and linked with the kernel: in one module LLVM inlines the kernel into it, forgets that
    its arguments do not overlap, and the kernel runs at two thirds of its speed.
    """
    main = mod["main"]
    arguments = []
    for index, buffer in enumerate(main.params):
        shape = (pool.values,) if index == pool.argument else tuple(buffer.shape)
        arguments.append(tirx.decl_buffer(shape, buffer.dtype, f"argument{index}", layout=None))
    number = tirx.Var("number", "int32")
    one = pool.values // pool.slices
    passed = [
        _tensor(argument, buffer, number * one if index == pool.argument else 0)
        for index, (argument, buffer) in enumerate(zip(arguments, main.params, strict=True))
    ]
    call = op.call_cpacked(_MAIN_SYMBOL, *passed)
    body = tirx.For(number, 0, pool.slices, tirx.ForKind.SERIAL, tirx.Evaluate(call))
    function = tirx.PrimFunc(arguments, body).with_attr("global_symbol", ROTATE)
    return tvm.IRModule({ROTATE: function})


def _tensor(argument: tirx.Buffer, like: tirx.Buffer, offset: tirx.PrimExpr | int) -> tirx.PrimExpr:
    """A tensor on the stack: the argument's memory from ``offset`` on, in the shape that ``main`` takes."""
    first = [offset] + [0] * (len(argument.shape) - 1)
    shape = op.tvm_stack_make_shape(*like.shape)
    return op.tvm_stack_make_array(op.address_of(argument[tuple(first)]), shape, 0, len(like.shape), like.dtype, 0)
