"""Layers with memory, and wrappers: a unit is a channel; the gate blocks of a fused kernel belong to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import tree

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.classes import keras_base
from tlt_prune.graph.labels import Labels, Shape, first_label, varying_axes
from tlt_prune.graph.rules.elementwise import acts_on_each_element
from tlt_prune.graph.rules.registry import layer, wraps


@layer("SimpleRNN", "GRU", "LSTM")
def recurrent(call: CallTrace, x: Labels, *rest: Labels) -> Any:
    """x (batch, time, features); `rest` are initial states, or masks."""
    out = _cell(call, call.op.cell, call.vector(x, -1), call.op.units, "units", _steps(call))
    _couple_states(call, itertools.repeat(out), rest, -1)
    return [call.place(out, -1, output=i) for i in range(len(call.out_shapes))]


@layer("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def conv_lstm(call: CallTrace, x: Labels, *rest: Labels) -> Any:
    first = call.op.data_format == "channels_first"
    rank = x.ndim
    # Without the time axis, channels-first channels are one axis further left.
    axes = [-1 if not first else 2 if len(shape) == rank else 1 for shape in call.out_shapes]
    sequence = len(call.out_shapes[0]) == rank
    # Both kernels work on feature maps of the output's size: the recurrent one pads to keep it.
    positions = call.positions(call.out_shapes[0], axes[0]) * (1 if sequence else _steps(call))
    out = _cell(call, call.op.cell, call.vector(x, 2 if first else -1), call.op.filters, "filters", positions)
    _couple_states(call, itertools.repeat(out), rest, 1 if first else -1)
    return [call.place(out, axis, output=i) for i, axis in enumerate(axes)]


def _steps(call: CallTrace) -> float:
    steps = call.in_shapes[0][1]
    return math.nan if steps is None else float(steps)


@layer("RNN")
def recurrent_cells(call: CallTrace, x: Labels, *rest: Labels) -> Any:
    """x (batch, time, features), step by step through a cell or a stack of them."""
    cell = call.op.cell
    if 1 in varying_axes(x):
        call.freeze(x, "channels over the steps of a recurrent layer")
        x = first_label(x)
    batch, _, *features = call.in_shapes[0]
    states: list[Shape] = [(batch, size) for size in tree.flatten(cell.state_size)]
    shapes: list[Shape] = [(batch, *call.out_shapes[0][-1:]), *states]
    step, *after = call.inside(
        cell, [np.squeeze(x, 1)], [(batch, *features)], shapes, config=("cell", "config"), times=call.in_shapes[0][1]
    )
    _couple_states(call, [x.reshape(-1) for x in after], rest, -1)
    results = [step, *after][: len(call.out_shapes)]
    return [call.place(x.reshape(-1), -1, output=i) for i, x in enumerate(results)]


@layer("SimpleRNNCell", "GRUCell", "LSTMCell")
def recurrent_cell(call: CallTrace, x: Labels, *states: Labels) -> Any:
    """One step: what comes out and the states have the cell's units."""
    out = _cell(call, call.op, call.vector(x, -1), call.op.units, "units", 1)
    return [call.place(out, -1, output=i) for i in range(len(call.out_shapes))]


@layer("StackedRNNCells")
def stacked_cells(call: CallTrace, x: Labels) -> Any:
    """Cells after each other; the states of all of them behind what the last one returns."""
    batch, width = call.in_shapes[0][0], call.in_shapes[0][-1]
    states = []
    for i, cell in enumerate(call.op.cells):
        sizes = tree.flatten(cell.state_size)
        shapes: list[Shape] = [(batch, int(cell.output_size)), *((batch, size) for size in sizes)]
        x, *after = call.inside(
            cell, [x], [(batch, width)], shapes, config=("cells", i, "config"), part=str(i) if len(call.op.cells) > 1 else ""
        )
        states += after
        width = int(cell.output_size)
    return [x, *states]


