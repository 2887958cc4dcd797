"""The projections that Keras' attention layers have inside, under names that are not public."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from tlt_prune.graph.types import Layer, Projection


class _AttentionLayer(Layer, Protocol):
    _query_dense: Projection
    _key_dense: Projection
    _value_dense: Projection
    _output_dense: Projection


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionParts:
    """The projections inside an attention layer: `EinsumDense` layers with kernel and bias."""

    query: Projection
    key: Projection
    value: Projection
    output: Projection
    gate: Projection | None


def attention_parts(op: _AttentionLayer) -> AttentionParts:
    """Of a (grouped) multi-head attention layer."""
    return AttentionParts(op._query_dense, op._key_dense, op._value_dense, op._output_dense, getattr(op, "_gate_dense", None))
