"""Placement of QuantizeLinear/DequantizeLinear (Q/DQ) in an ONNX graph.

Two placements:

- "tensorrt": for TensorRT's explicit quantization. Symmetric int8 with zero point 0; one scale per tensor for activations,
  one per output channel for weights, which are stored as int8; biases stay float. Q/DQ stands before weighted layers, average
  poolings and additions. An input of an addition that a convolution computes for it alone gets none, so that TensorRT can fuse
  both into one kernel.
- "onnxruntime": for CPUs, where ReLU is fused into a uint8 zero point: placed by onnxruntime's quantizer, with the given ranges.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune.onnx import makers, names_read, remove_unread_constants, stored_tensors
from tlt_prune.quantization.node_types import AVERAGING_NODES, LAYOUT_NODES, ORT_NODES, WEIGHT_AXES
from tlt_prune.quantization.ranges import LEVELS, Range

if TYPE_CHECKING:
    import onnx


def for_tensorrt(model: onnx.ModelProto, ranges: Mapping[str, Range], skipped: set[str]) -> onnx.ModelProto:
    """A copy of a float ONNX model with Q/DQ in the places that TensorRT wants.

    Args:
        model: a float ONNX model.
        ranges: tensor name -> its range; a tensor without one stays float.
        skipped: names of nodes that stay float.
    """
    return _Placement(model, ranges, skipped).run()


def with_int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an ONNX model with Q/DQ on activations, in which the weights that meet these are stored as int8.

    The model was trained with quantization, so rounding the weights to int8 does not change them.
    """
    return _Placement(model, {}, set()).run()


class _Placement:
    """Q/DQ placed for TensorRT, in a copy of a model."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, Range], skipped: set[str]) -> None:
        import onnx

        self._onnx = onnx
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self._ranges, self._skipped = ranges, skipped
        self._constants = stored_tensors(self._graph)
        self._readers = collections.Counter(names_read(self._graph))
        self._readers.update(x.name for x in self._graph.output)
        self._makers = makers(self._graph)
        self._done: dict[tuple[str, int | None], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        for node in list(self._graph.node):
            if node.name not in self._skipped:
                for index, axis in self._wanted(node):
                    name = node.input[index]
                    if axis is None:
                        node.input[index] = self._activation(name)
                    elif self._is_dequantized(node.input[0]):
                        node.input[index] = self._weight(name, axis)
            self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        remove_unread_constants(self._graph)
        return self._model

    def _wanted(self, node: onnx.NodeProto) -> Iterator[tuple[int, int | None]]:
        """Inputs of a node to quantize: index, and the axis of output channels for a weight or None for an activation."""
        if node.op_type in WEIGHT_AXES:
            weight = self._constants.get(node.input[1])
            if weight is None or node.input[0] in self._constants:
                return
            attributes = {x.name: x.i for x in node.attribute}
            if attributes.get("transA", 0):
                return
            axis = 0 if attributes.get("transB", 0) else WEIGHT_AXES[node.op_type] % len(weight.dims)
            # The outputs of a grouped transposed convolution are spread over two axes of its weight.
            if node.op_type != "ConvTranspose" or attributes.get("group", 1) == 1:
                yield 0, None
                yield 1, axis
        elif node.op_type in AVERAGING_NODES:
            yield 0, None
        elif node.op_type == "Add" and all(name in self._ranges for name in node.input):
            fused = next((i for i, name in enumerate(node.input) if self._is_made_for(name, "Conv")), None)
            yield from ((i, None) for i in range(2) if i != fused)

    def _is_made_for(self, name: str, kind: str) -> bool:
        """Whether a node of type `kind` computes a tensor that has one reader only."""
        return name in self._makers and self._makers[name].op_type == kind and self._readers[name] == 1

    def _is_dequantized(self, name: str) -> bool:
        """Whether a tensor comes from DequantizeLinear, directly or through changes of layout."""
        maker = self._makers.get(name)
        while maker is not None and maker.op_type in LAYOUT_NODES:
            maker = self._makers.get(maker.input[0])
        return name in self._done.values() or (maker is not None and maker.op_type == "DequantizeLinear")

    def _activation(self, name: str) -> str:
        if name not in self._ranges:
            return name
        if (name, None) not in self._done:
            self._done[name, None] = f"{name}_dequantized"
            scale = self._constant(f"{name}_scale", np.float32(self._ranges[name].scale))
            zero = self._constant(f"{name}_zero_point", np.int8(0))
            self._node("QuantizeLinear", [name, scale, zero], f"{name}_quantized")
            self._node("DequantizeLinear", [f"{name}_quantized", scale, zero], f"{name}_dequantized")
        return self._done[name, None]

    def _weight(self, name: str, axis: int) -> str:
        if (name, axis) not in self._done:
            self._done[name, axis] = output = f"{name}_dequantized_{axis}"
            integers, scales = quantized_weight(self._onnx.numpy_helper.to_array(self._constants[name]), axis)
            stored = self._constant(f"{name}_int8_{axis}", integers)
            scale = self._constant(f"{name}_scale_{axis}", scales)
            zero = self._constant(f"{name}_zero_point_{axis}", np.zeros(len(scales), np.int8))
            self._node("DequantizeLinear", [stored, scale, zero], output, axis=axis)
        return self._done[name, axis]

    def _constant(self, name: str, value: ArrayLike) -> str:
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))


def quantized_weight(weight: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weight in symmetric int8, and its scales `(n_channels,)`: the largest magnitude of each channel becomes 127."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scales = np.where(largest > 0, largest / np.float32(LEVELS), 1.0).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scales.reshape(shape)), -LEVELS, LEVELS).astype(np.int8), scales


def for_onnxruntime(model: onnx.ModelProto, ranges: Mapping[str, Range], skipped: set[str]) -> onnx.ModelProto:
    """A copy of a float ONNX model with Q/DQ placed by onnxruntime's quantizer; arguments as for `for_tensorrt`."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    copy = onnx.shape_inference.infer_shapes(model)
    limits = {name: (np.float32(min(x.low, 0)), np.float32(max(x.high, 0))) for name, x in ranges.items()}
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(skipped),
        op_types_to_quantize=list(ORT_NODES),
        extra_options={"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    quantizer.model.clean_initializers()
    quantizer.model.topological_sort()
    placed: onnx.ModelProto = quantizer.model.model
    return placed
