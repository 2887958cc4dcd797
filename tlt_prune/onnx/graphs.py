"""Traversal of ONNX graphs, as protobuf messages: makers and readers of tensors, stored and computed tensors."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Tensor name -> the node that computes it."""
    return {name: node for node in graph.node for name in node.output}


def stored_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensor name -> its stored value, a TensorProto."""
    return {x.name: x for x in graph.initializer}


def names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the tensors that nodes read, once per reading, including graphs inside nodes (bodies of loops)."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from names_read(inner)
                yield from (x.name for x in inner.output)


def remove_unread_constants(graph: onnx.GraphProto) -> None:
    """Removes stored values that no node reads, in place."""
    used = set(names_read(graph))
    for constant in [x for x in graph.initializer if x.name not in used]:
        graph.initializer.remove(constant)


def fed_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs without a stored value. Old files list their weights among the inputs as well."""
    stored = stored_tensors(model.graph)
    return [x for x in model.graph.input if x.name not in stored]


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the float32 tensors that nodes compute, in the order of the nodes."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {x.name: x.type.tensor_type.elem_type for x in (*inferred.value_info, *inferred.output)}
    computed = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in computed if types.get(name) == onnx.TensorProto.FLOAT]


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a model with further tensors as outputs."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    present = {x.name for x in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return shown


def with_weights_of_their_own(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a quantized model in which every node that reads a stored int8 weight has one of its own."""
    import onnx

    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    graph, stored = apart.graph, stored_tensors(apart.graph)
    weights = {x.output[0]: x for x in graph.node if x.op_type == "DequantizeLinear" and x.input[0] in stored}
    seen: collections.Counter[str] = collections.Counter()
    copies = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            seen[name] += 1
            if name in weights and seen[name] > 1:
                copies.append(_copied_weight(graph, weights[name], stored, f"_{seen[name]}"))
                node.input[i] = copies[-1].output[0]
    for copy in copies:
        # Before whatever reads it.
        graph.node.insert(0, copy)
    return apart


def _copied_weight(
    graph: onnx.GraphProto, node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], suffix: str
) -> onnx.NodeProto:
    """A copy of a DequantizeLinear whose inputs are copies of stored tensors, which the graph receives."""
    copy = type(node)()
    copy.CopyFrom(node)
    for i, name in enumerate(node.input):
        tensor = graph.initializer.add()
        tensor.CopyFrom(stored[name])
        tensor.name = copy.input[i] = f"{name}_of_{node.output[0]}{suffix}"
    copy.name = copy.output[0] = f"{node.output[0]}{suffix}"
    return copy


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether an ONNX model has QuantizeLinear."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def quantization_constants(graph: onnx.GraphProto) -> set[str]:
    """Names of scales and zero points."""
    return {name for node in graph.node if node.op_type in _QUANTIZING for name in node.input[1:]}
