"""The memory of a compiled net, read from its module: the peak of its static memory plan, and the bytes of its weights.

The plan is made by TVM's own passes, those that the library is built with, and so is what it says: which storages there
are, and from which kernel to which each lasts. A storage goes when it and all tensors in it have been killed.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.ir import IRModule

from tvmfbnet.dtypes import bytes_of


@dataclass(frozen=True)
class NetMemory:
    """What a net takes besides its kernels' code.

    Attributes:
        peak_bytes: most that its activations take at once, its output included; its input is the caller's, and
            buffers within kernels are not planned.
        storages: bytes of every storage that one inference allocates, in order.
        weight_bytes: of all constants that its kernels read.
    """

    peak_bytes: int
    storages: tuple[int, ...]
    weight_bytes: int


def net_memory(planned: IRModule) -> NetMemory:
    """The memory of a module.

    Args:
        planned: as :func:`tvmfbnet.compiler.lowering.plan_memory` gives it.
    """
    reader = _Reader()
    for block in planned["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                reader.read(binding.var, binding.value)
    return NetMemory(reader.peak, tuple(reader.sizes.values()), sum(reader.weights.values()))


class _Reader:
    """Follows a function binding by binding."""

    def __init__(self) -> None:
        self.peak = 0
        self.sizes: dict[relax.Var, int] = {}
        self.weights: dict[relax.Expr, int] = {}
        self._storages: dict[relax.Var, relax.Var] = {}  # of each tensor, of each storage itself
        self._holders: dict[relax.Var, set[relax.Var]] = {}

    def read(self, var: relax.Var, call: relax.Call) -> None:
        """Takes one binding of a call into account."""
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name == "relax.memory.alloc_storage":
            self.sizes[var] = int(call.args[0].values[0])
            self._holders[var] = set()
            self._hold(var, var)
        elif name in ("relax.memory.alloc_tensor", "relax.reshape"):
            self._hold(var, call.args[0])
        elif name in ("relax.memory.kill_tensor", "relax.memory.kill_storage"):
            self._release(call.args[0])
        elif not name:
            self._count_weights(call)
        self.peak = max(self.peak, sum(self.sizes[storage] for storage, users in self._holders.items() if users))

    def _hold(self, var: relax.Var, source: relax.Var) -> None:
        storage = var if var == source else self._storages.get(source)
        if storage is not None:  # the image has none
            self._storages[var] = storage
            self._holders[storage].add(var)

    def _release(self, var: relax.Var) -> None:
        if var in self._storages:
            self._holders[self._storages[var]].discard(var)

    def _count_weights(self, call: relax.Call) -> None:
        for argument in call.args:
            if isinstance(argument, tvm.ir.GenericConst):
                array = argument.value
                elements = 1
                for size in array.shape:
                    elements *= int(size)
                self.weights[argument] = elements * bytes_of(array.dtype)
