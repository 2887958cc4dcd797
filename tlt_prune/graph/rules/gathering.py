"""Taking entries by indices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tlt_prune.graph.call_trace import CallTrace, Count, Positions
from tlt_prune.graph.facets import Carried, Facet, Facets, plain
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.rules.moving import TakesTemplate
from tlt_prune.graph.rules.registry import raw_op, takes_facets


@raw_op("Take")
@takes_facets
def take(call: CallTrace, x: Carried, *indices: Labels) -> Any:
    where, chosen = call.passed(1, "indices")
    if isinstance(x, Facets):
        return looked_up(call, x, indices, chosen, call.op.axis)
    return taken(call, [x, *indices], None if indices else chosen, call.op.axis, functools.partial(call.argument, where))


def looked_up(call: CallTrace, table: Facets, indices: Sequence[Labels], chosen: object, axis: int | None) -> Any:
    """Rows of a variable: with computed indices an embedding, with constant ones a table of positions or biases."""
    constant = None if indices else chosen
    rank = len(call.in_shapes[0])
    if axis is None or (constant is None and not indices):
        call.freeze_other_facets(table)
        return call.freeze_all([plain(table)], "taken from a flattened variable")
    for x in indices:
        call.freeze(plain(x), "indices")
    axis %= rank
    added = len(call.out_shapes[0]) - rank
    left = tuple(x for x in table.facets if x.axis != axis - rank)
    call.freeze_other_facets(table, *left)
    if not left:
        return call.frozen(len(call.out_shapes[0]), "rows of a variable without channels")
    moved = []
    for facet in left:
        # The indices' axes stand in the place of the one that they index.
        at = rank + facet.axis + (added if rank + facet.axis > axis else 0)
        moved.append(Facet(call.place(facet.vector, at), facet.sources))
    if constant is not None:
        return Facets(tuple(moved))
    last = max(moved, key=lambda x: x.axis)
    call.freeze_other_facets(Facets(tuple(moved)), last)
    return call.place(call.made_by_facet(last), len(call.out_shapes[0]) + last.axis)


def taken(call: CallTrace, xs: Sequence[Labels], chosen: ArrayLike | None, axis: int | None, edit: TakesTemplate) -> Any:
    """`xs[0]` at the constant positions `chosen` (None where they are computed) along `axis`."""
    x = xs[0]
    if axis is None or chosen is None or np.ndim(chosen) > 1:
        return call.freeze_all(xs, "gathered by computed or many-dimensional indices")
    chosen = np.asarray(chosen)
    axis %= x.ndim
    if axis not in varying_axes(x):
        return x if chosen.ndim else np.squeeze(np.take(x, [0], axis), axis)
    vector = x.reshape(-1)
    if not chosen.ndim:
        call.freeze(vector[int(chosen)], "a single channel")
        edit(Count(vector[: int(chosen) % len(vector)]))
        return np.take(x, int(chosen), axis)
    edit(Positions(chosen % len(vector), vector))
    return np.take(x, chosen, axis)


@raw_op("TakeAlongAxis")
def take_along_axis(call: CallTrace, x: Labels, *indices: Labels) -> Any:
    shape = call.in_shapes[1] if indices else np.shape(np.asarray(call.passed(1, "indices")[1]))
    for labels in indices:
        call.freeze(labels, "indices")
    varying = varying_axes(x)
    if not varying:
        return call.frozen(len(call.out_shapes[0]), "taken from a tensor without channels")
    # Indices of full size on the channel axis choose for each channel by itself: they would have to be cut too.
    if call.op.axis is None or call.op.axis % x.ndim in varying or shape[varying[0]] != 1:
        return call.freeze_all([x], "gathered along an axis, by indices for every channel")
    return x