def _cell(call: CallTrace, cell: Any, incoming: Labels, units: int, key: str, positions: float) -> Labels:
    """Attaches kernel, recurrent kernel and bias; the last axis of each holds one block a gate."""
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
    for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if not acts_on_each_element(function):
            name = getattr(function, "__name__", type(function).__name__)
            call.freeze(out, f"activation '{name}' is not known to be elementwise")
    if keras_base(cell) is None:
        call.freeze(out, f"the cell {type(cell).__name__} of '{call.call.path}' is not Keras' own")
    call.macs(cell.kernel, positions)
    call.macs(cell.recurrent_kernel, positions)
    return out


def _couple_states(call: CallTrace, states: Iterable[Labels], rest: tuple[Labels, ...], axis: int) -> None:
    """Initial states carry the layer's own units, `states`; masks carry no channels."""
    if not rest:
        return
    # tf_keras hands the states over behind the sequence, in one list.
    given = {*call.given("initial_state"), *call.given("sequences"), *call.given("inputs")}
    own = iter(states)
    for i, x in enumerate(rest, start=1):
        if i in given:
            call.table.unify(call.vector(x, axis, tensor=i), next(own))
        elif varying_axes(x):
            call.freeze(x, "mask of a recurrent layer")


@layer("Bidirectional")
@wraps("forward_layer", "backward_layer")
def bidirectional(call: CallTrace, x: Labels, *rest: Labels) -> Any:
    op = call.op
    kind = type(op.forward_layer).__name__
    if not hasattr(op.forward_layer, "cell") or hasattr(op.forward_layer, "filters"):
        return call.freeze_all([x, *rest], f"Bidirectional around {kind}")
    masks = {*call.given("mask")}
    if any(i not in masks for i in range(1, 1 + len(rest))):
        return call.freeze_all([x, *rest], "initial states of Bidirectional")
    for labels in rest:
        if varying_axes(labels):
            call.freeze(labels, "mask of a recurrent layer")
    # tf_keras has one configuration for both directions, which then keep the same number of units.
    second = "backward_layer" if "backward_layer" in op.get_config() else "layer"
    merged = 2 if op.merge_mode is None else 1
    n_states = (len(call.out_shapes) - merged) // 2
    halves, widths = [], []
    for half, entry, name in ((op.forward_layer, "layer", "forward"), (op.backward_layer, second, "backward")):
        first = call.out_shapes[0]
        sizes = tree.flatten(half.cell.state_size)[:n_states]
        widths.append(int(half.cell.output_size))
        shapes: list[Shape] = [(*first[:-1], widths[-1]), *((first[0], size) for size in sizes)]
        halves.append(call.inside(half, [x], call.in_shapes[:1], shapes, config=(entry, "config"), part=name))
    states = [state for half in halves for state in half[1:]]
    return [*_merged(call, [half[0] for half in halves], widths), *states]


def _merged(call: CallTrace, halves: list[Labels], widths: list[int]) -> list[Labels]:
    mode = call.op.merge_mode
    if mode is None:
        return halves
    if mode == "concat":
        return [np.concatenate([np.broadcast_to(x, (*x.shape[:-1], n)) for x, n in zip(halves, widths, strict=True)], axis=-1)]
    call.table.unify(*halves)
    return [max(halves, key=lambda half: half.size)]


@layer("TimeDistributed")
@wraps("layer")
def time_distributed(call: CallTrace, x: Labels, *mask: Labels) -> Any:
    """The inner layer or model, applied to every step: (batch, time, ...) -> (batch, time, ...)."""
    for labels in mask:
        call.freeze(labels, "mask of TimeDistributed")
    if 1 in varying_axes(x):
        call.freeze(x, "channels over the steps of TimeDistributed")
        x = first_label(x)
    step_in, step_out = ([(shape[0], *shape[2:]) for shape in shapes] for shapes in (call.in_shapes[:1], call.out_shapes))
    inner = call.inside(
        call.op.layer, [np.squeeze(x, 1)], step_in, step_out, config=("layer", "config"), times=call.in_shapes[0][1]
    )
    return [np.expand_dims(labels, 1) for labels in inner]
