"""From a schedule to what is compiled: the passes that every scheduled kernel goes through, in trials and in nets.

A trial says something about a net only where both get the same code. So tuning, compiling, and what looks at that code
take the same way.
"""

from __future__ import annotations

import tvm
from tvm.ir import IRModule
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.compiler.border_loops import cut_borders
from tvmfbnet.compiler.signed_zeros import ignore_signed_zeros
from tvmfbnet.compiler.stack_buffers import use_stack
from tvmfbnet.compiler.wide_sums import narrow_half_sums


def without_prepacking(mod: IRModule) -> IRModule:
    """A scheduled kernel that takes its weights as the schedule reads them, as inside a net."""
    return RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)


def for_codegen(mod: IRModule, target: tvm.target.Target) -> tuple[IRModule, tvm.target.Target]:
    """What is built of scheduled kernels, and the target it is built for.

    Sums that are kept in half are added up in half, local buffers lie on the stack, and loops are cut at the image's
    borders; other functions stay as they are. On ARM, signs of zeros do not matter.
    """
    return cut_borders(use_stack(narrow_half_sums(mod), target)), ignore_signed_zeros(target)
