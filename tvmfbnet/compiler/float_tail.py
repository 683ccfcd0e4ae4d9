"""What of a quantised net is computed in float32: whatever follows its last convs and products.

A classifier has nothing there. Other heads enlarge and add up logits of a few classes, or make boxes of offsets: little
work, and much of it has no integer form. Such a net is two models: the quantised one ends where the last sums have been
dequantised, and the tail takes it from there.
"""

from __future__ import annotations

import onnx
from onnx import helper
from onnx.shape_inference import infer_shapes
from onnx.utils import Extractor
from tvm import relax
from tvm.ir import IRModule

from tvmfbnet.compiler.inline import splice
from tvmfbnet.compiler.quantised_model import is_part

_SUMS = ("Conv", "Gemm")
_ROUNDED = ("QuantizeLinear", "DequantizeLinear")
_TO_NCHW = (0, 3, 1, 2)


def tail_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that no sum of products and no rounding follows, of a float or of a QDQ model; in order."""
    needed: set[str] = set()  # tensors that a sum or a rounding still needs
    tail: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if node.op_type in (*_SUMS, *_ROUNDED) or needed.intersection(node.output):
            if node.op_type != "DequantizeLinear" or needed.intersection(node.output):
                needed.update(node.input)
        else:
            tail.append(node)
    return tail[::-1]


def split_tail(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto | None]:
    """A QDQ model as the quantised model and its tail, None where there is none.

    The tail's inputs are the quantised model's outputs in order, those of four dimensions in the interior layout.
    """
    if is_part(model):  # its layout at the border is the interior one already
        return model, None
    tail = tail_nodes(model)
    made = {name for node in tail for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    results = [value.name for value in model.graph.output]
    taken = [name for node in tail for name in node.input if name and name not in made | constants]
    cuts = list(dict.fromkeys([*taken, *(name for name in results if name not in made)]))
    extractor = Extractor(infer_shapes(model))
    core = extractor.extract_model([value.name for value in model.graph.input], cuts)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in core.graph.output}
    if not tail and 4 not in ranks.values():
        return model, None
    return core, _interior_inputs(extractor.extract_model(cuts, results))


def _interior_inputs(tail: onnx.ModelProto) -> onnx.ModelProto:
    """The tail with inputs of images (1, C, H, W) in the interior layout, and with outputs that are no inputs."""
    graph, transposes, inputs = tail.graph, [], []
    for number, value in enumerate(graph.input):
        element, shape = value.type.tensor_type.elem_type, [size.dim_value for size in value.type.tensor_type.shape.dim]
        name = f"given{number}"
        if len(shape) == 4:
            batch, channels, height, width = shape
            shape = [batch, height, width, channels]
            transposes.append(helper.make_node("Transpose", [name], [value.name], perm=list(_TO_NCHW)))
        else:
            transposes.append(helper.make_node("Identity", [name], [value.name]))
        inputs.append(helper.make_tensor_value_info(name, element, shape))
    nodes = [*transposes, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.extend(inputs)
    graph.node.extend(nodes)
    return tail


def with_tail(core: IRModule, tail: IRModule) -> IRModule:
    """One module of kernels of a lowered quantised model and its lowered tail."""
    builder = relax.BlockBuilder()
    (image,) = core["main"].params
    source = relax.Var("input", image.ty)
    with builder.function("main", [source]):
        with builder.dataflow():
            given = splice(builder, core, source)
            values = list(given.fields) if isinstance(given, relax.Tuple) else [given]
            output = builder.emit_output(splice(builder, tail, *values))
        builder.emit_func_output(output)
    return builder.get()
