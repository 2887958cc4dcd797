"""Raw Keras operations (`keras.ops.*`) that reduce, pool or normalize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.rules.registry import raw_op


@raw_op(
    "Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var", "Any", "All", "Median", "Logsumexp", "Argmax", "Argmin",
    "CountNonzero", "Norm", "Nanmax", "Nanmean", "Nanmin", "Nanstd", "Nansum", "Nanvar",
)  # fmt: skip
def reduce_op(call: CallTrace, x: Labels) -> Any:
    # CountNonzero has no keepdims.
    return reduced(call, x, call.op.axis, bool(getattr(call.op, "keepdims", False)))


def reduced(call: CallTrace, x: Labels, axis: int | Sequence[int] | None, keepdims: bool) -> Any:
    """A reduction over other axes passes the channels on; over the channels it freezes them."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in np.atleast_1d(axis).tolist())
    if any(a in varying_axes(x) for a in axes):
        return call.freeze_all([x], "reduced over the channels")[0]
    return x if keepdims else np.squeeze(x, axes)


@raw_op("Moments")
def moments_op(call: CallTrace, x: Labels) -> Any:
    if any(axis % x.ndim in varying_axes(x) for axis in np.atleast_1d(call.op.axes).tolist()):
        return call.freeze_all([x], "reduced over the channels")
    return [reduced(call, x, call.op.axes, call.op.keepdims)] * 2


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
