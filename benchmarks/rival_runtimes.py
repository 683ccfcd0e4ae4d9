"""How each runtime that `rivals.py` times takes a net: converted where it must be, float32, one thread.

Each function loads the net into one runtime and gives two calls: one that runs it on its image, which is timed, and one
that gives the output of the last run, which is not. It is called in a process of its own. Imports are inside: a runtime
that is not installed raises ImportError.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Loaded = tuple[Callable[[], object], Callable[[], Array]]
"""Runs the net; gives its output."""


@dataclass(frozen=True)
class RivalNet:
    """A net as every runtime gets it.

    Attributes:
        folder: for what is converted; holds ``net.onnx``, our ``lib.so`` and the ``image.npy`` to run on.
        space: name or file of its space.
        arch: of the net, whose random weights are those of the model.
        wheels: folder in which the runtimes of `rivals.txt` are installed.
    """

    folder: Path
    space: str
    arch: str
    wheels: Path

    @property
    def model(self) -> Path:
        """The net as ONNX."""
        return self.folder / "net.onnx"

    @property
    def image(self) -> Array:
        """(1, channels, height, width)."""
        image: Array = np.load(self.folder / "image.npy")
        return image

    def module(self) -> Any:
        """The net in PyTorch, batch norms folded."""
        from tvmfbnet.deploy.package import untrained_net
        from tvmfbnet.nets.bn_folding import fold_bn
        from tvmfbnet.space.arch_text import resolve_arch
        from tvmfbnet.space.registry import load_space

        return fold_bn(untrained_net(*resolve_arch(self.arch, load_space(self.space))))


def tvmfbnet(net: RivalNet) -> Loaded:
    """Our compiled library."""
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(net.folder / "lib.so")), tvm.cpu())
    image = tvm.runtime.tensor(net.image, tvm.cpu())
    main = machine["main"]
    return lambda: main(image), lambda: np.asarray(main(image).numpy())


def onnxruntime(net: RivalNet) -> Loaded:
    """ONNX Runtime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(net.model), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: net.image}
    return lambda: session.run(None, feed), lambda: np.asarray(session.run(None, feed)[0])


def openvino(net: RivalNet) -> Loaded:
    """OpenVINO's CPU plugin; it takes bfloat16 where the CPU has it, unless told otherwise."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = ov.Core()
    request = core.compile_model(core.read_model(str(net.model)), "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(net.image))
    return request.infer, lambda: np.asarray(request.get_output_tensor().data)


def mnn(net: RivalNet) -> Loaded:
    """MNN, from the ONNX model by its own converter.

    Only the converter's library is loaded: MNN's script around it (``MNN.tools``) installs a package for telemetry by
    pip, which changes the environment that it runs in.
    """
    import MNN

    converted = net.folder / "net.mnn"
    words = ["-f", "ONNX", "--modelFile", str(net.model), "--MNNModel", str(converted), "--bizCode", "rival"]
    script = "import sys; sys.path.append(sys.argv.pop(1)); import _tools; _tools.mnnconvert(sys.argv)"
    subprocess.run([sys.executable, "-c", script, str(net.wheels), *words], check=True, stdout=subprocess.DEVNULL)
    interpreter = MNN.Interpreter(str(converted))
    session = interpreter.createSession({"backend": "CPU", "numThread": 1, "precision": "high"})
    image, kind, layout = net.image, MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
    interpreter.getSessionInput(session).copyFrom(MNN.Tensor(image.shape, kind, image, layout))
    output = interpreter.getSessionOutput(session)
    shape = output.getShape()

    def result() -> Array:
        host = MNN.Tensor(shape, kind, np.zeros(shape, np.float32), layout)
        output.copyToHostTensor(host)
        return np.array(host.getData(), np.float32)

    return lambda: interpreter.runSession(session), result


def ncnn(net: RivalNet) -> Loaded:
    """ncnn, from PyTorch by pnnx."""
    import ncnn as runtime
    import pnnx
    import torch

    pnnx.export(net.module(), str(net.folder / "net.pt"), torch.from_numpy(net.image), fp16=False)
    loaded = runtime.Net()
    loaded.opt.num_threads = 1
    for option in ("vulkan_compute", "fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(loaded.opt, f"use_{option}", False)
    for load, ending in ((loaded.load_param, "param"), (loaded.load_model, "bin")):
        if load(str(net.folder / f"net.ncnn.{ending}")):
            raise RuntimeError(f"ncnn cannot read the {ending} file that pnnx wrote")
    pixels = net.image[0]  # what is not cloned refers to this memory, and nothing keeps it
    image = runtime.Mat(pixels).clone()

    def run() -> object:
        extractor = loaded.create_extractor()
        extractor.input("in0", image)
        return extractor.extract("out0")[1]

    return run, lambda: np.array(run())


def litert(net: RivalNet) -> Loaded:
    """LiteRT with XNNPACK, on a TFLite model that is written here."""
    from litert_net import LiteRtNet
    from tflite_block import import_schema
    from tflite_net import write_net

    file = net.folder / "net.tflite"
    file.write_bytes(write_net(import_schema(net.wheels), net.module(), net.image.shape))
    loaded = LiteRtNet(file, net.image)
    return loaded.run, loaded.output


def executorch(net: RivalNet) -> Loaded:
    """ExecuTorch with XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer, _unsafe_reset_threadpool

    image = torch.from_numpy(net.image)
    exported = torch.export.export(net.module(), (image,))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    _unsafe_reset_threadpool(1)
    code = program.buffer
    loaded = _load_for_executorch_from_buffer(code)

    def run() -> Any:
        # What is loaded only refers to the code's memory, which must stay.
        return loaded.forward([image]) if code else None

    return run, lambda: np.array(run()[0].numpy())


def torch_compile(net: RivalNet) -> Loaded:
    """PyTorch's own compiler, channels last."""
    import torch

    torch.set_num_threads(1)
    compiled = torch.compile(net.module().to(memory_format=torch.channels_last))
    image = torch.from_numpy(net.image).contiguous(memory_format=torch.channels_last)

    def run() -> Any:
        with torch.inference_mode():
            return compiled(image)

    return run, lambda: np.asarray(run().numpy())


# The function, and the package whose version is told.
RUNTIMES: dict[str, tuple[Callable[[RivalNet], Loaded], str]] = {
    "tvmfbnet": (tvmfbnet, "apache-tvm"),
    "onnxruntime": (onnxruntime, "onnxruntime"),
    "openvino": (openvino, "openvino"),
    "mnn": (mnn, "MNN"),
    "ncnn": (ncnn, "ncnn"),
    "litert": (litert, "ai-edge-litert"),
    "executorch": (executorch, "executorch"),
    "torch_compile": (torch_compile, "torch"),
}


def version_of(name: str) -> str:
    """The installed version of a runtime's package; empty where there is none."""
    package = RUNTIMES[name][1].lower()
    return next((each.version for each in distributions() if each.metadata["Name"].lower() == package), "")
