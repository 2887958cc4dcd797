"""Layers with memory, and wrappers: a unit is a channel; the gate blocks of a fused kernel belong to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlt_prune.graph.channels import CallTrace
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.rules.registry import layer


@layer("SimpleRNN", "GRU", "LSTM")
def recurrent(call: CallTrace, x: Labels, *rest: Labels) -> Any:
    """x (batch, time, features); `rest` are initial states, or masks."""
    out = _cell(call, call.op, call.vector(x, -1), call.op.units, "units", feature_axis=-1)
    _couple_states(call, out, rest, -1)
    return [call.place(out, -1, output=i) for i in range(len(call.out_shapes))]


@layer("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def conv_lstm(call: CallTrace, x: Labels, *rest: Labels) -> Any:
    first = call.op.data_format == "channels_first"
    out = _cell(call, call.op, call.vector(x, 2 if first else -1), call.op.filters, "filters", 2 if first else -1)
    rank = x.ndim
    placed = []
    for i, shape in enumerate(call.out_shapes):
        # Without the time axis, channels-first channels are one axis further left.
        axis = -1 if not first else 2 if len(shape) == rank else 1
        placed.append(call.place(out, axis, output=i))
    _couple_states(call, out, rest, 1 if first else -1)
    return placed


def _cell(call: CallTrace, layer: Any, incoming: Labels, units: int, key: str, feature_axis: int) -> Labels:
    """Attaches kernel, recurrent kernel and bias; the last axis of each holds one block a gate."""
    cell = layer.cell
    out = call.fresh(units)
    gates = cell.kernel.shape[-1] // units
    blocks = np.tile(out, gates)
    last = len(cell.kernel.shape) - 1
    call.attach(cell.kernel, -2, incoming, "in")
    call.attach(cell.kernel, -1, blocks, "out")
    call.attach(cell.recurrent_kernel, -2, out, "in")
    call.attach(cell.recurrent_kernel, -1, blocks, "out")
    call.attach(cell.bias, -1, blocks, "follow")
    call.produce(out, (cell.kernel, (last,), blocks), (cell.recurrent_kernel, (last,), blocks))
    call.count(key, out)
    steps = call.positions(call.in_shapes[0], feature_axis)
    call.macs(cell.kernel, steps)
    call.macs(cell.recurrent_kernel, steps)
    return out


def _couple_states(call: CallTrace, out: Labels, rest: tuple[Labels, ...], axis: int) -> None:
    """Initial states carry the layer's own units; masks, one axis short, carry no channels."""
    for i, x in enumerate(rest, start=1):
        if call.in_shapes[i][axis % x.ndim] == len(out) and x.ndim == len(call.in_shapes[0]) - 1:
            call.table.unify(call.vector(x, axis, tensor=i), out)
        elif varying_axes(x):
            call.freeze(x, "mask of a recurrent layer")


@layer("Bidirectional")
def bidirectional(call: CallTrace, x: Labels, *rest: Labels) -> Any:
    op = call.op
    inner = op.forward_layer
    kind = type(inner).__name__
    if kind not in ("SimpleRNN", "GRU", "LSTM") or rest:
        return call.freeze_all([x, *rest], f"Bidirectional around {kind}, or with initial states")
    incoming = call.vector(x, -1)
    # tf_keras has one configuration for both directions, which then keep the same number of units.
    second = "backward_layer" if "backward_layer" in op.get_config() else "layer"
    halves = []
    for half, entry, name in ((inner, "layer", "forward"), (op.backward_layer, second, "backward")):
        view = call.wrapped(half, (entry, "config"), call.in_shapes, call.out_shapes, part=name)
        halves.append(_cell(view, half, incoming, half.units, "units", -1))
    merged = _merged(call, halves)
    states = len(call.out_shapes) - len(merged)
    placed = [call.place(vector, -1, output=i) for i, vector in enumerate(merged)]
    for i in range(states):
        half = halves[0] if i < states // 2 else halves[1]
        placed.append(call.place(half, -1, output=len(merged) + i))
    return placed


def _merged(call: CallTrace, halves: list[Labels]) -> list[Labels]:
    mode = call.op.merge_mode
    if mode is None:
        return halves
    if mode == "concat":
        return [np.concatenate(halves)]
    call.table.unify(*halves)
    return [halves[0]]


@layer("TimeDistributed")
def time_distributed(call: CallTrace, x: Labels, *mask: Labels) -> Any:
    """The inner layer's rule, without the time axis."""
    inner = call.op.layer
    rule = call.rule_of(inner)
    if rule is None:
        return call.freeze_unknown([x, *mask], inner)
    if 1 in varying_axes(x):
        return call.freeze_all([x, *mask], "channels over the steps of TimeDistributed")
    short = [(shape[0], *shape[2:]) for shape in (call.in_shapes[0], call.out_shapes[0])]
    view = call.wrapped(inner, ("layer", "config"), short[:1], short[1:], times=call.in_shapes[0][1])
    return np.expand_dims(rule(view, np.squeeze(x, 1)), 1)
