"""Raw Keras operations (`keras.ops.*`) that reduce, pool or normalize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.rules.registry import raw_op

_STATISTICS = (
    "Mean", "Sum", "Max", "Min", "Amax", "Amin", "Std", "Var", "Logsumexp", "Norm", "Nanmax", "Nanmean", "Nanmin", "Nanstd",
    "Nansum", "Nanvar",
)  # fmt: skip


@raw_op(*_STATISTICS, "Prod", "Any", "All", "Median", "Argmax", "Argmin", "CountNonzero")
def reduce_op(call: CallTrace, x: Labels) -> Any:
    # CountNonzero has no keepdims.
    keepdims = bool(getattr(call.op, "keepdims", False))
    kind = type(call.op).__name__
    return reduced(call, x, call.op.axis, keepdims, statistic=kind in _STATISTICS, is_sum=kind == "Sum")


def reduced(
    call: CallTrace,
    x: Labels,
    axis: int | Sequence[int] | None,
    keepdims: bool,
    *,
    statistic: bool = False,
    is_sum: bool = False,
) -> Any:
    """A reduction over other axes passes the channels on; over the channels it freezes them, but for a sum, which goes on without
    those that are removed.

    In a layer that was opened a `statistic` is approximate instead, as it is in a normalization layer: most often it is one that
    is written by hand.
    """
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in np.atleast_1d(axis).tolist())
    if any(a in varying_axes(x) for a in axes):
        if is_sum and axis is not None and call.why_not_contracted is None:
            (varying,) = varying_axes(x)
            call.contract(x.reshape(-1), varying, 0)
            return call.frozen(len(call.out_shapes[0]), "a sum over channels")
        if not (statistic and call.is_opened) or axis is None:
            return call.freeze_all([x], "reduced over the channels")[0]
        call.approximate(x, "a statistic over the pruned channels")
        return call.frozen(len(call.out_shapes[0]), "a statistic")
    return x if keepdims else np.squeeze(x, axes)


@raw_op("Moments")
def moments_op(call: CallTrace, x: Labels) -> Any:
    return [reduced(call, x, call.op.axes, call.op.keepdims, statistic=True)] * 2


@raw_op("Glu")
def gated_linear_unit(call: CallTrace, x: Labels) -> Labels:
    """One half times the sigmoid of the other."""
    axis = call.op.axis
    values, gates = np.split(call.materialize(x, axis), 2, axis)
    call.table.unify(values, gates)
    return values


@raw_op("Cumsum", "Cumprod", "Sort")
def along_axis(call: CallTrace, x: Labels) -> Any:
    if call.op.axis is None or call.op.axis % x.ndim in varying_axes(x):
        return call.freeze_all([x], "accumulated over the channels")
    return x


@raw_op("Normalize")
def normalize_op(call: CallTrace, x: Labels) -> Labels:
    if call.op.axis is None or call.op.axis % x.ndim in varying_axes(x):
        call.approximate(x, "normalized over the pruned channels")
    return x


@raw_op("MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool", "Resize", "PadImages", "CropImages")
def pool(call: CallTrace, x: Labels) -> Labels:
    axis = call.channel_axis
    return call.place(call.vector(x, axis), axis) if x.size > 1 else x
