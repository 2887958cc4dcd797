"""ONNX nodes that quantization treats differently from others, by operation."""

from __future__ import annotations

WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
"""Nodes with a weight -> axis of its output channels. Gemm's depends on transB."""

LAYOUT_NODES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Nodes that move values and change none."""

AVERAGING_NODES = ("GlobalAveragePool", "AveragePool")
"""Nodes whose input is quantized though they have no weights."""

ORT_NODES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "Concat", *AVERAGING_NODES)
"""Nodes that onnxruntime's quantizer is to quantize."""
