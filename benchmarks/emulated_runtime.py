"""Times a model in a runtime's own Python wheel, by the clock of the simulated core that runs this script.

`simulated_rivals.py` starts it inside the emulator, where nothing of the package is installed: it needs NumPy and the
runtime. Prints one line of JSON: the runtime's version, the milliseconds of each call after the caches were emptied,
and of a TFLite model the interpreter's nodes; the output goes to a file. The first call of all, in which runtimes
arrange weights and memory, is not timed.

    python emulated_runtime.py onnxruntime net.onnx image.npy output.npy
    python emulated_runtime.py litert net.tflite image.npy output.npy
    python emulated_runtime.py models FOLDER RESOLVER
    python emulated_runtime.py loop MACHINE_CODE ITERATIONS
"""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# device/simulator/protocol.h
_MAGIC, _BEGIN, _READ, _SUMMARY = 0x5F7A3C19, 1, 2, 3
_SLOT, _SLOT_BYTES, _PAGE_BYTES, _OK = 63, 64, 4096, 1
_GETPRIORITY = 141  # of 64-bit ARM
# With empty caches, and twice with what the call before left in them: the two must be equal.
CALLS = 3


class Clock:
    """The simulated core's clock, of the calling thread."""

    def __init__(self) -> None:
        self._syscall = ctypes.CDLL(None).syscall
        self._syscall.argtypes = [ctypes.c_long] * 5
        file = os.open(os.environ["TVMFBNET_MAILBOX"], os.O_RDWR)
        self._mailbox = mmap.mmap(file, _PAGE_BYTES)
        os.close(file)
        self._questions = 0

    def begin(self) -> None:
        """Time zero, with cold caches."""
        self._tell(_BEGIN)

    def milliseconds(self) -> float:
        """Since :meth:`begin`; stops the program if the simulator cannot tell."""
        self._questions += 1
        self._tell(_READ, _SLOT, self._questions)
        tag, status, nanoseconds = struct.unpack_from("<QQq", self._mailbox, _SLOT * _SLOT_BYTES)
        if (tag, status) != (self._questions, _OK):
            sys.exit("the simulator cannot tell the time")
        return float(nanoseconds) / 1e6

    def summarise(self) -> None:
        """Writes where the time since :meth:`begin` went, if the simulator has a file for it."""
        self._tell(_SUMMARY)

    def _tell(self, operation: int, slot: int = 0, tag: int = 0) -> None:
        self._syscall(_GETPRIORITY, _MAGIC, operation, slot, tag)


def time_calls(run: Callable[[], object], calls: int = CALLS, untimed: int = 1) -> list[float]:
    """Milliseconds of each of several calls, after some that are not timed."""
    for _ in range(untimed):
        run()
    clock = Clock()
    clock.begin()
    readings = [clock.milliseconds()]
    for _ in range(calls):
        run()
        readings.append(clock.milliseconds())
    clock.summarise()
    return [after - before for before, after in itertools.pairwise(readings)]


def time_onnxruntime(model: str, image: str, output: str) -> dict[str, Any]:
    """ONNX Runtime's CPU provider, one thread; input and output stay where they are."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, np.load(image))
    result = np.zeros(session.get_outputs()[0].shape, "float32")
    place = onnxruntime.OrtValue.ortvalue_from_numpy(result)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, place)
    calls_ms = time_calls(lambda: session.run_with_iobinding(binding))
    np.save(output, place.numpy())
    return {"version": onnxruntime.__version__, "calls_ms": calls_ms}


def time_litert(model: str, image: str, output: str) -> dict[str, Any]:
    """LiteRT with the XNNPACK delegate that it applies by itself, one thread; the image is given channels last."""
    from importlib.metadata import version

    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given["index"], np.ascontiguousarray(np.load(image).transpose(0, 2, 3, 1)))
    calls_ms = time_calls(interpreter.invoke)
    np.save(output, interpreter.get_tensor(result["index"]))
    nodes = [
        {"op_name": node["op_name"], **{key: [int(tensor) for tensor in node[key]] for key in ("inputs", "outputs")}}
        for node in interpreter._get_ops_details()  # the only place that tells nodes and delegates
    ]
    return {
        "version": version("ai-edge-litert"),
        "calls_ms": calls_ms,
        "nodes": nodes,
        "outputs": [int(result["index"])],
    }


def time_models(folder: str, resolver: str) -> dict[str, Any]:
    """Every TFLite model of a folder on LiteRT: its first call, in which it arranges its weights, and a warm one.

    ``NAME.tflite`` takes ``NAME.input.npy`` as it is and leaves ``NAME.output.npy``. The resolver is one of LiteRT's:
    AUTO runs XNNPACK, BUILTIN_WITHOUT_DEFAULT_DELEGATES TensorFlow Lite's own kernels.
    """
    from importlib.metadata import version

    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    calls_ms = {}
    for model in sorted(Path(folder).glob("*.tflite")):
        kind = OpResolverType[resolver]
        interpreter = Interpreter(str(model), num_threads=1, experimental_op_resolver_type=kind)
        interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(given["index"], np.load(model.with_suffix(".input.npy")))
        calls_ms[model.stem] = time_calls(interpreter.invoke, calls=2, untimed=0)
        np.save(model.with_suffix(".output.npy"), interpreter.get_tensor(result["index"]))
    return {"version": version("ai-edge-litert"), "calls_ms": calls_ms}


def time_loop(code: str, iterations: str) -> dict[str, Any]:
    """Machine code of a function of the number of its iterations."""
    machine_code = bytes.fromhex(code)
    memory = mmap.mmap(-1, _PAGE_BYTES, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory[: len(machine_code)] = machine_code
    function = ctypes.CFUNCTYPE(None, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return {"version": "", "calls_ms": time_calls(lambda: function(int(iterations)))}


def main() -> None:
    kinds = {"onnxruntime": time_onnxruntime, "litert": time_litert, "models": time_models, "loop": time_loop}
    try:
        told = kinds[sys.argv[1]](*sys.argv[2:])
    except Exception:  # whatever a runtime raises: its last line is what the caller tells
        traceback.print_exc()
        Clock().begin()  # the simulator need not look at what was done until now
        os._exit(1)
    # Renamed, because the simulator writes its summary again when the process ends.
    if summary := os.environ.get("SIMULATED_SUMMARY"):
        Path(summary).rename(f"{summary}.json")
    print(json.dumps(told), flush=True)
    os._exit(0)  # without the interpreter's own end, whose code the simulator would look at


if __name__ == "__main__":
    main()
