"""What TVM's runtime allocates while a net runs on this machine, asked from its allocator call by call.

The naive allocator takes each storage from the system as it is and gives it back when its last tensor goes, so that
what it has in use is what the memory plan says, byte for byte. (The pooled one, which virtual machines use by default,
rounds up to pages of 4 KiB and keeps what was freed.)
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

# TVM's types of devices and allocators (dlpack.h, memory_manager.h).
_CPU, _NAIVE = 1, 1
_GET_ALLOCATOR = "_ZN3tvm7runtime6memory13MemoryManager20GetOrCreateAllocatorE8DLDeviceNS1_13AllocatorTypeE"
# The place of Allocator::UsedMemory among its virtual functions: after two destructors, two of Alloc, CreateView,
# FreeView, Free and Clear.
_USED_MEMORY = 8


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


def used_bytes() -> int:
    """What the naive allocator of this machine's CPU has in use."""
    library = ctypes.CDLL(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime.so"))
    get = getattr(library, _GET_ALLOCATOR)
    get.restype, get.argtypes = ctypes.c_void_p, [_Device, ctypes.c_int]
    allocator = get(_Device(_CPU, 0), _NAIVE)
    functions = ctypes.cast(allocator, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))).contents
    return int(ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(functions[_USED_MEMORY])(allocator))


def allocated_peak(library: Any, image: Any) -> int:
    """The most bytes that TVM has allocated at once for a net's tensors during one inference.

    Args:
        library: a compiled net, loaded on this machine (:func:`tvm.runtime.load_module`), or an executable.
        image: its input, as a tensor of TVM's; it is not counted.
    """
    machine = relax.VirtualMachine(library, tvm.cpu(), memory_cfg="naive")
    before, peak = used_bytes(), 0

    def look(*_: object) -> None:
        nonlocal peak
        peak = max(peak, used_bytes() - before)

    machine.set_instrument(look)
    output = machine["main"](image)
    del output
    return peak
