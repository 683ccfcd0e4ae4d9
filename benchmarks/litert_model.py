"""Makes a TFLite model of a net: in int8 for int8_net.py, in float32 for simulated_rivals.py, which time LiteRT on it.

The net has the random weights of int8_net.py. In int8, weights have a scale per channel and activations one range a
tensor, calibrated on the same random images. Input and output are float32, channels last, as LiteRT's own nets are. The
script fails if XNNPACK does not take every node, or if the output is not that of the float32 net.

It needs an environment of its own. litert-torch pins a typing-extensions that is too old for this package, so its
dependencies are listed here (Python 3.11, torch 2.14.1, numpy 2.4.6):

    python -m venv litert
    litert/bin/pip install -e '.[tune,onnxruntime]' ai-edge-litert==2.3.0 torchao==0.18.0 jax==0.10.2 \\
        tabulate==0.10.0 immutabledict==4.3.1 absl-py scipy safetensors
    litert/bin/pip install --no-deps litert-torch==0.10.0 ai-edge-quantizer==0.10.0 litert-converter==0.5.0
    litert/bin/python benchmarks/litert_model.py --space fbnet --arch fbnet_c --out fbnet_c.tflite
    litert/bin/python benchmarks/litert_model.py --space fbnet --arch fbnet_c --dtype float32 --out fbnet_c.tflite

Conversion takes two minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from int8_net import CALIBRATION_IMAGES
from litert_net import LiteRtNet, import_interpreter

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.dtypes import random_tensor
from tvmfbnet.errors import RuntimeUnavailableError, UserError
from tvmfbnet.nets.bn_folding import fold_bn
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space

CONVERTER, QUANTIZER = "litert-torch==0.10.0", "ai-edge-quantizer==0.10.0"


def import_tools() -> tuple[Any, Any]:
    """The modules that convert and quantise; RuntimeUnavailableError says what to install."""
    try:
        import ai_edge_quantizer
        import litert_torch
    except ImportError as error:
        install = f"pip install --no-deps {CONVERTER} {QUANTIZER} and what the script's docstring lists"
        raise RuntimeUnavailableError(f"making a TFLite model needs {error.name}: {install}") from error
    return litert_torch, ai_edge_quantizer


def convert(net: torch.nn.Module, images: list[Any], model: Path) -> None:
    """Writes a net in float32; images are channels last."""
    litert_torch, _ = import_tools()
    channels_last = litert_torch.to_channel_last_io(net, args=[0]).eval()
    litert_torch.convert(channels_last, (torch.from_numpy(images[0]),)).export(str(model))


def quantise(model: Path, images: list[Any], out: Path) -> None:
    """Writes the int8 form of a float32 model, whose input and output stay float32."""
    _, tools = import_tools()
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    quantizer = tools.quantizer.Quantizer(str(model), recipe.static_wi8_ai8())
    for border in (tools.qtyping.TFLOperationName.INPUT, tools.qtyping.TFLOperationName.OUTPUT):
        quantizer.update_quantization_recipe(".*", border, algorithm_key=AlgorithmName.NO_QUANTIZE)
    ((signature, names),) = import_interpreter()(str(model)).get_signature_list().items()
    data = {signature: [{names["inputs"][0]: image} for image in images]}
    quantizer.quantize(quantizer.calibrate(data, num_threads=1)).export_model(str(out), overwrite=True)


def make(space: str, arch: str, out: Path, dtype: str = "int8") -> dict[str, Any]:
    """Writes the model of a net in int8 or float32, and tells how near it is to the float32 net."""
    import_tools()  # before anything takes time
    chosen, loaded = resolve_arch(arch, load_space(space))
    net = fold_bn(untrained_net(chosen, loaded))
    shape = (1, loaded.input_channels, loaded.height, loaded.width)
    images = [random_tensor(shape, "float32", seed) for seed in range(CALIBRATION_IMAGES)]
    channels_last = [np.ascontiguousarray(image.transpose(0, 2, 3, 1)) for image in images]
    out.parent.mkdir(parents=True, exist_ok=True)
    if dtype == "float32":
        convert(net, channels_last, out)
    else:
        with TemporaryDirectory() as folder:
            convert(net, channels_last, Path(folder) / "float32.tflite")
            quantise(Path(folder) / "float32.tflite", channels_last, out)
    image = random_tensor(shape, "float32", CALIBRATION_IMAGES)  # none that it was calibrated on
    made = LiteRtNet(out, image)
    if not made.all_delegated:
        raise RuntimeUnavailableError(f"{out}: XNNPACK does not run every node")
    with torch.no_grad():
        reference = net(torch.from_numpy(image)).numpy()
    correlation = made.correlation(reference)
    return {"space": space, "arch": arch, "dtype": dtype, "out": str(out), "correlation_with_float32": correlation}


def main() -> None:
    """Makes the model and prints what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--arch", default="fbnet_c")
    parser.add_argument("--dtype", choices=("int8", "float32"), default="int8")
    parser.add_argument("--out", type=Path, required=True, help="the .tflite file to write")
    options = parser.parse_args()
    try:
        print(json.dumps(make(options.space, options.arch, options.out, options.dtype), indent=1))
    except (UserError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    with as_command():
        main()
