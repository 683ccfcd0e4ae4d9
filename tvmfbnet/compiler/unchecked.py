"""Builds functions that do not check their arguments, for what is timed once and discarded.

TVM surrounds every function with checks of each argument's type, shape, strides, device and alignment, and with the
message of each. They are most of a small kernel's object and half of its build time. Trials, timed nets and the kernels
that TVM builds to fold constants get their arguments from this package, which made them for the kernel; shipped nets
keep the checks. The kernel's own code is a function of its own and is the same either way.
"""

from __future__ import annotations

import tvm

UNCHECKED = {"tirx.disable_assert": True}


def unchecked() -> tvm.transform.PassContext:
    """A context in which functions are built so; for passes at TVM's default level."""
    return tvm.transform.PassContext(config=UNCHECKED)
