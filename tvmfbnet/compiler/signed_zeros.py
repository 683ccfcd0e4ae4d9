"""Lets LLVM ignore the sign of zeros in kernels for ARM.

A tile's sums begin at 0. If 0 + x need not be +0 for x = -0, the first product is a multiplication instead of a zeroed
register and a multiply-add: one instruction less for each sum, which is a twelfth of a depthwise 3x3 tile. Nothing else
changes; sums are not reordered. Kernels for x86 stay as they are.
"""

from __future__ import annotations

import tvm

from tvmfbnet.compiler.llvm_options import with_options
from tvmfbnet.compiler.stack_buffers import is_x86


def ignore_signed_zeros(target: tvm.target.Target) -> tvm.target.Target:
    """The target that kernels are compiled for: as given for x86 and GPUs."""
    if target.kind.name != "llvm" or is_x86(target):
        return target
    return with_options(target, fast_math_nsz=True)
