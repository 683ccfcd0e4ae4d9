"""From a model of mixed dtypes to kernels: each stretch of one dtype is lowered as a net of that dtype would be.

So its kernels are those that were tuned in that dtype. Between stretches a kernel of its own converts the tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import tvm
from tvm import relax
from tvm.ir import IRModule

from tvmfbnet.compiler.conversions import conversion
from tvmfbnet.compiler.dot_products import dot_product_of
from tvmfbnet.compiler.inline import splice
from tvmfbnet.compiler.integer_lowering import lower_quantised
from tvmfbnet.compiler.mixed_model import stretches
from tvmfbnet.compiler.quantised_model import QuantisedModel
from tvmfbnet.space.borders import DEQUANTISE, QUANTISE


def lower_mixed(
    model: onnx.ModelProto, target: tvm.target.Target, lower_float: Callable[[onnx.ModelProto], IRModule]
) -> IRModule:
    """A model of mixed dtypes as a module of kernels, which ``main`` calls.

    Args:
        model: from :func:`tvmfbnet.compiler.mixed_export.export_mixed_net`.
        target: to compile for.
        lower_float: lowers a float model for the target.

    Raises:
        UserError: a quantised unit has an operation for which there is no kernel.
    """
    whole, builder = QuantisedModel(model, dot_product_of(target).offset), relax.BlockBuilder()
    source = relax.Var("input", relax.TensorType(whole.input_shape, "float32"))
    with builder.function("main", [source]):
        with builder.dataflow():
            value: relax.Expr = source
            for stretch in stretches(model):
                if stretch.quantiser is not None:
                    kind = QUANTISE if stretch.quantised else DEQUANTISE
                    codes = whole.quantisation(stretch.quantiser)
                    value = splice(builder, conversion(stretch.shape, kind, codes, target), value)
                lowered = lower_quantised(stretch.model, target) if stretch.quantised else lower_float(stretch.model)
                value = splice(builder, lowered, value)
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    return builder.get()
