"""The parity gate: a compiled net's outputs on the device against PyTorch's, for fixed random images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from tvmfbnet.deploy.description import Parity
from tvmfbnet.deploy.outputs import output_errors
from tvmfbnet.dtypes import FLOAT32, MAX_ACCURACY_LOSS, DType, random_tensor
from tvmfbnet.errors import ParityError
from tvmfbnet.nets.network import ArchNet, ExportedNet
from tvmfbnet.nets.precision import torch_type
from tvmfbnet.progress import progress, say
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import run_net, run_on_images
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.targets.definition import ResolvedTarget
from tvmfbnet.tasks import CLASSIFICATION, task_named

if TYPE_CHECKING:
    from tvmfbnet.deploy.package import Package

_PARITY_IMAGES = 3
# With fewer, a single image weighs as much as the loss of accuracy that is allowed.
_ENOUGH_IMAGES = 100
# Enough to amortise loading the library, few enough for a slow device to finish them within its timeouts.
_IMAGES_PER_CALL = 50


@dataclass(frozen=True)
class LabelledImages:
    """Images with what a net should answer.

    Attributes:
        pixels: normalised, float32 (n, channels, height, width).
        labels: the targets, (n, ...): in classification int64 (n,).
        task: what they are for.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    task: str = CLASSIFICATION


def parity_inputs(shape: Sequence[int], dtype: DType = FLOAT32) -> list[npt.NDArray[Any]]:
    """The fixed random images of the parity check."""
    images = random_tensor((_PARITY_IMAGES, *shape), dtype.boundary)
    return list(images)


def certify(
    package: Package,
    net: ArchNet,
    target: ResolvedTarget,
    endpoint: Endpoint,
    images: LabelledImages | None = None,
    max_accuracy_loss: float = MAX_ACCURACY_LOSS,
) -> Package:
    """Checks a package's parity on the device and stores the outcome in it; see :func:`check_parity`.

    Args:
        package: to check.
        net: that it was compiled from.
        target: that it was compiled for.
        endpoint: where the device is.
        images: test images; with them, the answers of a package in another dtype than float32 are compared with those
            of the float32 net.
        max_accuracy_loss: percentage points of accuracy on these that it may lose; not judged on fewer than 100.

    Returns:
        The package, which passed.

    Raises:
        ParityError: it failed, or lost too much accuracy, which the package says as well.
        DeviceError: the device did not answer; the package stays unchecked.
    """
    limit = target.data_type.parity_limit
    try:
        parity = check_parity(package, net, target, endpoint)
    except ParityError as problem:
        package.with_description(parity=Parity(verdict="failed", limit=limit, reason=str(problem)))
        raise
    if images is not None and target.dtype != FLOAT32.name:
        compared = compare_answers(package, net, target, endpoint, images)
        parity = parity.model_copy(
            update={
                **{"agreement": compared.agreement, "images": len(images.labels)},
                **{"accuracy": compared.accuracy, "float32_accuracy": compared.float32_accuracy},
            }
        )
        if len(images.labels) < _ENOUGH_IMAGES:
            say(f"note: {len(images.labels)} test images are too few to tell what {target.dtype} costs in accuracy")
        elif compared.loss > max_accuracy_loss:
            reason = (
                f"in {target.dtype} the net loses {compared.loss:.2f} percentage points of its {compared.metric} "
                f"({compared.float32_accuracy:.2%} in float32, {compared.accuracy:.2%} on the device, "
                f"{len(images.labels)} test images), more than {max_accuracy_loss:g}"
            )
            package.with_description(parity=parity.model_copy(update={"verdict": "failed", "reason": reason}))
            raise ParityError(
                f"{reason}; package {package.folder} must not be shipped: take another dtype, or allow more with "
                "max_accuracy_loss"
            )
    return package.with_description(parity=parity)


@dataclass(frozen=True)
class ComparedAnswers:
    """How a package's answers compare with those of the net in float32.

    Attributes:
        agreement: how far both agree, in classification the share of images that both put into one class.
        accuracy: the task's accuracy of the package, on the device.
        float32_accuracy: that of PyTorch in float32.
        metric: what the task calls its accuracy.
    """

    agreement: float
    accuracy: float
    float32_accuracy: float
    metric: str

    @property
    def loss(self) -> float:
        """Percentage points of accuracy that the package loses; negative where it gains."""
        return 100 * (self.float32_accuracy - self.accuracy)


