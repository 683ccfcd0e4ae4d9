"""The parity gate: a compiled net's outputs on the device against PyTorch's, for fixed random images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from tvmfbnet.deploy.description import Parity
from tvmfbnet.dtypes import FLOAT32, DType, random_tensor
from tvmfbnet.errors import ParityError
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.nets.precision import torch_type
from tvmfbnet.progress import progress
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import run_library, run_on_images
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.targets.definition import ResolvedTarget

if TYPE_CHECKING:
    from tvmfbnet.deploy.package import Package

_PARITY_IMAGES = 3
# Enough to amortise loading the library, few enough for a slow device to finish them within its timeouts.
_IMAGES_PER_CALL = 50


def parity_inputs(shape: Sequence[int], dtype: DType = FLOAT32) -> list[npt.NDArray[Any]]:
    """The fixed random images of the parity check."""
    images = random_tensor((_PARITY_IMAGES, *shape), dtype.boundary)
    return list(images)


def certify(
    package: Package,
    net: ArchNet,
    target: ResolvedTarget,
    endpoint: Endpoint,
    images: torch.Tensor | None = None,
) -> Package:
    """Checks a package's parity on the device and stores the outcome in it; see :func:`check_parity`.

    Args:
        package: to check.
        net: that it was compiled from.
        target: that it was compiled for.
        endpoint: where the device is.
        images: test images, normalised; with them, a package in another dtype than float32 also gets its top-1
            agreement with the float32 net.

    Returns:
        The package, which passed.

    Raises:
        ParityError: it failed, which the package says as well.
        DeviceError: the device did not answer; the package stays unchecked.
    """
    limit = target.data_type.parity_limit
    try:
        error = check_parity(package, net, target, endpoint)
    except ParityError as problem:
        package.with_description(parity=Parity(verdict="failed", limit=limit, reason=str(problem)))
        raise
    parity = Parity(verdict="passed", limit=limit, error=error)
    if images is not None and target.dtype != FLOAT32.name:
        share = top1_agreement(package, net, target, endpoint, images)
        parity = parity.model_copy(update={"agreement": share, "images": len(images)})
    return package.with_description(parity=parity)


def top1_agreement(
    package: Package, net: ArchNet, target: ResolvedTarget, endpoint: Endpoint, images: torch.Tensor
) -> float:
    """Share of images that the package, on the device, puts into the class that PyTorch puts them into in float32.

    Raises:
        DeviceError: the device did not answer.
    """
    deadline, agreed = target.timeouts.connect + target.timeouts.session, 0
    precise = net.eval()
    with worker_for(target, endpoint) as worker, progress("comparing classes with float32's", len(images)) as reporter:
        for start in range(0, len(images), _IMAGES_PER_CALL):
            batch = images[start : start + _IMAGES_PER_CALL]
            given = batch.numpy().astype(target.data_type.boundary)
            got = worker.call(run_on_images, str(package.library), given, seconds=deadline)
            with torch.no_grad():
                expected = precise(batch).argmax(dim=1).numpy()
            agreed += int((got.reshape(len(batch), -1).argmax(axis=1) == expected).sum())
            reporter.update(start + len(batch))
    return agreed / len(images)


def check_parity(package: Package, net: ArchNet, target: ResolvedTarget, endpoint: Endpoint) -> float:
    """Runs the package on the device and compares its outputs with PyTorch's; returns the largest relative error.

    Raises:
        ParityError: the error is above the limit of the target's dtype, or an output of either side is not finite.
        DeviceError: the device did not answer.
    """
    worst, dtype = 0.0, target.data_type
    deadline = target.timeouts.connect + target.timeouts.session
    expected = _expected(package, net, dtype)
    with worker_for(target, endpoint) as worker:
        for image, output in zip(parity_inputs(package.input_shape, dtype), expected, strict=True):
            got = worker.call(run_library, str(package.library), [image], seconds=deadline)
            if not np.isfinite(got).all():
                raise ParityError(
                    f"the compiled net's output on the device is not finite, PyTorch's is; package {package.folder} "
                    "must not be shipped"
                )
            worst = max(worst, relative_error(got, output))
    limit = dtype.parity_limit
    if not worst <= limit:
        raise ParityError(
            f"the compiled net differs from PyTorch by {worst:.2e} relative on the device (limit {limit:g}); "
            f"package {package.folder} must not be shipped"
        )
    return worst


def _expected(package: Package, net: ArchNet, dtype: DType) -> list[npt.NDArray[Any]]:
    """What a package has to compute: PyTorch's outputs, or those of its own quantised model in ONNX Runtime."""
    if not dtype.is_quantised:
        return expected_outputs(net, package.input_shape, dtype)
    import onnx

    from tvmfbnet.quantisation.reference import QuantisedReference

    reference = QuantisedReference(onnx.load(str(package.model)))
    return [reference.run(image) for image in parity_inputs(package.input_shape, dtype)]


def expected_outputs(net: ArchNet, shape: Sequence[int], dtype: DType) -> list[npt.NDArray[Any]]:
    """PyTorch's outputs for the parity images, in the dtype's reference type; ParityError if one is not finite."""
    reference = torch_type(dtype.reference)
    precise = copy.deepcopy(net).eval().to(reference)
    with torch.no_grad():
        images = (torch.from_numpy(image).to(reference) for image in parity_inputs(shape, dtype))
        outputs = [precise(image).numpy() for image in images]
    if not all(np.isfinite(output).all() for output in outputs):
        raise ParityError(
            f"net {format_arch(net.arch, net.space)} is refused: PyTorch's own output is not finite (NaN or infinity "
            "in its weights or statistics); train it again"
        )
    return outputs


def relative_error(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """max |got - expected| / max |expected|; infinite when shapes differ or a value of either side is not finite."""
    if got.shape != expected.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return float("inf")
    # In double precision: differences of large finite values must not overflow.
    wanted = expected.astype(np.float64)
    return float(np.abs(got.astype(np.float64) - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))
