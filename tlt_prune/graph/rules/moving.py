"""Layers and operations that move data: the same movement, applied to the label array.

Where a movement is written with numbers that count channels (a slice, a split, a target shape), those
numbers are recomputed from what is retained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tlt_prune.graph.call_trace import CallTrace, Count, Template
from tlt_prune.graph.labels import Labels, Shape, reshape, settle, varying_axes, without_constant_axes
from tlt_prune.graph.rules.registry import layer, raw_op

TakesTemplate = Callable[[Template], None]
"""Receives the template of an argument or configuration entry that counts channels: `CallTrace.argument` or `configure`."""


@layer("Flatten", traits=["flatten"])
def flatten(call: CallTrace, x: Labels) -> Any:
    shape = call.in_shapes[0]
    if getattr(call.op, "data_format", None) == "channels_first" and x.ndim > 2:
        # Both Kerases move the channels last before they flatten.
        x, shape = np.moveaxis(x, 1, -1), (shape[0], *shape[2:], shape[1])
    return _reshaped(call, x, shape, call.out_shapes[0])


@layer("Reshape")
def reshape_layer(call: CallTrace, x: Labels) -> Any:
    return target_edit(call, x, call.op.target_shape, functools.partial(call.configure, "target_shape"), leading=1)


@raw_op("Reshape")
def reshape_op(call: CallTrace, x: Labels) -> Any:
    newshape = call.op.newshape
    target = (newshape,) if isinstance(newshape, int) else newshape
    return target_edit(call, x, target, functools.partial(call.configure, "newshape"))


def target_edit(call: CallTrace, x: Labels, target: Sequence[int], edit: TakesTemplate, leading: int = 0) -> Any:
    """A reshape whose target is rewritten; -1 stays -1, and Keras infers it from what is retained.

    Args:
        target: the shape asked for, without its first `leading` axes.
        edit: receives the template of the new target.
    """
    out = _reshaped(call, x, call.in_shapes[0], call.out_shapes[0])
    for axis in varying_axes(out):
        if not isinstance(target[axis - leading], int):
            return call.freeze_all([x], "reshaped to a computed number of channels")[0]
        if target[axis - leading] != -1:
            edit(_resized(target, axis - leading, out))
    return out


def _reshaped(call: CallTrace, x: Labels, shape: Shape, new_shape: Shape) -> Any:
    moved = reshape(x, shape, new_shape)
    if moved is None:
        return call.freeze_all([x], "reshaped across axes of unknown size")[0]
    axes = varying_axes(without_constant_axes(moved))
    return settle(moved, call.table, call.best_axis(axes))


def _resized(target: Sequence[int], axis: int, out: Labels) -> tuple[Any, ...]:
    return tuple(Count(out.reshape(-1)) if i == axis else size for i, size in enumerate(target))


@layer("Permute")
def permute(call: CallTrace, x: Labels) -> Labels:
    return np.transpose(x, (0, *call.op.dims))


@layer("RepeatVector")
def repeat_vector(call: CallTrace, x: Labels) -> Labels:
    return x[:, None, :]


@raw_op("Transpose")
def transpose(call: CallTrace, x: Labels) -> Labels:
    return np.transpose(x, call.op.axes)


@raw_op("Swapaxes")
def swapaxes(call: CallTrace, x: Labels) -> Labels:
    return np.swapaxes(x, call.op.axis1, call.op.axis2)


@raw_op("Moveaxis")
def moveaxis(call: CallTrace, x: Labels) -> Labels:
    return np.moveaxis(x, call.op.source, call.op.destination)


@raw_op("ExpandDims")
def expand_dims(call: CallTrace, x: Labels) -> Labels:
    return np.expand_dims(x, call.op.axis)


@raw_op("Squeeze")
def squeeze(call: CallTrace, x: Labels) -> Labels:
    axis = call.op.axis
    if axis is None:
        axis = tuple(i for i, size in enumerate(call.in_shapes[0]) if size == 1)
    return np.squeeze(x, axis)


@raw_op("Flip")
def flip(call: CallTrace, x: Labels) -> Labels:
    return np.flip(x, call.op.axis)


def repeated(call: CallTrace, x: Labels, repeats: object, axis: int | None) -> Any:
    """Labels of `repeat` along an axis."""
    if axis is None or not isinstance(repeats, int):
        return call.freeze_all([x], "repeated irregularly")
    return np.repeat(x, repeats, axis) if axis % x.ndim in varying_axes(x) else x


def tiled(call: CallTrace, x: Labels, repeats: int | Sequence[int]) -> Any:
    """Labels of `tile`."""
    if isinstance(repeats, int) or len(repeats) != x.ndim:
        return call.freeze_all([x], "tiled to another rank")
    return np.tile(x, [n if axis in varying_axes(x) else 1 for axis, n in enumerate(repeats)])


@raw_op("Ravel")
def ravel(call: CallTrace, x: Labels) -> Any:
    return call.freeze_all([x], "flattened together with the batch")


@raw_op("Roll")
def roll(call: CallTrace, x: Labels) -> Any:
    return rolled(call, x, call.op.shift, call.op.axis, functools.partial(call.configure, "shift"))


def rolled(call: CallTrace, x: Labels, shift: object, axis: object, edit: TakesTemplate) -> Any:
    """Labels of `roll`."""
    varying = varying_axes(x)
    if not varying:
        return x
    if isinstance(axis, (tuple, list)) and not {a % x.ndim for a in axis} & set(varying):
        return x
    if not isinstance(axis, int) or not isinstance(shift, int):
        return call.freeze_all([x], "rolled along several axes")[0]
    axis %= x.ndim
    if axis not in varying:
        return x
    vector = x.reshape(-1)
    front = np.roll(vector, shift)[: shift % len(vector)]
    edit(Count(front))
    return np.roll(x, shift, axis)


@raw_op("Repeat")
def repeat(call: CallTrace, x: Labels) -> Any:
    return repeated(call, x, call.op.repeats, call.op.axis)


@raw_op("Tile")
def tile(call: CallTrace, x: Labels) -> Any:
    return tiled(call, x, call.op.repeats)


@raw_op("BroadcastTo")
def broadcast_to(call: CallTrace, x: Labels) -> Any:
    target = tuple(call.op.shape)
    x = x.reshape((1,) * (len(target) - x.ndim) + x.shape)
    for axis in varying_axes(x):
        call.configure("shape", _resized(target, axis, x))
    return x


@raw_op("Pad")
def pad(call: CallTrace, x: Labels, *values: Labels) -> Any:
    return padded_labels(call, x, call.op.pad_width, call.op.mode)


def padded_labels(call: CallTrace, x: Labels, widths: ArrayLike, mode: str) -> Any:
    """`widths` as in `np.pad`: one number, one pair, or one pair an axis."""
    pairs = np.broadcast_to(np.asarray(widths), (x.ndim, 2)).tolist()
    for axis in varying_axes(x):
        if any(pairs[axis]):
            return _padded_channels(call, x, axis, pairs[axis], mode)
    return x


def _padded_channels(call: CallTrace, x: Labels, axis: int, pair: Sequence[int], mode: str) -> Any:
    if mode != "constant":
        return call.freeze_all([x], "channels padded by reflection")[0]
    filling = call.table.fresh(1)
    call.freeze(filling, "padding")
    return np.pad(x, [pair if i == axis else (0, 0) for i in range(x.ndim)], constant_values=int(filling[0]))


@raw_op("Split")
def split(call: CallTrace, x: Labels) -> Any:
    axis = call.op.axis % x.ndim
    parts = split_along(call, x, axis)
    if axis in varying_axes(x):
        ends = np.cumsum([part.size for part in parts])[:-1]
        call.configure("indices_or_sections", tuple(Count(x.reshape(-1)[:end]) for end in ends))
    return parts


def split_along(call: CallTrace, x: Labels, axis: int) -> list[Labels]:
    """Labels of each part."""
    if axis % x.ndim not in varying_axes(x):
        return [x] * len(call.out_shapes)
    ends = np.cumsum([shape[axis] or 0 for shape in call.out_shapes])[:-1]
    return np.split(x, ends, axis)


@raw_op("Unstack")
def unstack(call: CallTrace, x: Labels) -> Any:
    return unstacked(call, x, call.op.axis)


def unstacked(call: CallTrace, x: Labels, axis: int) -> Any:
    """Labels of the tensors that `unstack` returns."""
    axis %= x.ndim
    if axis in varying_axes(x):
        return call.freeze_all([x], "channels unstacked into single tensors")
    return [np.squeeze(x, axis)] * len(call.out_shapes)


@raw_op("GetItem")
def getitem(call: CallTrace, x: Labels) -> Any:
    where, key = call.passed(1, "key")
    return sliced(call, x, key, functools.partial(call.argument, where))


def sliced(call: CallTrace, x: Labels, key: object, edit: TakesTemplate) -> Any:
    """`x[key]` for ints, slices, None and one Ellipsis."""
    full = _full_key(key, x.ndim)
    if full is None:
        return call.freeze_all([x], "indexed by something else than ints and slices")
    varying = varying_axes(x)
    # Every axis but the channels' has size 1 in the label array: any index or slice of it is 0.
    parts = [(i, part) for i, part in enumerate(full) if part is not None]
    plain = [_on_size_one(part) if part is not None else None for part in full]
    for axis in varying:
        position, part = parts[axis]
        vector = x.reshape(-1)
        if isinstance(part, slice) and part.step not in (None, 1) and part != slice(None, None, -1):
            if not _couples_steps(call, vector, part):
                return call.freeze_all([x], "channels sliced with a step")
            plain[position] = part
            continue
        if isinstance(part, int):
            call.freeze(vector[part], "a single channel")
        plain[position] = part
        if part not in (slice(None), slice(None, None, -1), slice(None, None, 1)):
            edit(tuple(_recounted(part, vector) if i == position else other for i, other in enumerate(full)))
    # Down to a single number, NumPy returns no array.
    return np.asarray(x[tuple(plain)])


def _couples_steps(call: CallTrace, vector: Labels, part: slice) -> bool:
    """Whether a slice takes one of every `step` channels: these go together, so that the same slice takes the rest's."""
    start, step = part.start or 0, part.step
    if not (part.stop is None and 0 <= start < step and len(vector) % step == 0):
        return False
    rows = vector.reshape(-1, step)
    call.table.unify(rows, rows[:, :1])
    return True


