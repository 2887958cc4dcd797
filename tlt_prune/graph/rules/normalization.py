"""Normalization and scaling: parameters follow the channels; statistics over them are approximate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.facets import Carried, plain
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.rules.merging import constants, cut
from tlt_prune.graph.rules.registry import layer, raw_op, takes_facets
from tlt_prune.graph.types import Variable


def _axes(axis: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(int(a) % rank for a in ([axis] if isinstance(axis, int) else axis))


@layer(
    "BatchNormalization", "SyncBatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2",
    traits=["batch normalization", "elementwise weights"],
)  # fmt: skip
def batch_normalization(call: CallTrace, x: Labels, *mask: Labels) -> Labels:
    op = call.op
    axes = _axes(op.axis, x.ndim)
    if len(axes) > 1 or any(axis not in axes for axis in varying_axes(x)):
        call.freeze(x, "BatchNormalization over another axis than the channels'")
        return x
    vector = call.vector(x, axes[0])
    call.follow(vector, op.gamma, op.beta, op.moving_mean, op.moving_variance)
    return x


@layer("LayerNormalization", traits=["elementwise weights"])
def layer_normalization(call: CallTrace, x: Labels) -> Labels:
    return _over_axes(call, x, _axes(call.op.axis, x.ndim), (call.op.gamma, call.op.beta))


@layer("RMSNormalization", traits=["elementwise weights"])
def rms_normalization(call: CallTrace, x: Labels) -> Labels:
    return _over_axes(call, x, _axes(call.op.axis, x.ndim), (call.op.scale,))


@layer("UnitNormalization")
def unit_normalization(call: CallTrace, x: Labels) -> Labels:
    return _over_axes(call, x, _axes(call.op.axis, x.ndim), ())


def _over_axes(call: CallTrace, x: Labels, axes: tuple[int, ...], parameters: Sequence[Variable | None]) -> Labels:
    """Statistics over `axes`; parameters have the sizes of `axes`, in order."""
    for axis in varying_axes(x):
        if axis not in axes:
            continue
        call.approximate(x, f"{type(call.op).__name__} over the pruned channels")
        for parameter in parameters:
            call.attach(parameter, axes.index(axis), call.vector(x, axis), "follow")
    return x


@layer("GroupNormalization", traits=["elementwise weights"])
def group_normalization(call: CallTrace, x: Labels) -> Labels:
    op = call.op
    (axis,) = _axes(op.axis, x.ndim)
    if varying_axes(x) not in ((), (axis,)):
        call.freeze(x, "GroupNormalization over another axis than the channels'")
        return x
    vector = call.vector(x, axis)
    groups = len(vector) if op.groups == -1 else op.groups
    call.follow(vector, op.gamma, op.beta)
    if groups == len(vector):
        # Instance normalization: every channel has its own statistics, so removal is exact.
        call.count("groups", vector)
        return x
    rows = vector.reshape(groups, -1)
    call.table.unify(rows, rows[:1])
    call.approximate(x, "GroupNormalization over the pruned channels")
    return x


@layer("Rescaling")
def rescaling(call: CallTrace, x: Labels) -> Labels:
    _cut_constants(call, x, {"scale": call.op.scale, "offset": call.op.offset})
    return x


def _cut_constants(call: CallTrace, x: Labels, constants: Mapping[str, ArrayLike]) -> None:
    """Configuration entries that broadcast against `x`."""
    for axis in varying_axes(x):
        for key, values in constants.items():
            shorter = cut(values, axis - x.ndim, x.reshape(-1))
            if shorter is not None:
                call.configure(key, shorter)


@layer("Normalization", traits=["elementwise weights"])
def normalization(call: CallTrace, x: Labels) -> Labels:
    """(x - mean) / sqrt(variance), constants of the configuration or adapted weights."""
    op = call.op
    axes = _axes(op.axis, x.ndim)
    varying = [axis for axis in varying_axes(x) if axis in axes]
    if not varying:
        return x
    if len(axes) > 1:
        call.freeze(x, "Normalization over several axes")
    elif op.input_mean is None:
        call.follow(call.vector(x, varying[0]), op.adapt_mean, op.adapt_variance)
    else:
        # One value a channel, whatever the axis: reshaped by the layer.
        for key, values in (("mean", op.input_mean), ("variance", op.input_variance)):
            shorter = cut(values, -1, x.reshape(-1))
            if shorter is not None:
                call.configure(key, shorter)
    return x


@layer("LayerScale", traits=["elementwise weights"])
def layer_scale(call: CallTrace, x: Labels) -> Labels:
    call.follow(call.vector(x, -1), call.op.gamma)
    call.count("projection_dim", call.vector(x, -1))
    return x


# --- raw operations, whose parameters are variables of an opened layer ---


@raw_op("BatchNorm")
@takes_facets
def batch_norm_op(call: CallTrace, x: Carried, *parameters: Carried) -> Any:
    labels = plain(x)
    axis = call.op.axis % labels.ndim
    if varying_axes(labels) not in ((), (axis,)):
        return call.freeze_all([labels, *map(plain, parameters)], "normalized along another axis than its channels'")
    vector = call.vector(labels, axis)
    _parameters_follow(call, vector, parameters)
    return call.place(vector, axis)


@raw_op("LayerNorm", "RMSNorm")
@takes_facets
def layer_norm_op(call: CallTrace, x: Carried, *parameters: Carried) -> Any:
    labels = plain(x)
    axes = _axes(call.op.axis, labels.ndim)
    varying = varying_axes(labels)
    if not any(axis in axes for axis in varying):
        # Over other axes than the channels': so are the parameters.
        for parameter in parameters:
            call.freeze_other_facets(parameter)
        return labels
    if len(axes) > 1 and (parameters or constants(call)):
        return call.freeze_all([labels, *map(plain, parameters)], "parameters over several axes")
    call.approximate(labels, "normalized over the pruned channels")
    _parameters_follow(call, labels.reshape(-1), parameters)
    return labels


def _parameters_follow(call: CallTrace, vector: Labels, parameters: Sequence[Carried]) -> None:
    """Vectors with one entry per channel, variables or constants."""
    for key, values in constants(call):
        shorter = cut(values, -1, vector)
        if shorter is not None:
            call.argument(key, shorter)
    for parameter in parameters:
        labels = plain(parameter)
        call.table.unify(labels.reshape(-1), vector if labels.size in (1, len(vector)) else vector[:1])
