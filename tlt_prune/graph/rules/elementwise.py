"""Layers and operations that treat every element by itself: labels pass unchanged."""

from __future__ import annotations

import functools
import sys
import types

import numpy as np

from tlt_prune.graph.call_trace import CallTrace, Count
from tlt_prune.graph.family import loaded_families
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.nodes import operations_of
from tlt_prune.graph.rules.registry import layer, raw_op, states_trait

# Activation functions that act on each element alone, by the names their homes give them.
_ELEMENTWISE = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "sigmoid", "hard_sigmoid", "hard_silu", "hard_swish",
    "tanh", "hard_tanh", "tanh_shrink", "silu", "swish", "mish", "softplus", "softsign", "exponential", "log_sigmoid",
    "hard_shrink", "soft_shrink", "threshold", "squareplus", "sparse_plus", "sparse_sigmoid", "exp", "abs", "square", "sqrt",
)  # fmt: skip
_NORMALIZING = ("softmax", "log_softmax", "sparsemax")
# Where functions live that a user may pass as an activation: package, path in it. Only what is imported already counts.
_HOMES = (
    ("keras", "activations"), ("keras", "ops"), ("tf_keras", "activations"), ("tensorflow", "nn"), ("tensorflow", "math"),
    ("jax", "nn"), ("jax", "numpy"), ("torch", ""), ("torch", "nn.functional"),
)  # fmt: skip


@functools.cache
def _functions(names: tuple[str, ...], packages: tuple[str, ...]) -> dict[int, object]:
    """The functions of those names in their homes, by `id`: a user's function of the same name is another object."""
    by_id: dict[int, object] = {}
    for package, path in _HOMES:
        if package in packages:
            home = functools.reduce(getattr, filter(None, path.split(".")), sys.modules[package])
            by_id.update({id(f): f for name in names if (f := getattr(home, name, None)) is not None})
    return by_id


def _is_one_of(function: object, names: tuple[str, ...]) -> bool:
    return id(function) in _functions(names, tuple(p for p in dict(_HOMES) if sys.modules.get(p) is not None))


def acts_on_each_element(function: object) -> bool:
    """Whether an activation is known to treat every element by itself, or made of operations that do."""
    return function is None or _is_one_of(function, _ELEMENTWISE) or _is_made_of_elementwise(function)


def _is_made_of_elementwise(function: object) -> bool:
    if not isinstance(function, (types.FunctionType, functools.partial)) or _is_one_of(function, _NORMALIZING):
        return False
    attempts = (operations_of(function, family) for family in loaded_families())
    operations = next((x for x in attempts if x is not None), None)
    return operations is not None and all(
        states_trait(op, "elementwise", is_layer=False) and not any(map(np.ndim, constants)) for op, constants in operations
    )


def activated(call: CallTrace, x: Labels, function: object) -> Labels:
    """`function(x)`, for the activation argument or attribute of a layer."""
    if acts_on_each_element(function):
        return x
    if _is_one_of(function, _NORMALIZING):
        return normalized(call, x, -1)
    # One with weights is built by the first picture only, and not at all when a model is built or loaded.
    if call.is_layer(function) and function.built and not function.weights:
        shape = call.out_shapes[:1]
        labels: Labels = call.inside(function, [x], shape, shape, config=("activation", "config"))[0]
        return labels
    name = getattr(function, "__name__", type(function).__name__)
    return call.freeze_all([x], f"activation '{name}' is not known to be elementwise")[0]


def normalized(call: CallTrace, x: Labels, axis: int | tuple[int, ...] | None) -> Labels:
    """Softmax and its kin: dropping a channel changes the others through the shared denominator."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    if any(a % x.ndim in varying_axes(x) for a in axes):
        call.approximate(x, "softmax over the pruned channels")
    return x


@layer("Activation", traits=["activation attribute"])
def activation(call: CallTrace, x: Labels) -> Labels:
    return activated(call, x, call.op.activation)


@layer("Softmax")
def softmax(call: CallTrace, x: Labels, *mask: Labels) -> Labels:
    axis = call.op.axis
    return normalized(call, x, axis if isinstance(axis, int) else tuple(axis))


@layer("ReLU", "LeakyReLU", "ELU", traits=["activation"])
@layer("ThresholdedReLU")
@layer(
    "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout", "ActivityRegularization",
    "Identity",
    traits=["mean preserving"],
)  # fmt: skip
def unary_layer(call: CallTrace, x: Labels) -> Labels:
    return x


@layer("Dropout", traits=["mean preserving"])
@layer("AlphaDropout")
def dropout(call: CallTrace, x: Labels) -> Labels:
    """`noise_shape`, aligned from the right, may count the channels."""
    shape = call.op.noise_shape
    if shape is None:
        return x
    if not isinstance(shape, (tuple, list)):
        call.freeze(x, "the noise_shape of a Dropout is a tensor")
        return x
    for axis in varying_axes(x):
        at = axis - x.ndim + len(shape)
        if at >= 0 and shape[at] not in (None, 1):
            call.configure("noise_shape", (*shape[:at], Count(x.reshape(-1)), *shape[at + 1 :]))
    return x


@layer("Masking")
def masking(call: CallTrace, x: Labels) -> Labels:
    # A step is skipped when all its features equal the mask value: removing one could change that.
    call.freeze(x, "features of a Masking layer")
    return x


@layer("PReLU", traits=["elementwise weights"])
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
    "Imag", "Isfinite", "Isinf", "Isnan", "LeakyRelu", "Log", "Log10", "Log1p", "Log2", "LogSigmoid",
    "LogicalNot", "NanToNum", "Negative", "OnesLike", "Rad2deg", "Real", "Reciprocal", "Relu", "Relu6", "Round",
    "Rsqrt", "SaturateCast", "Selu", "Sigmoid", "Sign", "Signbit", "Silu", "Sin", "Sinc", "Sinh", "SoftShrink",
    "Softplus", "Softsign", "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus", "StopGradient", "Tan",
    "Tanh", "TanhShrink", "Threshold", "Trunc", "ZerosLike",
    traits=["elementwise"],
)  # fmt: skip
def unary_op(call: CallTrace, x: Labels) -> Labels:
    # Such as the bounds of a clip.
    arrays = [name for name, value in vars(call.op).items() if not name.startswith("_") and np.size(value) > 1]
    if arrays:
        call.freeze(x, f"'{arrays[0]}' of a {type(call.op).__name__} is an array")
    return x


@raw_op("Softmax", "LogSoftmax", "Sparsemax")
def softmax_op(call: CallTrace, x: Labels) -> Labels:
    return normalized(call, x, call.op.axis)
