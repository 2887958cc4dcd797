"""ONNX nodes that quantization treats differently from others, by operation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
"""Nodes with a weight -> axis of its output channels. Gemm's depends on transB."""

LAYOUT_NODES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Nodes that move values and change none."""

AVERAGING_NODES = ("GlobalAveragePool", "AveragePool")
"""Nodes whose input is quantized though they have no weights."""

ORT_NODES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "Concat", *AVERAGING_NODES)
"""Nodes that onnxruntime's quantizer is to quantize."""

FEWEST_CHANNELS = 16
"""Of a layer that is faster in int8 on NVIDIA's GPUs: their tensor cores compute with so many at a time."""


def channels_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[int, int] | None:
    """(input channels, output channels) of a node with a stored weight; None for other nodes. Those of all groups together."""
    weight = constants.get(node.input[1]) if node.op_type in WEIGHT_AXES and len(node.input) > 1 else None
    if weight is None or len(weight.dims) < 2:
        return None
    attributes = {x.name: x.i for x in node.attribute}
    groups = attributes.get("group", 1)
    first, second = weight.dims[0], weight.dims[1]
    if node.op_type == "Conv":
        return second * groups, first
    if node.op_type == "ConvTranspose":
        return first, second * groups
    rows, columns = weight.dims[-2], weight.dims[-1]
    return (columns, rows) if attributes.get("transB", 0) else (rows, columns)


def narrow_nodes(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> list[str]:
    """Names of the nodes of fewer than `FEWEST_CHANNELS` input or output channels, in the order of the graph."""
    found = ((node.name, channels_of(node, constants)) for node in graph.node)
    return [name for name, channels in found if min(channels or (math.inf,)) < FEWEST_CHANNELS]
