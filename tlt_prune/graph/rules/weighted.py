"""Layers with a kernel: they contract the incoming channels and issue fresh ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlt_prune.graph.call_trace import CallTrace, Count
from tlt_prune.graph.labels import Labels, first_label, varying_axes
from tlt_prune.graph.rules.elementwise import activated
from tlt_prune.graph.rules.registry import layer, wraps


@layer(
    "Conv1D", "Conv2D", "Conv3D", "Convolution1D", "Convolution2D", "Convolution3D",
    traits=("convolution", "activation attribute"),
)  # fmt: skip
def conv(call: CallTrace, x: Labels) -> Labels:
    op, axis = call.op, call.channel_axis
    if _lies_in_space(call, x, axis):
        return _convolved_over_channels(call, x, axis)
    incoming = call.vector(x, axis)
    groups, filters = op.groups, op.filters
    positions = call.positions(call.out_shapes[0], axis)
    call.macs(op.kernel, positions)
    if groups > 1 and groups == len(incoming):
        # One input channel a group: a depthwise convolution by another name. Its groups can go one by one.
        out = np.repeat(incoming, filters // groups)
        call.count("groups", incoming)
        call.attach(op.kernel, -1, out, "follow")
    else:
        if groups > 1:
            _alike_in_groups(call, incoming, groups)
        out = call.fresh(filters)
        if groups > 1:
            _alike_in_groups(call, out, groups)
        call.attach(op.kernel, -2, incoming[: len(incoming) // groups], "in")
        call.attach(op.kernel, -1, out, "out")
    call.produce(out, (op.kernel, (-1,), out))
    call.follow(out, op.bias)
    call.count("filters", out)
    return activated(call, call.place(out, axis), op.activation)


def _lies_in_space(call: CallTrace, x: Labels, axis: int) -> bool:
    """Whether the channels lie on an axis that the kernel slides along, and come out as many."""
    varying = varying_axes(x)
    if len(varying) != 1 or varying[0] in (0, axis % x.ndim):
        return False
    same = call.op.padding in ("same", "causal") and set(call.op.strides) == {1}
    return bool(same and call.in_shapes[0][varying[0]] == call.out_shapes[0][varying[0]])


def _convolved_over_channels(call: CallTrace, x: Labels, axis: int) -> Labels:
    """Efficient channel attention: each channel is mixed with its neighbors, which are others once some are gone."""
    call.approximate(x, "convolved over the pruned channels")
    call.macs(call.op.kernel, call.positions(call.out_shapes[0], axis))
    for position, variable in ((-2, call.op.kernel), (-1, call.op.kernel), (0, call.op.bias)):
        if variable is not None:
            whole = call.fresh(variable.shape[position])
            call.freeze(whole, "mixes neighboring channels")
            call.attach(variable, position, whole, "follow")
    return activated(call, x, call.op.activation)


def _alike_in_groups(call: CallTrace, vector: Labels, groups: int) -> None:
    """Grouped kernels need equal counts in each group: couple the groups offset by offset."""
    rows = vector.reshape(groups, -1)
    call.table.unify(rows, rows[:1])


@layer(
    "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
    "Convolution1DTranspose", "Convolution2DTranspose", "Convolution3DTranspose",
    traits=["transposed convolution"],
)  # fmt: skip
def conv_transpose(call: CallTrace, x: Labels) -> Labels:
    op, axis = call.op, call.channel_axis
    incoming, out = call.vector(x, axis), call.fresh(op.filters)
    call.attach(op.kernel, -1, incoming, "in")
    call.attach(op.kernel, -2, out, "out")
    call.produce(out, (op.kernel, (-2,), out))
    call.follow(out, op.bias)
    call.count("filters", out)
    # Every input position is multiplied with the whole kernel.
    call.macs(op.kernel, call.positions(call.in_shapes[0], axis))
    return activated(call, call.place(out, axis), op.activation)


@layer("DepthwiseConv1D", "DepthwiseConv2D", traits=["depthwise convolution"])
def depthwise(call: CallTrace, x: Labels) -> Labels:
    op, axis = call.op, call.channel_axis
    incoming = call.vector(x, axis)
    out = np.repeat(incoming, op.depth_multiplier)
    kernel = _depthwise_kernel(op)
    call.attach(kernel, -2, incoming, "follow")
    call.produce(out, (kernel, (-2, -1), out))
    call.follow(out, op.bias)
    call.macs(kernel, call.positions(call.out_shapes[0], axis))
    return activated(call, call.place(out, axis), op.activation)


@layer(
    "SeparableConv1D", "SeparableConv2D", "SeparableConvolution1D", "SeparableConvolution2D",
    traits=["separable convolution"],
)  # fmt: skip
def separable(call: CallTrace, x: Labels) -> Labels:
    op, axis = call.op, call.channel_axis
    incoming = call.vector(x, axis)
    between = np.repeat(incoming, op.depth_multiplier)
    out = call.fresh(op.filters)
    call.attach(op.depthwise_kernel, -2, incoming, "follow")
    call.attach(op.pointwise_kernel, -2, between, "in")
    call.attach(op.pointwise_kernel, -1, out, "out")
    call.produce(out, (op.pointwise_kernel, (-1,), out))
    call.follow(out, op.bias)
    call.count("filters", out)
    positions = call.positions(call.out_shapes[0], axis)
    call.macs(op.depthwise_kernel, positions)
    call.macs(op.pointwise_kernel, positions)
    return activated(call, call.place(out, axis), op.activation)


def _depthwise_kernel(op: Any) -> Any:
    # tf_keras names the variable after the layer, Keras 3 plainly `kernel`.
    kernel = getattr(op, "depthwise_kernel", None)
    return op.kernel if kernel is None else kernel


@layer("Dense", traits=("dense", "activation attribute"))
def dense(call: CallTrace, x: Labels) -> Labels:
    op = call.op
    varying = varying_axes(x)
    if varying and x.ndim - 1 not in varying and len(varying) == 1 and call.out_shapes[0][varying[0]] == x.size:
        # An MLP over tokens: every channel goes through it by itself.
        out = call.fresh(op.units)
        call.freeze(out, "computed for every channel by itself")
        call.attach(op.kernel, 1, out, "out")
        call.produce(out, (op.kernel, (1,), out))
        call.follow(out, op.bias)
        call.work(call.positions(call.out_shapes[0], -1, varying[0]) * int(np.prod(op.kernel.shape)), x.reshape(-1))
        return activated(call, x, op.activation)
    incoming, out = call.vector(x, -1), call.fresh(op.units)
    call.attach(op.kernel, 0, incoming, "in")
    call.attach(op.kernel, 1, out, "out")
    call.produce(out, (op.kernel, (1,), out))
    call.follow(out, op.bias)
    call.count("units", out)
    call.macs(op.kernel, call.positions(call.out_shapes[0], -1))
    return activated(call, call.place(out, -1), op.activation)


@layer("Embedding")
def embedding(call: CallTrace, x: Labels) -> Labels:
    op = call.op
    out = call.fresh(op.output_dim)
    call.freeze(x, "indices of an Embedding")
    call.attach(op.embeddings, 1, out, "out")
    call.produce(out, (op.embeddings, (1,), out))
    call.count("output_dim", out)
    return call.place(out, -1)


@layer("EinsumDense", traits=["activation attribute"])
def einsum_dense(call: CallTrace, x: Labels) -> Any:
    """`abc,cd->abd`: letters of the kernel in the input are contracted, those only in the output fresh."""
    op = call.op
    inputs, kernel, output = _einsum_terms(op.equation, len(call.in_shapes[0]))
    contracted = [c for c in kernel if c in inputs and c not in output]
    issued = [c for c in kernel if c in output and c not in inputs]
    varying = [inputs[axis] for axis in varying_axes(x)]
    if any(c not in contracted for c in varying):
        call.freeze(x, "channels on an axis that EinsumDense does not contract")
        x, varying = first_label(x), []
    for c in contracted:
        axis = inputs.index(c)
        if (c in varying or not varying) and call.in_shapes[0][axis] is not None:
            call.attach(op.kernel, kernel.index(c), call.vector(x, axis), "in")
    call.macs(op.kernel, call.positions(call.in_shapes[0], *(inputs.index(c) for c in kernel if c in inputs)))
    if not issued:
        return call.freeze_all([x], "EinsumDense issues no channels")
    # One axis is pruned: that which products leave alone (the heads), else the last issued one; the others are spatial.
    best = call.best_axis([output.index(c) for c in issued])
    channel = max(issued, key=output.index) if best is None else output[best]
    out = call.fresh(op.kernel.shape[kernel.index(channel)])
    call.attach(op.kernel, kernel.index(channel), out, "out")
    call.produce(out, (op.kernel, (kernel.index(channel),), out))
    if op.bias is not None and channel in op.bias_axes:
        # The bias has one axis an output axis from the first named one on, of size 1 where not named.
        first = min(output.index(c) for c in op.bias_axes)
        call.attach(op.bias, output.index(channel) - first, out, "follow")
    sizes = op.get_config()["output_shape"]
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    sizes[_explicit(op.equation, inputs).index(channel)] = Count(out)
    call.configure("output_shape", tuple(sizes))
    return activated(call, call.place(out, output.index(channel)), op.activation)


def _einsum_terms(equation: str, in_rank: int) -> tuple[str, str, str]:
    """Input, kernel and output letters, with "..." spelled out."""
    left, output = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    spare = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in equation]
    extra = "".join(spare[: in_rank - len(inputs.replace("...", ""))])
    return inputs.replace("...", extra), kernel.replace("...", ""), output.replace("...", extra)


def _explicit(equation: str, inputs: str) -> str:
    """The output letters that the configured output shape counts: neither the batch nor what "..." stands for."""
    output = equation.replace(" ", "").split("->")[1].replace("...", "")
    return output.replace(inputs[0], "", 1)


@layer("SpectralNormalization")
@wraps("layer")
def spectral_normalization(call: CallTrace, x: Labels) -> Any:
    """The layer inside; in training its kernel is divided by its largest singular value, for which there is a vector."""
    op = call.op
    outputs = call.inside(op.layer, [x], call.in_shapes, call.out_shapes, config=("layer", "config"))
    # One entry for each index of the kernel's last axis: filters of a convolution, channels read of a transposed one.
    labels = call.labels_along(op.kernel, -1)
    if labels is not None:
        call.attach(op.vector_u, -1, labels, "follow")
    return outputs
