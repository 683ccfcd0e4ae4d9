"""A TFLite model in LiteRT on one thread with the XNNPACK delegate: what int8_net.py times and litert_model.py checks.

LiteRT is no dependency of the package: ``pip install ai-edge-litert==2.3.0`` (2.3.0 is the version that was measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmfbnet.errors import PackageError, ParityError, RuntimeUnavailableError, StorageError

LITERT = "ai-edge-litert==2.3.0"
# Eight bits with one range a tensor reach 0.999 on FBNet-C; another net of the same shape is near 0.
_LEAST_CORRELATION = 0.95


def import_interpreter() -> Any:
    """LiteRT's interpreter; RuntimeUnavailableError says what to install."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise RuntimeUnavailableError(f"timing LiteRT needs ai_edge_litert ({error}): pip install {LITERT}") from error
    return Interpreter


def all_delegated(ops: Sequence[dict[str, Any]], outputs: Sequence[int]) -> bool:
    """Whether one delegate runs a whole net.

    An interpreter lists the nodes that a delegate replaced beside the delegate. One that still runs is either before
    it, and writes what the delegate reads, or after it, and writes an output of the net.

    Args:
        ops: the interpreter's nodes: ``op_name``, and the tensors of ``inputs`` and ``outputs``.
        outputs: the net's output tensors.
    """
    delegates = [op for op in ops if op["op_name"] == "DELEGATE"]
    if len(delegates) != 1:
        return False
    written = {int(tensor) for op in ops if op["op_name"] != "DELEGATE" for tensor in op["outputs"]}
    reads, writes = ({int(tensor) for tensor in delegates[0][key]} for key in ("inputs", "outputs"))
    return not reads & written and {int(tensor) for tensor in outputs} <= writes


def correlation(output: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Pearson's correlation of the outputs of two forms of a net.

    Raises:
        ParityError: too low for two forms of one net, or another number of outputs.
    """
    if output.size != reference.size:
        raise ParityError(f"the TFLite model has {output.size} outputs, the net {reference.size}: not the same net")
    with np.errstate(invalid="ignore"):
        value = float(np.corrcoef(output.ravel(), reference.ravel())[0, 1])
    if not value >= _LEAST_CORRELATION:  # NaN, where an output is constant, is too low as well
        raise ParityError(f"outputs of the TFLite model and of the net correlate at {value:.3f}: not the same net")
    return value


class LiteRtNet:
    """A TFLite model of a net, channels last, float32 in and out, with an image as its input.

    Args:
        model: the file.
        image: (1, channels, height, width).

    Raises:
        RuntimeUnavailableError: LiteRT is not installed.
        StorageError: the file is missing or damaged.
        PackageError: the model takes other images.
    """

    def __init__(self, model: Path, image: npt.NDArray[Any]) -> None:
        interpreter = import_interpreter()
        try:
            self._interpreter: Any = interpreter(str(model), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StorageError(f"{model} is no model that LiteRT can load: {reason}") from error
        self._input, self._output = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        last = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
        takes = tuple(int(size) for size in self._input["shape"]), np.dtype(self._input["dtype"]).name
        if takes != (last.shape, last.dtype.name):
            raise PackageError(f"{model} takes {takes[1]} {takes[0]}, the net {last.dtype} {last.shape}")
        self._interpreter.set_tensor(self._input["index"], last)

    @property
    def all_delegated(self) -> bool:
        """Whether XNNPACK, the only delegate that the interpreter applies by itself, runs every node."""
        # The only place that tells nodes and delegates.
        return all_delegated(self._interpreter._get_ops_details(), [self._output["index"]])

    def run(self) -> None:
        """Runs the net on its image. Neither the image nor the output is copied."""
        self._interpreter.invoke()

    def output(self) -> npt.NDArray[Any]:
        """A copy of what the last run computed."""
        output: npt.NDArray[Any] = self._interpreter.get_tensor(self._output["index"])
        return output

    def correlation(self, reference: npt.NDArray[Any]) -> float:
        """That of the net's output with the float32 net's; see :func:`correlation`."""
        self.run()
        return correlation(self.output(), reference)
