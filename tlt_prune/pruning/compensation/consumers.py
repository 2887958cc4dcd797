"""The layers that read channels, and where a constant may be added to what they compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph.channel_graph import ChannelGraph
from tlt_prune.graph.family import Family
from tlt_prune.graph.labels import Alive
from tlt_prune.graph.reader import Call, Graph

_BATCH_NORMS = ("BatchNormalization", "SyncBatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2")
_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")


def is_batch_norm(family: Family, op: Any) -> bool:
    return any(family.is_a(op, name) for name in _BATCH_NORMS)


def is_convolution(family: Family, op: Any) -> bool:
    """An ordinary one: every output channel sees every input channel."""
    return any(family.is_a(op, name) for name in _CONVOLUTIONS) and op.groups == 1


def is_dense(family: Family, op: Any) -> bool:
    return family.is_a(op, "Dense")


@dataclasses.dataclass(frozen=True, eq=False)
class Home:
    """Where a constant that is added to a layer's output (before its activation) can live.

    Attributes:
        variable: of the pruned model: the layer's bias, or the moving mean of the batch normalisation behind it.
        sign: 1 where the constant is added to it, -1 where it is subtracted.
    """

    variable: Any
    sign: int

    def value(self, family: Family) -> NDArray[np.float64]:
        """The constant that is there."""
        return self.sign * family.numpy(self.variable).astype(np.float64)

    def add(self, family: Family, constant: NDArray[np.float64]) -> None:
        value = family.numpy(self.variable)
        self.variable.assign((value + self.sign * constant).astype(value.dtype))


def homes(graph: Graph) -> dict[int, Home]:
    """For each convolution and dense layer of a model that has one, by the `id` of the layer."""
    family = graph.family
    readers: dict[int, list[Call]] = {}
    outputs = {x.key for x in graph.flat_outputs}
    for call in graph.walk():
        for x in call.inputs:
            readers.setdefault(x.key, []).append(call)
    found = {}
    for call in graph.walk():
        op = call.op
        if call.inner is not None or not (is_convolution(family, op) or is_dense(family, op)):
            continue
        if op.use_bias:
            found[id(op)] = Home(op.bias, 1)
            continue
        behind = readers.get(call.outputs[0].key, [])
        linear = getattr(op.activation, "__name__", "") == "linear"
        if len(behind) == 1 and linear and call.outputs[0].key not in outputs and is_batch_norm(family, behind[0].op):
            # y -> (y - mean) ...: a constant that is added to y is one that is taken from the mean.
            found[id(op)] = Home(behind[0].op.moving_mean, -1)
    return found


def pairs(original: Graph, pruned: Graph) -> Iterator[tuple[Call, Call]]:
    """The calls of both models, pairwise."""
    return zip(original.walk(), pruned.walk(), strict=True)


def removed_inputs(channels: ChannelGraph, alive: Alive) -> dict[int, dict[int, NDArray[np.bool_]]]:
    """`id` of a layer -> index of a weight -> which of the rows that it reads with are gone; layers that lose none are left out."""
    found: dict[int, dict[int, NDArray[np.bool_]]] = {}
    for axis in channels.axes:
        gone = ~alive[axis.labels]
        if axis.role == "in" and gone.any():
            found.setdefault(id(axis.op), {})[axis.index] = gone
    return found
