"""What TensorRT documents of the ONNX graphs that it takes."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import onnx

# docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types": int8 is symmetric, activations have one scale, weights
# one for each output channel; and onnx-tensorrt's table of supported operators.
SUPPORTED = {
    *("Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Flatten", "Gather", "Gemm"),
    *(
        "GlobalAveragePool",
        "MatMul",
        "MaxPool",
        "Mul",
        "QuantizeLinear",
        "Relu",
        "Reshape",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
    ),
    *("Transpose", "Pad", "ReduceMean", "Squeeze", "Unsqueeze"),
}


def pictures(model: keras.Model, n: int = 64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, *model.input_shape[1:])).astype("float32")


def check_tensorrt(path: pathlib.Path) -> dict[str, Any]:
    """What TensorRT's parser asks of explicit quantization; returns the nodes by output."""
    graph = onnx.load(path).graph
    onnx.checker.check_model(onnx.load(path), full_check=True)
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    assert {node.op_type for node in graph.node} <= SUPPORTED
    weighted = 0
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (constants[name] for name in node.input[1:])
            assert zero.dtype == np.int8
            assert not zero.any()
            assert scale.dtype == np.float32
            assert (scale > 0).all()
            assert scale.shape == zero.shape
            if scale.ndim:  # of a weight: stored as int8
                (axis,) = (x.i for x in node.attribute if x.name == "axis")
                stored = constants[node.input[0]]
                assert stored.dtype == np.int8
                assert stored.shape[axis] == len(scale)
                assert stored.min() >= -127
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weighted += 1
            assert all(makers[name].op_type == "DequantizeLinear" for name in (node.input[1],))
            for bias in node.input[2:]:
                assert constants[bias].dtype == np.float32
    assert weighted
    return makers