def _on_size_one(part: int | slice) -> int | slice:
    return 0 if isinstance(part, int) else slice(None)


def _full_key(key: object, rank: int) -> list[int | slice | None] | None:
    """One entry an axis (plus None for new ones), with the Ellipsis spelled out."""
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    parts = [int(p) if isinstance(p, np.integer) else p for p in parts]
    if not all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts):
        return None
    if any(
        isinstance(b, bool) or (b is not None and not isinstance(b, int))
        for p in parts
        if isinstance(p, slice)
        for b in (p.start, p.stop, p.step)
    ):
        return None
    missing = rank - sum(p is not None and p is not Ellipsis for p in parts)
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    return parts[:at] + [slice(None)] * missing + parts[at + 1 :]


def _recounted(part: int | slice, vector: Labels) -> Any:
    if isinstance(part, int):
        return Count(vector[: part % len(vector)])
    start, stop, _ = part.indices(len(vector))
    return slice(Count(vector[:start]), Count(vector[: max(start, stop)]), None)


@raw_op("Slice")
def slice_op(call: CallTrace, x: Labels, *starts: Labels) -> Any:
    where, start = call.passed(1, "start_indices")
    if starts or start is None:
        return call.freeze_all([x, *starts], "sliced at a computed position")
    begins = [int(n) for n in np.asarray(start).tolist()]
    for axis in varying_axes(x):
        vector, begin, size = x.reshape(-1), begins[axis], call.out_shapes[0][axis]
        if size is None:
            call.freeze(x, "sliced to a size that is known only when it runs")
            return call.frozen(x.ndim, "sliced to a size that is known only when it runs")
        call.argument(where, tuple(Count(vector[:n]) if i == axis else n for i, n in enumerate(begins)))
        call.configure(
            "shape", tuple(Count(vector[begin : begin + size]) if i == axis else n for i, n in enumerate(call.op.shape))
        )
        x = np.take(x, range(begin, begin + size), axis)
    return x


@raw_op("DepthToSpace")
def depth_to_space(call: CallTrace, x: Labels) -> Any:
    return shuffled_up(call, x, call.op.block_size, call.channel_axis)


def shuffled_up(call: CallTrace, x: Labels, block: int, axis: int) -> Labels:
    """Channel (i * block + j) * depth + c goes to offset (i, j): couple the offsets."""
    rows = call.vector(x, axis).reshape(block * block, -1)
    call.table.unify(rows, rows[:1])
    return call.place(rows[0], axis)


@raw_op("SpaceToDepth")
def space_to_depth(call: CallTrace, x: Labels) -> Labels:
    axis = call.channel_axis
    return call.place(np.tile(call.vector(x, axis), call.op.block_size**2), axis)
