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
from tvmfbnet.space.heads import SCORES

Outputs = Sequence[npt.NDArray[Any]]
# Of scores, below which none matters.
_LEAST_SCORE = 1e-6


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


def output_errors(got: Sequence[Outputs], expected: Sequence[Outputs], names: Sequence[str]) -> list[float]:
    """The relative error of each output, over all images together.

    An image whose own outputs happen to cancel to almost nothing says little by itself. Scores are compared by their
    logarithms, which are a classifier's logits but for one number for each anchor: so both are held to the same. In
    int8 a tie moves a logit by one of 255 steps, which may move a score of 0.5 by a fiftieth.

    Args:
        got: for each image the outputs of a net.
        expected: what they must be.
        names: of the outputs.

    Returns:
        Of each output; infinite where a value is not finite, or a shape differs, and [inf] where their number differs.
    """
    if {len(each) for each in (*got, *expected)} != {len(names)}:
        return [float("inf")]
    errors = []
    for number, name in enumerate(names):
        sides = [[outputs[number] for outputs in side] for side in (got, expected)]
        if len({output.shape for side in sides for output in side}) > 1:
            errors.append(float("inf"))
            continue
        mine, theirs = (np.stack([_compared(name, output) for output in side]) for side in sides)
        errors.append(relative_error(mine, theirs))
    return errors


def _compared(name: str, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An output as it is compared."""
    if name != SCORES:
        return output
    compared: npt.NDArray[Any] = np.log(np.maximum(output.astype(np.float64), _LEAST_SCORE))
    return compared
