"""Data types that nets are compiled, timed and shipped in: everything that depends on the type, in one object.

A target names its dtype; export, lowering, timing, tables, packages and parity ask the :class:`DType` of that name and
know no type themselves. Names are those of numpy, which TVM and ONNX share, so they can cross process borders as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tvmfbnet.errors import UserError

if TYPE_CHECKING:  # the command line lists the types, and starts without numpy
    import numpy as np
    import numpy.typing as npt

# Percentage points of top-1 accuracy that a net may lose in another dtype than float32, unless it is told otherwise.
MAX_ACCURACY_LOSS = 1.3

# Numpy's kinds of truth values, integers and floats.
_NUMERIC = "biuf"
# Before the dtype in the spelling of a target.
_CHANGE = ",dtype="
# In place of a dtype: each block of a net in float32 or in int8, whichever is faster there.
MIXED: Literal["mixed"] = "mixed"


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
        kinds: kinds of TVM targets that have kernels of this type.
        opencl_extension: without which an OpenCL driver compiles no kernel of this type.
    """

    name: str
    boundary: str
    accumulator: str
    reference: str
    parity_limit: float
    parity_reason: str
    kinds: tuple[str, ...] = ("llvm", "c", "opencl", "metal")
    opencl_extension: str = ""

    @property
    def is_quantised(self) -> bool:
        """Whether weights and activations are integers."""
        return self.name.startswith(("int", "uint"))

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The type of an array of weights or activations."""
        import numpy as np

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
    import numpy as np

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

# Input and output stay float32: every caller can make and read them, and one conversion of an image costs little.
FLOAT16 = DType(
    name="float16",
    boundary="float32",
    accumulator="float32",
    reference="float32",
    parity_limit=1e-2,
    parity_reason="halves have 11 bits: rounding each activation of tens of layers adds up to some 1e-3",
    kinds=("llvm", "opencl", "metal"),  # C has no such type
    opencl_extension="cl_khr_fp16",
)

# Weights are int8; activations are 8-bit codes, whose sign depends on the target.
INT8 = DType(
    name="int8",
    boundary="float32",
    accumulator="int32",
    reference="float32",
    parity_limit=2e-2,
    parity_reason="a tie that is rounded other than in ONNX Runtime moves a code by one of 255 steps",
    kinds=("llvm",),  # kernels are integer dot products of CPUs
)

DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in (FLOAT32, FLOAT16, INT8)}


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


def split_dtype(target: str) -> tuple[str, str | None]:
    """A target as users spell it, ``host,dtype=float16``: the name or file, and the dtype; None where it names none.

    Raises:
        UserError: the dtype is not registered, or named twice; or it is ``mixed``, which is no dtype.
    """
    name, comma, dtype = target.rpartition(_CHANGE)
    if not comma:
        return target, None
    dtype, *others = dtype.split(",")  # such as a batch
    name = ",".join([name, *others])
    if _CHANGE in name:
        raise UserError(f"{target[:80]!r} names two dtypes: write one, as in host,dtype={dtype}")
    if dtype == MIXED:
        raise UserError(
            f"{target[:80]!r}: mixed dtypes are for latency show, export and compare, search, compile and run; "
            f"name one dtype here, as in {name}{_CHANGE}{INT8.name}"
        )
    return name, dtype_named(dtype).name


def dtype_or_mixed(name: str) -> str:
    """The name of a dtype that is registered, or ``mixed``, unchanged.

    Raises:
        UserError: it is neither.
    """
    return name if name == MIXED else dtype_named(name).name


def is_mixed(target: str) -> bool:
    """Whether a target is spelled with mixed dtypes, ``host,dtype=mixed``."""
    return target.endswith(_CHANGE + MIXED)


def without_mixed(target: str) -> str:
    """A target without its mixed dtypes; unchanged where it names none."""
    return target.removesuffix(_CHANGE + MIXED)


def spelled_with_dtype(target: str, dtype: str | None) -> str:
    """A target in another dtype as users spell it; unchanged for None. Other modules take the dtype from there.

    Raises:
        UserError: the dtype is not registered, or the target names another.
    """
    if dtype is None:
        return target
    name, named = (without_mixed(target), MIXED) if is_mixed(target) else split_dtype(target)
    wanted = dtype_or_mixed(dtype)
    if named not in (None, wanted):
        raise UserError(f"--dtype is {wanted}, but {target[:80]!r} names {named}: give one of the two")
    return f"{name}{_CHANGE}{wanted}"


def random_tensor(shape: tuple[int, ...], dtype: str, seed: int = 0) -> npt.NDArray[Any]:
    """Standard normal values: equal for equal arguments. Timing feeds them to nets, and the parity check.

    Args:
        shape: of the array.
        dtype: name of its type.
        seed: of the generator.
    """
    import numpy as np

    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
