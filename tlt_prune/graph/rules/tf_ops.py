"""TensorFlow functions in tf_keras graphs, which record them with the arguments of the call.

A function is known by the symbol that tf_keras records, often that of the version 1 function which it calls
("compat.v1.transpose" for `tf.transpose`): tests/graph/test_every_tf_function.py holds the two together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.graph.call_trace import CallTrace, Count
from tlt_prune.graph.facets import Carried, Facets, plain
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.reader import Tensor
from tlt_prune.graph.rules.gathering import looked_up, taken
from tlt_prune.graph.rules.merging import combine, concat, constants, stacked_labels
from tlt_prune.graph.rules.moving import (
    padded_labels,
    repeated,
    rolled,
    sliced,
    split_along,
    tiled,
    unstacked,
)
from tlt_prune.graph.rules.moving import target_edit as _target_edit
from tlt_prune.graph.rules.products import by_axes
from tlt_prune.graph.rules.raw import reduced
from tlt_prune.graph.rules.registry import takes_facets, tf_op
from tlt_prune.graph.rules.tf_nn import freeze_sizes


@tf_op(
    "math.abs", "math.ceil", "math.cos", "math.erf", "math.exp", "math.expm1", "math.floor", "math.log", "math.log1p",
    "math.negative", "math.reciprocal", "math.round", "math.rsqrt", "math.sigmoid", "math.sign", "math.sin",
    "math.softplus", "math.sqrt", "math.square", "math.tanh", "nn.elu", "nn.gelu", "nn.leaky_relu", "nn.relu",
    "nn.relu6", "nn.selu", "nn.silu", "nn.softsign", "cast", "identity", "stop_gradient", "clip_by_value", "ones_like",
    "zeros_like", "math.is_nan", "math.is_finite", "math.is_inf", "math.logical_not", "nn.dropout",
    traits=["elementwise"],
)  # fmt: skip
def unary(call: CallTrace, x: Labels) -> Labels:
    return x


@tf_op("math.add", "__operators__.add", traits=["elementwise", "sum"])
@tf_op(
    "math.subtract", "math.multiply", "math.truediv", "math.maximum", "math.minimum", "math.pow",
    "math.squared_difference", "math.divide_no_nan", "compat.v1.floor_div", "math.atan2", "where",
    "math.greater", "math.less", "math.greater_equal", "math.less_equal", "math.equal", "math.not_equal",
    "math.floormod", "math.logical_and", "math.logical_or", "compat.v1.where", "math.add_n",
    traits=["elementwise"],
)  # fmt: skip
def binary(call: CallTrace, *xs: Labels) -> Labels:
    return combine(call, list(xs), call.in_shapes, constants(call))


@tf_op(
    "math.reduce_mean", "math.reduce_sum", "math.reduce_max", "math.reduce_min", "math.reduce_std", "math.reduce_variance",
    "math.reduce_prod", "math.reduce_logsumexp", "math.reduce_any", "math.reduce_all",
)  # fmt: skip
def reduce(call: CallTrace, *xs: Labels) -> Any:
    axis, keepdims = call.passed(1, "axis")[1], bool(call.passed(2, "keepdims", False)[1])
    if len(xs) > 1:
        # A list stands for its tensors, stacked: over the first axis, element by element.
        one_by_one = axis == 0 and not keepdims
        return (
            combine(call, list(xs), call.in_shapes) if one_by_one else call.freeze_all(xs, "a list, reduced along another axis")
        )
    kind = call.op.symbol.removeprefix("math.reduce_")
    return reduced(call, xs[0], axis, keepdims, statistic=kind not in ("prod", "any", "all"), is_sum=kind == "sum")


@tf_op("math.argmax", "math.argmin")
def tf_argmax(call: CallTrace, x: Labels) -> Any:
    return reduced(call, x, call.passed(1, "axis")[1] or 0, keepdims=False)


@tf_op("compat.v1.norm")
def tf_norm(call: CallTrace, x: Labels) -> Any:
    keepdims = bool(call.passed(3, "keepdims", False)[1] or call.call.kwargs.get("keep_dims"))
    return reduced(call, x, call.passed(2, "axis")[1], keepdims, statistic=True)


@tf_op("math.cumsum", "math.cumprod", "sort")
def tf_along_axis(call: CallTrace, x: Labels) -> Any:
    axis = call.passed(1, "axis", -1 if call.op.symbol == "sort" else 0)[1]
    return call.freeze_all([x], "accumulated over the channels") if axis % x.ndim in varying_axes(x) else x


@tf_op("rank")
def tf_rank(call: CallTrace, x: Labels) -> Labels:
    return call.frozen(0, "the number of axes")


@tf_op("ensure_shape")
def ensure_shape(call: CallTrace, x: Labels) -> Any:
    where, shape = call.passed(1, "shape")
    for axis in varying_axes(x):
        call.argument(where, tuple(Count(x.reshape(-1)) if i == axis else n for i, n in enumerate(shape)))
    return x


@tf_op("linalg.matrix_transpose")
def matrix_transpose(call: CallTrace, x: Labels) -> Labels:
    return np.swapaxes(x, -1, -2)


@tf_op("compat.v1.shape")
def shape(call: CallTrace, x: Labels) -> Labels:
    """The sizes of `x`. Whoever uses the number of channels keeps them from being removed; the batch size is harmless."""
    sizes = call.fresh(x.ndim)
    for axis in varying_axes(x):
        call.table.freeze_if(int(sizes[axis]), x, "computed with the number of channels")
    return sizes


@tf_op("reshape")
def tf_reshape(call: CallTrace, x: Labels, *sizes: Labels) -> Any:
    where, target = call.passed(1, "shape")
    if not isinstance(target, (list, tuple)):
        return call.freeze_all([x, *sizes], "reshaped to a computed shape")
    # A computed size among the numbers, most often the batch.
    fixed = [int(n) if isinstance(n, (int, np.integer)) else n for n in target]
    freeze_sizes(call, sizes)
    return _target_edit(call, x, fixed, functools.partial(call.argument, where))


@tf_op("compat.v1.transpose")
def tf_transpose(call: CallTrace, x: Labels) -> Labels:
    return np.transpose(x, call.passed(1, "perm")[1])


@tf_op("compat.v1.pad")
def tf_pad(call: CallTrace, x: Labels) -> Any:
    return padded_labels(call, x, call.passed(1, "paddings")[1], str(call.passed(2, "mode", "CONSTANT")[1]).lower())


@tf_op("compat.v1.gather")
@takes_facets
def gather(call: CallTrace, x: Carried, *indices: Labels) -> Any:
    where, chosen = call.passed(1, "indices")
    axis = call.passed(4, "axis")[1] or 0
    if call.passed(5, "batch_dims")[1]:
        return call.freeze_all([plain(x), *indices], "gathered for each example by itself")
    if isinstance(x, Facets):
        return looked_up(call, x, indices, chosen, axis)
    return taken(call, [x, *indices], None if indices else chosen, axis, functools.partial(call.argument, where))


def _repetitions(call: CallTrace, x: Labels, numbers: Any, sizes: Sequence[Labels]) -> list[int] | None:
    """How often each axis is repeated, where some are computed, most often from the batch: no matter on an axis without channels.

    None where that cannot be told.
    """
    freeze_sizes(call, sizes)
    if not isinstance(numbers, (list, tuple)):
        return None if sizes else [int(n) for n in np.asarray(numbers)]
    if any(isinstance(n, Tensor) and axis in varying_axes(x) for axis, n in enumerate(numbers)):
        return None
    return [1 if isinstance(n, Tensor) else int(n) for n in numbers]


@tf_op("tile")
def tf_tile(call: CallTrace, x: Labels, *sizes: Labels) -> Any:
    times = _repetitions(call, x, call.passed(1, "multiples")[1], sizes)
    return call.freeze_all([x], "tiled by computed numbers") if times is None else tiled(call, x, times)


@tf_op("repeat")
def tf_repeat(call: CallTrace, x: Labels, *sizes: Labels) -> Any:
    axis = call.passed(2, "axis")[1]
    if sizes and axis is not None and axis % x.ndim not in varying_axes(x):
        freeze_sizes(call, sizes)
        return x
    return repeated(call, x, call.passed(1, "repeats")[1], axis)


@tf_op("broadcast_to")
def tf_broadcast_to(call: CallTrace, x: Labels, *sizes: Labels) -> Any:
    where, target = call.passed(1, "shape")
    rank = len(call.out_shapes[0])
    freeze_sizes(call, sizes)
    x = x.reshape((1,) * (rank - x.ndim) + x.shape)
    if varying_axes(x) and not isinstance(target, (list, tuple)):
        return call.freeze_all([x], "broadcast to a computed shape")
    for axis in varying_axes(x):
        call.argument(where, [Count(x.reshape(-1)) if i == axis else n for i, n in enumerate(target)])
    return x


@tf_op("reverse")
def reverse(call: CallTrace, x: Labels) -> Labels:
    return np.flip(x, tuple(int(a) for a in call.passed(1, "axis")[1]))


@tf_op("stack")
def tf_stack(call: CallTrace, *xs: Labels) -> Any:
    if len(call.passed(0, "values")[1]) != len(xs):
        return call.freeze_all(xs, "stacked with a constant")
    return stacked_labels(call, xs, int(call.passed(1, "axis", 0)[1]))


@tf_op("unstack")
def tf_unstack(call: CallTrace, x: Labels) -> Any:
    return unstacked(call, x, int(call.passed(2, "axis", 0)[1]))


@tf_op("expand_dims")
def tf_expand_dims(call: CallTrace, x: Labels) -> Labels:
    return np.expand_dims(x, call.passed(1, "axis")[1])


@tf_op("compat.v1.squeeze")
def tf_squeeze(call: CallTrace, x: Labels) -> Labels:
    axis = call.passed(1, "axis")[1]
    axes = tuple(i for i, n in enumerate(call.in_shapes[0]) if n == 1) if axis is None else tuple(np.atleast_1d(axis).tolist())
    return np.squeeze(x, axes)


@tf_op("concat")
def tf_concatenate(call: CallTrace, *xs: Labels) -> Any:
    values = call.passed(0, "values")[1]
    if len(values) != len(xs):
        return call.freeze_all(xs, "concatenated with a constant")
    return concat(call, list(xs), call.passed(1, "axis")[1])


@tf_op("split")
def tf_split(call: CallTrace, x: Labels) -> Any:
    where, _ = call.passed(1, "num_or_size_splits")
    axis = int(call.passed(2, "axis", 0)[1])
    parts = split_along(call, x, axis)
    if axis % x.ndim in varying_axes(x):
        call.argument(where, [Count(part.reshape(-1)) for part in parts])
    return parts


@tf_op("roll")
def tf_roll(call: CallTrace, x: Labels) -> Any:
    where, shift = call.passed(1, "shift")
    return rolled(call, x, shift, call.passed(2, "axis")[1], functools.partial(call.argument, where))


@tf_op("tensordot")
@takes_facets
def tf_tensordot(call: CallTrace, *xs: Carried) -> Any:
    return by_axes(call, call.passed(2, "axes")[1], xs)


@tf_op("__operators__.getitem")
def tf_getitem(call: CallTrace, x: Labels) -> Any:
    where, key = call.passed(1, "slice_spec")
    parts = tuple(_as_slice(p) for p in key) if isinstance(key, (tuple, list)) else _as_slice(key)
    return sliced(call, x, parts, lambda value: call.argument(where, tuple(_as_dict(p) for p in value)))


def _as_slice(part: object) -> object:
    # tf_keras records slices as dictionaries.
    return slice(part["start"], part["stop"], part["step"]) if isinstance(part, dict) else part


def _as_dict(part: object) -> object:
    return {"start": part.start, "stop": part.stop, "step": part.step} if isinstance(part, slice) else part
