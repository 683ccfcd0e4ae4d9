"""The error bound of sums in half: a schedule that rounds too much is a failed trial, and is never kept.

Adding up in half is about twice as fast as in float32 and loses digits with every product, so whether it may be used
depends on the kernel's length. Each candidate with sums in half is run once on the device, on fixed random data, beside
its timing. Its output is compared with that of the same kernel without a schedule, compiled for this machine, whose
sums are in float32. A candidate beyond :data:`LIMIT` counts as failed, of the kind ``inexact``: it gets no time, so it
enters neither the database nor a net.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.dtypes import random_tensor
from tvmfbnet.rpc.session import Arguments
from tvmfbnet.targets.cpu_features import native_cpu

# Largest relative error of a kernel's output (max |difference| / max |output|). A fifth of what a whole net may differ
# from PyTorch by: chunks of 32 products stay below it, whole sums of about a hundred do not.
LIMIT = 2e-3


@dataclass(frozen=True)
class OutputReference:
    """What a kernel gives for fixed random data.

    Attributes:
        arguments: (dtype, shape) of each argument as the unscheduled kernel takes them, the output last.
        output: for ``random_tensor(shape, dtype, index)`` as arguments.
        limit: largest relative error.
    """

    arguments: Arguments
    output: npt.NDArray[np.generic]
    limit: float


class FloatSums:
    """The reference of one kernel, computed when a candidate first needs it.

    Args:
        kernel: without a schedule, with its sums in float32.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @cached_property
    def reference(self) -> OutputReference:
        """The output on this machine's CPU."""
        mod = self._kernel.mod
        infos = ArgInfo.from_prim_func(mod["main"])
        arguments = tuple((str(info.dtype), tuple(int(size) for size in info.shape)) for info in infos)
        mcpu, mattr = native_cpu()
        here = tvm.target.Target({"kind": "llvm", "mcpu": mcpu, "mattr": list(mattr)})
        run = tvm.driver.build(mod, target=here)["main"]
        tensors = [
            tvm.runtime.tensor(random_tensor(shape, dtype, index), tvm.cpu())
            for index, (dtype, shape) in enumerate(arguments)
        ]
        run(*tensors)
        return OutputReference(arguments, tensors[-1].numpy(), LIMIT)
