"""Lists of the Keras layers and ONNX nodes that quantization treats differently from others."""

from __future__ import annotations

# --- Keras layers, by class name ---

KERNEL_CHANNEL_AXES: dict[str, tuple[int, ...]] = {
    "Conv1D": (-1,),
    "Conv2D": (-1,),
    "Conv3D": (-1,),
    "Conv2DTranspose": (-2,),
    "DepthwiseConv2D": (-2, -1),
    "Dense": (-1,),
}
"""Layers with a quantized form -> axes of the output channels in their kernel."""

AVERAGING_LAYERS = tuple(f"{kind}AveragePooling{n}D" for kind in ("", "Global") for n in (1, 2, 3))
"""Layers whose input is quantized though they have no weights."""

FLOAT_LAYERS = ("BatchNormalization", "LayerNormalization", "GroupNormalization", "PReLU", "Normalization")
"""Layers whose weights are not multiplied with activations as a kernel is, and stay float."""

TWIN_LAYERS = ("Conv2D", "Dense")
"""Layers that 2:4 sparsity and clustering work on."""

# --- ONNX nodes, by operation ---

WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
"""Nodes with a weight -> axis of its output channels. Gemm's depends on transB."""

LAYOUT_NODES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Nodes that move values and change none."""

AVERAGING_NODES = ("GlobalAveragePool", "AveragePool")
"""Nodes whose input is quantized though they have no weights."""

ORT_NODES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "Concat", *AVERAGING_NODES)
"""Nodes that onnxruntime's quantizer is to quantize."""
