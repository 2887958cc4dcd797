"""Operations on several tensors: elementwise ones couple channels, concatenation lines them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import tree
from numpy.typing import ArrayLike

from tlt_prune.graph.call_trace import CallTrace, Cut
from tlt_prune.graph.labels import Labels, Shape, varying_axes
from tlt_prune.graph.rules.registry import layer, raw_op


# CustomScaleLayer is InceptionResNetV2's: x + scale * y.
@layer("Add", traits=["sum"])
@layer("Subtract", "Multiply", "Average", "Maximum", "Minimum", "CustomScaleLayer")
def merge(call: CallTrace, *xs: Labels) -> Labels:
    return combine(call, list(xs), call.in_shapes)


@raw_op("Add", traits=["elementwise", "sum"])
@raw_op(
    "Subtract", "Multiply", "Divide", "DivideNoNan", "TrueDivide", "FloorDivide", "Maximum", "Minimum", "Fmax", "Fmin",
    "Power", "Mod", "Fmod", "Arctan2", "Hypot", "Logaddexp", "Logaddexp2", "Where", "Equal", "NotEqual", "Greater",
    "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr", "LogicalXor", "Isclose", "Nextafter", "Heaviside",
    traits=["elementwise"],
)  # fmt: skip
def merge_op(call: CallTrace, *xs: Labels) -> Labels:
    return combine(call, list(xs), call.in_shapes, constants(call))


def combine(
    call: CallTrace,
    xs: list[Labels],
    shapes: Sequence[Shape],
    constant_arguments: Sequence[tuple[int | str, Any]] = (),
) -> Labels:
    """Labels of an elementwise operation with NumPy broadcasting.

    Along the axis where labels vary, operands of full size are coupled index by index; an operand
    of size 1 is broadcast and couples nothing; a constant array of full size is cut to match.
    """
    out_shape = call.out_shapes[0]
    rank = len(out_shape)
    aligned = [x.reshape((1,) * (rank - x.ndim) + x.shape) for x in xs]
    sizes = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    axes = {axis for x in aligned for axis in varying_axes(x)}
    if not axes:
        # Either all are frozen already, or a single label runs through them: keep them together.
        for x in aligned[1:]:
            call.table.unify(x.reshape(-1)[:1], aligned[0].reshape(-1)[:1])
        return aligned[0].reshape(-1)[:1].reshape((1,) * rank)
    if len(axes) > 1:
        reason = "channels on different axes meet elementwise"
        return call.freeze_all(xs, reason)[0]
    (axis,) = axes
    full = [x for x, shape in zip(aligned, sizes, strict=True) if shape[axis] != 1]
    for x, shape in zip(aligned, sizes, strict=True):
        if shape[axis] == 1:
            call.freeze(x, "broadcast along the channel axis")
    out = max(full, key=lambda x: x.size)
    for x in full:
        call.table.unify(out, x)
    for key, values in constant_arguments:
        shorter = cut(values, axis - rank, out.reshape(-1))
        if shorter is not None:
            call.argument(key, shorter)
    return out


def cut(values: ArrayLike, axis: int, vector: Labels) -> Cut | None:
    """The template of constant `values` that meet `vector` on `axis` (negative, as broadcasting aligns from the right)."""
    shape = np.shape(values)
    return Cut(values, axis, vector) if len(shape) >= -axis and shape[axis] == len(vector) > 1 else None


def constants(call: CallTrace) -> list[tuple[int | str, Any]]:
    """Array arguments of a raw operation, lists of numbers included, as (position or keyword, values)."""
    arguments: list[tuple[int | str, Any]] = [*enumerate(call.call.args), *call.call.kwargs.items()]
    return [(key, values) for key, given in arguments if (values := _values(given)) is not None]


def _values(given: object) -> Any | None:
    if isinstance(given, (list, tuple)):
        return given if given and all(isinstance(x, (int, float)) for x in tree.flatten(given)) else None
    if hasattr(given, "__array__") and hasattr(given, "shape") and np.ndim(given):
        return np.asarray(given)
    return None


def channelwise(call: CallTrace, *xs: Labels) -> Labels:
    """The rule of a layer that the user declared to treat every channel by itself."""
    return combine(call, list(xs), call.in_shapes)


@layer("Concatenate", traits=["concatenation"])
def concatenate(call: CallTrace, *xs: Labels) -> Labels:
    return concat(call, list(xs), call.op.axis)


@raw_op("Concatenate", traits=["concatenation"])
def concatenate_op(call: CallTrace, *xs: Labels) -> Any:
    if len(xs) != len(call.call.args[0]):
        return call.freeze_all(xs, "concatenated with a constant")
    return concat(call, list(xs), call.op.axis)


def concat(call: CallTrace, xs: list[Labels], axis: int) -> Labels:
    """Lines the labels up along `axis`; on the other axes they are coupled by `settle`."""
    axis %= xs[0].ndim
    if any(shape[axis] is None for shape in call.in_shapes):
        # Unknown sizes cannot be lined up, but labels never vary along them.
        out = max(xs, key=lambda x: x.size)
        if any(x.size > 1 and varying_axes(x) != varying_axes(out) for x in xs):
            return call.freeze_all(xs, "channels on different axes are concatenated")[0]
        for x in xs:
            call.table.unify(out, x)
        return out
    parts = [call.materialize(x, axis, tensor=i) for i, x in enumerate(xs)]
    shape = np.max([[1 if i == axis else n for i, n in enumerate(x.shape)] for x in parts], axis=0)
    spread = [np.broadcast_to(x, [x.shape[axis] if i == axis else n for i, n in enumerate(shape)]) for x in parts]
    return np.concatenate(spread, axis=axis)


@raw_op("Stack")
def stack(call: CallTrace, *xs: Labels) -> Any:
    if len(xs) != len(call.call.args[0]):
        return call.freeze_all(xs, "stacked with a constant")
    return stacked_labels(call, xs, call.op.axis)


def stacked_labels(call: CallTrace, xs: Sequence[Labels], axis: int) -> Labels:
    """Along a new axis; the channels of all are coupled by `settle`."""
    axis %= len(call.out_shapes[0])
    shape = np.max([x.shape for x in xs], axis=0)
    return np.stack([np.broadcast_to(x, shape) for x in xs], axis=axis)
