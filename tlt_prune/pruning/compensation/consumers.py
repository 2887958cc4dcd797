"""The layers that read channels, and where a constant may be added to what they compute."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph import (
    Alive,
    BatchNormalization,
    Call,
    ChannelGraph,
    Family,
    Graph,
    Projection,
    Variable,
    assign_finite,
    has_kernel,
    has_trait,
    is_batch_norm,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Shortcut:
    """The other terms of a sum that a layer's output goes into, with a batch normalization in between or not.

    Attributes:
        others: keys of the other tensors of the sum.
        norm: the batch normalization in between, or None.
    """

    others: tuple[int, ...]
    norm: BatchNormalization | None


@dataclasses.dataclass(frozen=True, eq=False)
class Home:
    """The variable that can hold a constant to be added to a layer's output, before its activation.

    Attributes:
        variable: of the pruned model: the layer's bias, or the moving mean of the batch normalization behind it.
        sign: 1 where the constant is added to it, -1 where it is subtracted.
    """

    variable: Variable
    sign: int

    def value(self, family: Family) -> NDArray[np.float64]:
        """The constant that is there."""
        return self.sign * family.numpy(self.variable).astype(np.float64)

    def add(self, family: Family, constant: NDArray[np.float64], who: str) -> None:
        """Adds to it; `who` does, for errors."""
        assign_finite(family, self.variable, self.sign * (self.value(family) + constant), who)


def is_linear(op: Projection) -> bool:
    """Whether a layer has no activation."""
    return getattr(op.activation, "__name__", "") == "linear"


def shortcuts(graph: Graph) -> dict[int, Shortcut]:
    """For each layer with a kernel (see `has_kernel`) that something is added to, by the `id` of the layer."""
    family, readers = graph.family, graph.readers_by_tensor()
    by_layer = {}
    for call in graph.walk():
        if call.inner is not None or not has_kernel(family, call.op) or not is_linear(call.op):
            continue
        key, norm = call.outputs[0].key, None
        behind = readers[key]
        if len(behind) == 1 and behind[0] is not None and is_batch_norm(family, behind[0].op):
            norm, key = behind[0].op, behind[0].outputs[0].key
            behind = readers[key]
        if len(behind) == 1 and behind[0] is not None and _is_add(family, behind[0]):
            by_layer[id(call.op)] = Shortcut(tuple(x.key for x in behind[0].inputs if x.key != key), norm)
    return by_layer


def _is_add(family: Family, call: Call) -> bool:
    return has_trait(family, call.op, "sum") and len({x.shape for x in call.inputs}) == 1


def homes(graph: Graph) -> dict[int, Home]:
    """For each layer with a kernel (see `has_kernel`) that has one, by the `id` of the layer."""
    family, readers = graph.family, graph.readers_by_tensor()
    by_layer = {}
    calls = collections.Counter(id(call.op) for call in graph.walk())
    norms: dict[int, list[BatchNormalization]] = {}
    for call in graph.walk():
        op = call.op
        if call.inner is not None or not has_kernel(family, op):
            continue
        if op.use_bias:
            by_layer[id(op)] = Home(op.bias, 1)
            continue
        behind = readers[call.outputs[0].key]
        if len(behind) == 1 and behind[0] is not None and is_linear(op) and is_batch_norm(family, behind[0].op):
            norms.setdefault(id(op), []).append(behind[0].op)
    for key, found in norms.items():
        # One that is called elsewhere, too, would carry the constant there; and every call of the layer needs it.
        if len(found) == calls[key] == calls[id(found[0])] and all(norm is found[0] for norm in found):
            # y -> (y - mean) ...: a constant that is added to y is one that is taken from the mean.
            by_layer[key] = Home(found[0].moving_mean, -1)
    return by_layer


def pairs(original: Graph, pruned: Graph) -> Iterator[tuple[Call, Call]]:
    """The calls of both models, pairwise."""
    return zip(original.walk(), pruned.walk(), strict=True)


def removed_inputs(channels: ChannelGraph, alive: Alive) -> dict[int, dict[int, NDArray[np.bool_]]]:
    """For each layer that loses some, by its `id`: index of a weight -> which of the rows that it reads with are gone."""
    removed: dict[int, dict[int, NDArray[np.bool_]]] = {}
    for axis in channels.axes:
        gone = ~alive[axis.labels]
        if axis.role == "in" and gone.any():
            removed.setdefault(id(axis.op), {})[axis.index] = gone
    return removed
