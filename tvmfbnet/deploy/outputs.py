"""The outputs of a package: their description in ``package.json``, and how far each is from what it must be.

A classifier has one, ``output``; a net may have several of different meaning and size, such as scores and boxes. So
each is compared by itself, relative to its own largest value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper
from pydantic import Field, field_validator

from tvmfbnet.dtypes import bytes_of
from tvmfbnet.files import Stored
from tvmfbnet.relative_error import relative_error

Outputs = Sequence[npt.NDArray[Any]]


class OutputTensor(Stored):
    """One output of a package.

    Attributes:
        name: as in the ONNX model.
        shape: for one image, such as (1, classes).
        dtype: name of its type.
    """

    name: str = Field(min_length=1, max_length=100)
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: str

    @field_validator("dtype")
    @classmethod
    def _check_numeric(cls, value: str) -> str:
        bytes_of(value)
        return value


def outputs_of_model(model: onnx.ModelProto) -> tuple[OutputTensor, ...]:
    """The outputs of an exported model, in order."""
    described = []
    for value in model.graph.output:
        tensor = value.type.tensor_type
        shape = tuple(int(size.dim_value) for size in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        described.append(OutputTensor(name=value.name, shape=shape, dtype=dtype))
    return tuple(described)


def output_errors(got: Sequence[Outputs], expected: Sequence[Outputs]) -> list[float]:
    """The relative error of each output, over all images together.

    An image whose own outputs happen to cancel to almost nothing says little by itself.

    Args:
        got: for each image the outputs of a net.
        expected: what they must be.

    Returns:
        Of each output; infinite where a value is not finite, or a shape differs, and [inf] where their number differs.
    """
    if {len(each) for each in (*got, *expected)} != {len(expected[0])}:
        return [float("inf")]
    try:
        pairs = [(np.stack(mine), np.stack(theirs)) for mine, theirs in zip(zip(*got), zip(*expected), strict=True)]  # noqa: B905
    except ValueError:  # shapes differ from image to image
        return [float("inf")]
    return [relative_error(mine, theirs) for mine, theirs in pairs]