def compare_answers(
    package: Package, net: ArchNet, target: ResolvedTarget, endpoint: Endpoint, images: LabelledImages
) -> ComparedAnswers:
    """Runs images through the package on the device, and through the net in PyTorch.

    Raises:
        DeviceError: the device did not answer.
    """
    deadline = target.timeouts.connect + target.timeouts.session
    precise, total, task = ExportedNet(net).eval(), len(images.labels), task_named(images.task)
    agreed, right, right_in_float32 = 0.0, list[torch.Tensor](), list[torch.Tensor]()
    with worker_for(target, endpoint) as worker, progress("comparing answers with float32's", total) as reporter:
        for start in range(0, total, _IMAGES_PER_CALL):
            batch = images.pixels[start : start + _IMAGES_PER_CALL]
            targets = images.labels[start : start + _IMAGES_PER_CALL]
            given = batch.numpy().astype(target.data_type.boundary)
            got = worker.call(run_on_images, str(package.library), given, target.batch, seconds=deadline)
            with torch.no_grad():
                expected = task.joined(precise(batch))
            outputs = task.joined([torch.from_numpy(output.astype(np.float32)) for output in got])
            agreed += float(task.agreement(outputs, expected).sum())
            right.append(task.tally(outputs, targets))
            right_in_float32.append(task.tally(expected, targets))
            reporter.update(start + len(batch))
    accuracy, in_float32 = (task.accuracy(task.added(tallies)) for tallies in (right, right_in_float32))
    return ComparedAnswers(agreed / total, accuracy, in_float32, task.metric)


def check_parity(package: Package, net: ArchNet, target: ResolvedTarget, endpoint: Endpoint) -> Parity:
    """Runs the package on the device and compares its outputs with PyTorch's.

    The error of an output is the largest difference over the largest value, both of all images together.

    Raises:
        ParityError: an error is above the limit of the target's dtype, or an output of either side is not finite.
        DeviceError: the device did not answer.
    """
    deadline = target.timeouts.connect + target.timeouts.session
    with worker_for(target, endpoint) as worker:

        def run(image: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
            outputs: tuple[npt.NDArray[Any], ...] = worker.call(
                run_net, str(package.library), [image], seconds=deadline
            )
            return outputs

        return check_outputs(package, net, target.data_type, run)


def check_outputs(
    package: Package, net: ArchNet, dtype: DType, run: Callable[[npt.NDArray[Any]], tuple[npt.NDArray[Any], ...]]
) -> Parity:
    """As :func:`check_parity`, with what runs the package on one image; for a device that is connected already."""
    expected = _expected(package, net, dtype)
    got = [run(image) for image in parity_inputs(package.input_shape, dtype)]
    if not all(np.isfinite(output).all() for outputs in got for output in outputs):
        raise ParityError(
            f"the compiled net's output on the device is not finite, PyTorch's is; package {package.folder} "
            "must not be shipped"
        )
    names, limit = package.description.output_names, dtype.parity_limit
    errors = output_errors(got, expected, names)
    worst = max(errors)
    if not worst <= limit:
        which = f" in output {names[errors.index(worst)]!r}" if len(errors) > 1 else ""
        raise ParityError(
            f"the compiled net differs from PyTorch by {worst:.2e} relative{which} on the device (limit {limit:g}); "
            f"package {package.folder} must not be shipped"
        )
    by_name = dict(zip(names, errors, strict=True)) if len(errors) > 1 else {}
    return Parity(verdict="passed", limit=limit, error=worst, output_errors=by_name)


def _expected(package: Package, net: ArchNet, dtype: DType) -> list[tuple[npt.NDArray[Any], ...]]:
    """What a package has to compute: PyTorch's outputs, or those of its own quantised model in ONNX Runtime."""
    if not dtype.is_quantised:
        return expected_outputs(net, package.input_shape, dtype)
    import onnx

    from tvmfbnet.quantisation.reference import QuantisedReference

    reference = QuantisedReference(onnx.load(str(package.model)))
    return [reference.outputs(image) for image in parity_inputs(package.input_shape, dtype)]


def expected_outputs(net: ArchNet, shape: Sequence[int], dtype: DType) -> list[tuple[npt.NDArray[Any], ...]]:
    """PyTorch's outputs for each parity image, in the dtype's reference type; ParityError if one is not finite."""
    reference = torch_type(dtype.reference)
    precise = ExportedNet(copy.deepcopy(net).eval().to(reference)).eval()
    with torch.no_grad():
        images = (torch.from_numpy(image).to(reference) for image in parity_inputs(shape, dtype))
        outputs = [tuple(output.numpy() for output in precise(image)) for image in images]
    if not all(np.isfinite(output).all() for given in outputs for output in given):
        raise ParityError(
            f"net {format_arch(net.arch, net.space)} is refused: PyTorch's own output is not finite (NaN or infinity "
            "in its weights or statistics); train it again"
        )
    return outputs
