"""What the latency of a layer depends on: its operation and sizes, and how many channels it reads and computes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import PlanError
from tlt_prune.graph import Call, ChannelGraph, Labels, has_trait, is_convolution, is_dense
from tlt_prune.pruning.cost.terms import Term

# Channel counts that are measured on either side of a layer.
_POINTS = 5


class LayerShape(TypedDict):
    """Of a layer, all that its latency depends on but its numbers of channels; a dense one has a size alone."""

    kind: Literal["dense", "conv", "depthwise"]
    size: list[int]
    kernel: NotRequired[list[int]]
    strides: NotRequired[list[int]]
    dilation: NotRequired[list[int]]
    padding: NotRequired[str]


def labeled_layers(channels: ChannelGraph) -> list[tuple[LayerShape, list[Labels]]]:
    """(shape of a layer, label vectors that its latency depends on) for each call of a model that is charged.

    Raises:
        PlanError: a size of the model's inputs is open.
    """
    return [x for call in channels.graph.walk() for x in _layers_of(channels, call)]


def layers_of_model(channels: ChannelGraph) -> list[dict[str, Any]]:
    """The layers of a model that are charged, with their channels, one for each call.

    Raises:
        PlanError: a size of the model's inputs is open.
    """
    return [layer_with(shape, [len(v) for v in vectors]) for shape, vectors in labeled_layers(channels)]


def layers_to_measure(channels: ChannelGraph, granularity: int) -> list[dict[str, Any]]:
    """The layers, with their channels, that a table has to have for a model and all that is pruned from it.

    Layers of one shape are measured at the same counts, those of any of them.
    """
    by_shape: dict[str, tuple[LayerShape, list[set[int]]]] = {}
    for shape, vectors in labeled_layers(channels):
        _, points = by_shape.setdefault(key_of(shape), (shape, [set() for _ in vectors]))
        for each, vector in zip(points, vectors, strict=True):
            each.update(points_of(channels, vector, granularity))
    return [layer_with(shape, counts) for shape, points in by_shape.values() for counts in counts_of([sorted(x) for x in points])]


def layer_with(shape: Mapping[str, Any], counts: Sequence[int]) -> dict[str, Any]:
    """A layer of a shape, with its channels."""
    return {**shape, "channels": list(counts)}


def counts_of(grid: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """All counts of a grid."""
    return itertools.product(*grid)


def _layers_of(channels: ChannelGraph, call: Call) -> list[tuple[LayerShape, list[Labels]]]:
    """(shape of a layer, label vectors) for what a call computes; nothing for other layers."""
    family, op = channels.graph.family, call.op
    if call.inner is not None or not family.is_layer(call.op):
        return []
    depthwise = has_trait(family, op, "depthwise convolution") and op.depth_multiplier == 1
    axes = {(a.index, a.axis): a.labels for a in channels.axes if a.op is op}
    if depthwise or is_convolution(family, op):
        first = op.data_format == "channels_first"
        shape = call.inputs[0].shape
        size = shape[2:] if first else shape[1:-1]
        rank = len(size)
        facts: LayerShape = {
            "kind": "depthwise" if depthwise else "conv",
            "size": _fixed(size, call),
            "kernel": list(op.kernel_size),
            "strides": list(op.strides),
            "dilation": list(op.dilation_rate),
            "padding": op.padding,
        }
        vectors = [axes[0, rank]] if depthwise else [axes[0, rank], axes[0, rank + 1]]
        return [(facts, vectors)]
    if is_dense(family, op):
        rows = _fixed(call.inputs[0].shape[1:-1], call)
        return [({"kind": "dense", "size": [int(np.prod(rows))]}, [axes[0, 0], axes[0, 1]])]
    return []


def _fixed(size: Sequence[int | None], call: Call) -> list[int]:
    if None in size:
        raise PlanError(
            f"latency_ms: the size of what '{call.path}' is given is open. Expected a model with fixed sizes, or another budget."
        )
    return [int(n) for n in size if n is not None]


def key_of(layer: Mapping[str, Any]) -> str:
    """A layer's name in a table: all that its latency depends on, as JSON."""
    return json.dumps(layer, sort_keys=True)


def key_of_model(channels: ChannelGraph) -> str:
    """Name of an architecture, whatever its widths: a calibration belongs to it, and to what blocks leave of it."""
    return " ".join(p.name for p in channels.original.producers)


def points_of(channels: ChannelGraph, vector: Labels, granularity: int) -> list[int]:
    """Channel counts to measure at: the whole, and some of the multiples of the granularity below."""
    count = len(vector)
    frozen = np.isin(channels.bundles.root[vector], list(channels.bundles.frozen))
    if frozen.all() or count <= granularity:
        return [count]
    wanted = np.linspace(granularity, count, _POINTS)
    return sorted({*(min(count, max(granularity, round(x / granularity) * granularity)) for x in wanted[:-1].tolist()), count})


def term_of(
    shape: Mapping[str, Any], vectors: Sequence[Labels], grid: Sequence[Sequence[int]], times: Mapping[str, float], scale: float
) -> Term:
    """Milliseconds of a layer, as a function of its channel counts.

    Args:
        shape: the layer.
        vectors: the labels of the channels that it depends on.
        grid: along each of them the counts at which it was measured.
        times: name of a layer (see `key_of`) -> milliseconds.
        scale: factor of all.
    """
    value = interpolated(grid, times_on_grid(shape, grid, times))
    return Term(tuple(vectors), lambda counts: scale * value(counts))


def times_on_grid(shape: Mapping[str, Any], grid: Sequence[Sequence[int]], times: Mapping[str, float]) -> NDArray[np.float64]:
    """Milliseconds of a layer at all counts of a grid."""
    table = np.array([times[key_of(layer_with(shape, counts))] for counts in counts_of(grid)]).reshape([len(x) for x in grid])
    for axis in range(table.ndim):
        # Fewer channels are never slower but by noise.
        table = np.maximum.accumulate(table, axis=axis)
    return table


def interpolated(grid: Sequence[Sequence[int]], table: NDArray[np.float64]) -> Callable[[Sequence[int]], float]:
    """A table's value at any counts: linear in between, constant outside, 0 without channels."""

    def value(counts: Sequence[int]) -> float:
        if 0 in counts:
            return 0.0
        reduced = table
        for points, count in zip(grid, counts, strict=True):
            at = np.interp(count, points, np.arange(len(points)))
            low = int(at)
            high = min(low + 1, len(points) - 1)
            reduced = reduced[low] + (at - low) * (reduced[high] - reduced[low])
        return float(reduced)

    return value
