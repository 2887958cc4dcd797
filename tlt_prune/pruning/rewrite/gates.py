"""Factors in front of what sums over channels without a weight: zero for a removed channel, one for any other.

A product of activations has no row that could be set to zero. What a pruned model is compared with has a gate there instead.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import tree

from tlt_prune.graph import Alive, Call, ChannelGraph, Family, Variable, dtype_name
from tlt_prune.graph.channel_graph import Contraction

_LETTERS = "abcdefghij"


def inlined_where_gated(channels: ChannelGraph) -> ChannelGraph:
    """The same, where opened layers with such products are replaced by what they do: a gate fits between their calls."""
    return dataclasses.replace(channels, inlined=channels.inlined | channels.gated) if channels.gated else channels


class Gates:
    """The gates of a model that is built.

    Args:
        contractions: where they are.
        family: of the model.
    """

    def __init__(self, contractions: Sequence[Contraction], family: Family) -> None:
        self._family = family
        self._at = {(id(x.op), x.position): x for x in contractions}
        self._layers: dict[int, tuple[Contraction, Any]] = {}

    def applied(self, call: Call, arguments: Any) -> Any:
        """The arguments of a call, symbolic tensors of the new model among them, with those that are gated behind their gates."""
        counter = itertools.count()

        def gated(x: Any) -> Any:
            if not self._family.is_tensor(x):
                return x
            contraction = self._at.get((id(call.op), next(counter)))
            return x if contraction is None else self._gate(contraction, x)(x)

        return tree.map_structure(gated, arguments) if self._at else arguments

    def _gate(self, contraction: Contraction, x: Any) -> Any:
        if id(contraction) not in self._layers:
            axes = _LETTERS[: len(x.shape)]
            layer = self._family.namespace().layers.EinsumDense(
                f"{axes},{axes[contraction.axis]}->{axes}",
                tuple(x.shape[1:]),
                kernel_initializer="ones",
                dtype=dtype_name(x),
                name=f"gate_{len(self._layers)}_of_{contraction.path.replace('/', '_')}",
            )
            # What is behind it still has to learn which steps are masked.
            layer.supports_masking = True
            self._layers[id(contraction)] = (contraction, layer)
        return self._layers[id(contraction)][1]

    @property
    def variables(self) -> dict[int, Variable]:
        """`id` of a `Contraction` -> its gate: `(size of the axis,)`."""
        return {key: layer.kernel for key, (_, layer) in self._layers.items()}


def close(channels: ChannelGraph, variables: Mapping[int, Variable], alive: Alive) -> None:
    """Closes the gates of removed channels, and opens the others.

    Args:
        channels: the traced model.
        variables: those of `Gates.variables`, and others.
        alive: `(n_labels,)`, what is retained.
    """
    for contraction in channels.contractions:
        variables[id(contraction)].assign(alive[contraction.labels].astype(np.float32))
