"""Functions of `tf.nn` and `tf.image` in tf_keras graphs, under the names of version 1 too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.graph.call_trace import CallTrace, Count
from tlt_prune.graph.facets import Carried
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.rules.elementwise import normalized
from tlt_prune.graph.rules.merging import combine, constants
from tlt_prune.graph.rules.moving import shuffled_up
from tlt_prune.graph.rules.products import conv_op, depthwise_conv_op
from tlt_prune.graph.rules.registry import takes_facets, tf_op


def freeze_sizes(call: CallTrace, sizes: Sequence[Labels]) -> None:
    """Whatever computed sizes a function is given, they stay."""
    for labels in sizes:
        call.freeze(labels, "a size")


@tf_op("nn.depth_to_space", "compat.v1.nn.depth_to_space")
def tf_depth_to_space(call: CallTrace, x: Labels) -> Any:
    return shuffled_up(call, x, int(call.passed(1, "block_size")[1]), call.channel_axis)


@tf_op("nn.space_to_depth", "compat.v1.nn.space_to_depth")
def tf_space_to_depth(call: CallTrace, x: Labels) -> Labels:
    times = int(call.passed(1, "block_size")[1]) ** 2
    return call.place(np.tile(call.vector(x, call.channel_axis), times), call.channel_axis)


@tf_op(
    "nn.max_pool2d", "nn.avg_pool2d", "nn.avg_pool", "compat.v1.nn.max_pool", "compat.v1.nn.avg_pool", "compat.v1.nn.pool",
)  # fmt: skip
def tf_pool(call: CallTrace, x: Labels) -> Labels:
    return call.place(call.vector(x, call.channel_axis), call.channel_axis)


@tf_op(
    "image.resize", "compat.v1.image.resize_images", "compat.v1.image.resize_bilinear", "compat.v1.image.resize_bicubic",
    "compat.v1.image.resize_nearest_neighbor", "compat.v1.image.resize_area", "image.flip_left_right", "image.flip_up_down",
)  # fmt: skip
def of_pictures(call: CallTrace, x: Labels, *sizes: Labels) -> Labels:
    freeze_sizes(call, sizes)
    return call.place(call.vector(x, -1), -1)


@tf_op("image.extract_patches", "compat.v1.image.extract_image_patches")
def extract_patches(call: CallTrace, x: Labels) -> Labels:
    """Patches lie behind each other: all channels of the first position, then those of the next."""
    return call.place(np.tile(call.vector(x, -1), (call.out_shapes[0][-1] or 0) // (call.in_shapes[0][-1] or 1)), -1)


@tf_op("nn.softmax", "nn.log_softmax", "compat.v1.nn.softmax", "compat.v1.nn.log_softmax")
def tf_softmax(call: CallTrace, x: Labels) -> Labels:
    axis = call.passed(1, "axis", -1)[1]
    return normalized(call, x, -1 if axis is None else axis)


@tf_op("math.l2_normalize")
def l2_normalize(call: CallTrace, x: Labels) -> Labels:
    axis = call.passed(1, "axis")[1]
    if axis is None or any(a % x.ndim in varying_axes(x) for a in np.atleast_1d(axis).tolist()):
        call.approximate(x, "normalized over the pruned channels")
    return x


@tf_op("compat.v1.nn.crelu")
def concatenated_relu(call: CallTrace, x: Labels) -> Labels:
    """relu(x) and relu(-x), behind each other."""
    axis = int(call.passed(2, "axis", -1)[1])
    whole = call.materialize(x, axis)
    return np.concatenate([whole, whole], axis)


@tf_op("nn.bias_add")
def bias_add(call: CallTrace, x: Labels, *bias: Labels) -> Any:
    if not bias:
        return combine(call, [x], call.in_shapes, constants(call))
    axis = call.channel_axis % x.ndim
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    shapes = [call.in_shapes[0], tuple(call.in_shapes[1][0] if i == axis else 1 for i in range(x.ndim))]
    return combine(call, [x, bias[0].reshape(shape)], shapes, ())


@tf_op("nn.convolution", "compat.v1.nn.conv1d", "compat.v1.nn.conv2d", "nn.conv3d")
@takes_facets
def tf_convolution(call: CallTrace, x: Carried, kernel: Carried | None = None) -> Any:
    return conv_op(call, x, kernel)


@tf_op("compat.v1.nn.depthwise_conv2d")
@takes_facets
def tf_depthwise_convolution(call: CallTrace, x: Carried, kernel: Carried | None = None) -> Any:
    return depthwise_conv_op(call, x, kernel)


@tf_op("slice")
def tf_slice(call: CallTrace, x: Labels, *computed: Labels) -> Any:
    (_, begin), (where, size) = call.passed(1, "begin"), call.passed(2, "size")
    return _whole(call, x, computed, begin, size, where, all_the_rest=-1)


@tf_op("strided_slice")
def tf_strided_slice(call: CallTrace, x: Labels, *computed: Labels) -> Any:
    (_, begin), (where, end) = call.passed(1, "begin"), call.passed(2, "end")
    others = [call.passed(3 + i, name)[1] for i, name in enumerate(("strides", "begin_mask", "end_mask", "ellipsis_mask"))]
    others += [call.passed(7 + i, name)[1] for i, name in enumerate(("new_axis_mask", "shrink_axis_mask"))]
    if any(np.any(x) for x in others[1:] if x is not None) or (others[0] is not None and np.any(np.asarray(others[0]) != 1)):
        return call.freeze_all([x, *computed], "sliced with steps or masks")
    return _whole(call, x, computed, begin, end, where)


def _whole(
    call: CallTrace,
    x: Labels,
    computed: Sequence[Labels],
    begin: Any,
    end: Any,
    where: int | str,
    all_the_rest: int | None = None,
) -> Any:
    """Labels of a slice that takes all channels, whatever it takes along other axes."""
    varying = varying_axes(x)
    if computed or not all(isinstance(a, (list, tuple)) for a in (begin, end)):
        return call.freeze_all([x, *computed], "sliced at a computed position") if varying else x
    for axis in varying:
        if begin[axis] != 0 or end[axis] not in (all_the_rest, x.shape[axis]):
            return call.freeze_all([x], "sliced along the channels")
        if end[axis] != all_the_rest:
            call.argument(where, [Count(x.reshape(-1)) if i == axis else n for i, n in enumerate(end)])
    return x
