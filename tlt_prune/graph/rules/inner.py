"""What an opened layer does besides calling layers and operations: it reads variables and constants of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.facets import Carried, Facets, plain
from tlt_prune.graph.inner_ops import Assigned, Constant, OwnVariable, ToBatch
from tlt_prune.graph.rules.registry import inner_op, takes_facets


@inner_op(OwnVariable)
def own_variable(call: CallTrace) -> Carried:
    """Its labels, one array for each axis."""
    return call.variable(call.op.owner, call.op.index, call.op.variable.shape)


@inner_op(Constant)
def constant(call: CallTrace) -> Any:
    """Nothing of it may be removed."""
    return call.frozen(np.ndim(call.op.value), "a constant")


@inner_op(Assigned)
@takes_facets
def assigned(call: CallTrace, value: Carried) -> list[Any]:
    """The new value of a state has the channels that the state has."""
    target = call.variable(call.op.target.owner, call.op.target.index, call.op.target.variable.shape)
    if isinstance(target, Facets):
        for facet in target.facets:
            other = value.at(facet.axis) if isinstance(value, Facets) else None
            labels = plain(value) if other is None else other.labels
            call.table.unify(
                facet.vector, labels.reshape(-1) if labels.size in (1, len(facet.vector)) else labels.reshape(-1)[:1]
            )
    return []


@inner_op(ToBatch)
@takes_facets
def to_batch(call: CallTrace, x: Carried, like: Carried) -> Any:
    """The channels of one example, for each of the batch."""
    if isinstance(x, Facets):
        call.freeze_other_facets(x, x.last)
    # An axis that the repetition widens carries no labels.
    labels = plain(x)
    return labels.reshape((1,) * (len(call.out_shapes[0]) - labels.ndim) + labels.shape)
