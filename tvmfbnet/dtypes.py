"""Data types that nets are compiled, timed and shipped in: everything that depends on the type, in one object.

A target names its dtype; export, lowering, timing, tables, packages and parity ask the :class:`DType` of that name and
know no type themselves. Names are those of numpy, which TVM and ONNX share, so they can cross process borders as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmfbnet.errors import UserError

# Numpy's kinds of truth values, integers and floats.
_NUMERIC = "biuf"


@dataclass(frozen=True)
class DType:
    """One data type.

    Attributes:
        name: of the weights, and of the activations between kernels, as numpy and TVM write it; the name that targets,
            contexts and packages carry.
        boundary: name of the type of a net's input and output. A quantised net takes and returns floats.
        accumulator: name of the type in which kernels add up products.
        reference: name of the type in which PyTorch folds batch norms, and computes the outputs that a compiled net's
            are compared with.
        parity_limit: largest relative difference (max |device - torch| / max |torch|) with which a package is accepted.
        parity_reason: why that much.
    """

    name: str
    boundary: str
    accumulator: str
    reference: str
    parity_limit: float
    parity_reason: str

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The type of an array of weights or activations."""
        return np.dtype(self.name)

    @property
    def bytes(self) -> int:
        """Size of one weight or activation."""
        return bytes_of(self.name)


def bytes_of(name: object) -> int:
    """Bytes of one element of a type by its name, such as TVM gives for a buffer; any numeric type, registered or not.

    Raises:
        ValueError: numpy has no such type.
    """
    try:
        dtype = np.dtype(str(name))
    except (TypeError, SyntaxError) as error:
        raise ValueError(f"{str(name)[:40]!r} is not a numeric type") from error
    if dtype.kind not in _NUMERIC:
        raise ValueError(f"{str(name)[:40]!r} is not a numeric type")
    return dtype.itemsize


FLOAT32 = DType(
    name="float32",
    boundary="float32",
    accumulator="float32",
    reference="float32",
    parity_limit=1e-3,
    parity_reason="rounding and other orders of sums stay below 1e-4; a wrong weight or layout is far above",
)

DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in (FLOAT32,)}


def require_dtype(name: object) -> str:
    """The name of a dtype that is registered, unchanged.

    Raises:
        ValueError: it is not; lists those that are.
    """
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"{name!r} is not supported: nets are compiled and timed in {' or '.join(DTYPES)} only")
    return name


def dtype_named(name: str) -> DType:
    """The dtype of a name, as a file or a target gives it.

    Raises:
        UserError: it is not registered; lists those that are.
    """
    try:
        return DTYPES[require_dtype(name)]
    except ValueError as error:
        raise UserError(f"dtype {error}") from error


def random_tensor(shape: tuple[int, ...], dtype: str, seed: int = 0) -> npt.NDArray[Any]:
    """Standard normal values: equal for equal arguments. Timing feeds them to nets, and the parity check.

    Args:
        shape: of the array.
        dtype: name of its type.
        seed: of the generator.
    """
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
