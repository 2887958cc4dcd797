"""Operations on several tensors: elementwise ones couple channels, concatenation lines them up."""

from __future__ import annotations

import math
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


@raw_op("Add", traits=["sum"])
@raw_op(
    "Subtract", "Multiply", "Divide", "DivideNoNan", "TrueDivide", "FloorDivide", "Maximum", "Minimum", "Fmax", "Fmin",
    "Power", "Mod", "Fmod", "Arctan2", "Hypot", "Logaddexp", "Logaddexp2", "Where", "Equal", "NotEqual", "Greater",
    "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr", "LogicalXor", "Isclose", "Nextafter", "Heaviside",
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


@layer("Dot")
def dot(call: CallTrace, a: Labels, b: Labels) -> Any:
    axes = call.op.axes
    rank_a, rank_b = a.ndim, b.ndim
    pair = (axes % rank_a, axes % rank_b) if isinstance(axes, int) else (axes[0] % rank_a, axes[1] % rank_b)
    letters_a = "Z" + "abcdefgh"[: rank_a - 1]
    letters_b = list("Z" + "ijklmnop"[: rank_b - 1])
    letters_b[pair[1]] = letters_a[pair[0]]
    terms_b = "".join(letters_b)
    kept = [c for c in letters_a if c != letters_a[pair[0]]] + [c for c in terms_b[1:] if c != letters_a[pair[0]]]
    output = "".join(kept) if len(kept) == len(call.out_shapes[0]) else "Z!"
    # `normalize` divides by the length of the contracted vectors, whose channels are frozen anyway.
    return contract(call, [a, b], [letters_a, terms_b], output)


def contract(call: CallTrace, xs: Sequence[Labels], terms: Sequence[str], output: str) -> Any:
    """Labels of a product of activations, in einsum letters ("!" for an axis that is none's).

    A contracted channel has no weight whose row could be zeroed, so it stays; the others pass on.
    """
    varying: dict[str, list[Labels]] = {}
    sizes = {
        c: size for shape, letters in zip(call.in_shapes, terms, strict=True) for c, size in zip(letters, shape, strict=True)
    }
    # Of one input: the first axis is the batch.
    del sizes[terms[0][0]]
    for x, letters in zip(xs, terms, strict=True):
        for axis in varying_axes(x):
            varying.setdefault(letters[axis], []).append(x.reshape(-1))
    lost = [c for c in varying if c not in output]
    if len(varying) - len(lost) > 1:
        return call.freeze_all(xs, "channels of both operands would span two axes of a product")
    for letter in lost:
        for vector in varying[letter]:
            call.freeze(vector, "contracted with other activations")
    kept = [c for c in varying if c in output]
    others = [size for c, size in sizes.items() if c not in kept]
    call.work(math.nan if None in others else math.prod(others), *(varying[c][0] for c in kept))  # type: ignore[arg-type]
    if not kept:
        return call.freeze_all([], "product of activations")
    letter = kept[0]
    vectors = varying[letter]
    for vector in vectors[1:]:
        call.table.unify(vectors[0], vector)
    for x, letters, shape in zip(xs, terms, call.in_shapes, strict=True):
        if letter in letters and x.shape[letters.index(letter)] == 1 and shape[letters.index(letter)] != 1:
            # An operand of full size there whose own channels lie elsewhere: none of its slices can be told apart.
            call.freeze(vectors[0], "multiplied with a tensor whose channels lie on another axis")
            call.freeze(x, "multiplied with a tensor whose channels lie on another axis")
    return call.place(vectors[0], output.index(letter))


@raw_op("Matmul")
def matmul(call: CallTrace, *xs: Labels) -> Any:
    if len(xs) != 2 or min(x.ndim for x in xs) < 2:
        return call.freeze_all(xs, "multiplied with a constant")
    a, b = xs
    rank = max(a.ndim, b.ndim)
    batch = "abcdefghij"[: rank - 2]
    return contract(call, [a, b], [batch[rank - a.ndim :] + "xy", batch[rank - b.ndim :] + "yz"], batch + "xz")


@raw_op("Einsum")
def einsum(call: CallTrace, *xs: Labels) -> Any:
    subscripts = call.op.subscripts.replace(" ", "")
    if "->" not in subscripts or "..." in subscripts or len(subscripts.split("->")[0].split(",")) != len(xs):
        return call.freeze_all(xs, "einsum with constants, ellipsis or implicit output")
    left, output = subscripts.split("->")
    return contract(call, xs, left.split(","), output)
