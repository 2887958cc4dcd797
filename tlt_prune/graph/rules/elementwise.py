"""Layers and operations that treat every element by itself: labels pass unchanged."""

from __future__ import annotations

from typing import Any

from tlt_prune.graph.channels import CallTrace
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.rules.registry import layer, raw_op

# Names of activation functions known to act on each element alone.
ELEMENTWISE = frozenset(
    [
        "linear",
        "relu",
        "relu6",
        "leaky_relu",
        "leakyrelu",  # the layer, given as an activation
        "elu",
        "selu",
        "celu",
        "gelu",
        "sigmoid",
        "hard_sigmoid",
        "hard_silu",
        "hard_swish",
        "tanh",
        "hard_tanh",
        "tanh_shrink",
        "silu",
        "swish",
        "mish",
        "softplus",
        "softsign",
        "exponential",
        "log_sigmoid",
        "hard_shrink",
        "soft_shrink",
        "threshold",
        "squareplus",
        "sparse_plus",
        "exp",
        "abs",
        "square",
        "sqrt",
    ]
)
NORMALISING = frozenset(("softmax", "log_softmax"))


def function_name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__)).lower()


def activated(call: CallTrace, x: Labels, function: Any) -> Labels:
    """`function(x)`, for the activation argument or attribute of a layer."""
    name = "linear" if function is None else function_name(function)
    if name in NORMALISING:
        return normalised(call, x, -1)
    if name in ELEMENTWISE:
        return x
    return call.freeze_all([x], f"activation '{name}' is not known to be elementwise")[0]


def normalised(call: CallTrace, x: Labels, axis: int | tuple[int, ...] | None) -> Labels:
    """Softmax and its kin: dropping a channel changes the others through the shared denominator."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    if any(a % x.ndim in varying_axes(x) for a in axes):
        call.approximate(x, "softmax over the pruned channels")
    return x


@layer("Activation")
def activation(call: CallTrace, x: Labels) -> Labels:
    return activated(call, x, call.op.activation)


@layer("Softmax")
def softmax(call: CallTrace, x: Labels, *mask: Labels) -> Labels:
    axis = call.op.axis
    return normalised(call, x, axis if isinstance(axis, int) else tuple(axis))


@layer(
    "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity", "StochasticDepth",
)  # fmt: skip
def unary_layer(call: CallTrace, x: Labels) -> Labels:
    return x


@layer("Masking")
def masking(call: CallTrace, x: Labels) -> Labels:
    # A step is skipped when all its features equal the mask value: removing one could change that.
    call.freeze(x, "features of a Masking layer")
    return x


@layer("PReLU")
def prelu(call: CallTrace, x: Labels) -> Labels:
    for axis in varying_axes(x):
        # alpha has no batch axis, and size 1 on shared axes.
        if call.op.alpha.shape[axis - 1] > 1:
            call.attach(call.op.alpha, axis - 1, call.vector(x, axis), "follow")
    return x


@raw_op(
    "Abs", "Absolute", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan", "Arctanh", "BitwiseInvert", "BitwiseNot",
    "Cast", "Cbrt", "Ceil", "Celu", "Clip", "Conjugate", "ConvertToTensor", "Copy", "Cos", "Cosh", "Deg2rad", "Elu", "Erf",
    "Erfc", "Erfinv", "Exp", "Exp2", "Expm1", "Fabs", "Floor", "Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh",
    "Identity", "Imag", "Isfinite", "Isinf", "Isnan", "LeakyRelu", "Log", "Log10", "Log1p", "Log2", "LogSigmoid",
    "LogicalNot", "NanToNum", "Negative", "OnesLike", "Rad2deg", "Real", "Reciprocal", "Relu", "Relu6", "Round",
    "Rsqrt", "SaturateCast", "Selu", "Sigmoid", "Sign", "Signbit", "Silu", "Sin", "Sinc", "Sinh", "SoftShrink",
    "Softplus", "Softsign", "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus", "StopGradient", "Tan",
    "Tanh", "TanhShrink", "Threshold", "Trunc", "ZerosLike",
)  # fmt: skip
def unary_op(call: CallTrace, x: Labels) -> Labels:
    return x


@raw_op("Softmax", "LogSoftmax")
def softmax_op(call: CallTrace, x: Labels) -> Labels:
    return normalised(call, x, call.op.axis)
