"""Layers that are replaced by what they do: their inner layers and operations stand in the model itself.

Such a model loads with plain Keras, without the library that the layer came from. The layer's own variables get a home that Keras
has: an `Embedding` of one row, which is looked up and reshaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

from tlt_prune.graph import Call, ChannelGraph, Graph, PendingCall
from tlt_prune.graph.inner_ops import INNER_OPS, Constant, OwnVariable
from tlt_prune.pruning.rewrite.transfer import Transfer


class Inliner:
    """What of a model is inlined, and how it looks then.

    Attributes:
        names: `id` of an inlined operation -> the configuration entry that says its name in the new model.
    """

    def __init__(self, channels: ChannelGraph, transfer: Transfer) -> None:
        self._channels, self._transfer = channels, transfer
        self._homes: dict[int, tuple[OwnVariable, Any]] = {}
        self._taken = {call.op.name for graph in self._model_scopes(channels.graph) for call in graph.calls}
        self.names: dict[int, dict[str, str]] = {}
        for graph in self._inlined_scopes(channels.graph):
            for call in graph.calls:
                if not self.is_own(call) and not self.is_inlined(call):
                    self.names.setdefault(id(call.op), {"name": self._unique(call.path)})

    def is_inlined(self, call: Call) -> bool:
        """Whether a call's layer is replaced by what it does."""
        return call.is_opened and id(call.op) in self._channels.inlined

    def is_own(self, call: Call) -> bool:
        """Whether a call stands for something that is neither a layer nor an operation of Keras."""
        return isinstance(call.op, INNER_OPS)

    def visible_calls(self, graph: Graph) -> Iterator[Call]:
        """The calls that the new model has of its own: those of models and of inlined layers, once each."""
        for scope in (*self._model_scopes(graph), *self._inlined_scopes(graph)):
            yield from scope.calls

    def rebuilt_calls(self, graph: Graph) -> Iterator[Call]:
        """Those of them whose operations are rebuilt from their configurations."""
        for call in self.visible_calls(graph):
            is_whole = call.inner is None or (call.is_opened and not self.is_inlined(call))
            if is_whole and not self.is_own(call):
                yield call

    def results(self, pending: PendingCall[Any], like: Any) -> tuple[Any, list[Any]]:
        """What stands for a call for which `is_own` holds, and its symbolic results; `like` is any tensor with a batch axis."""
        op = pending.call.op
        if isinstance(op, OwnVariable):
            return self._variable(op, pending.call, like)
        if isinstance(op, Constant):
            return op, [keras.ops.reshape(_zeros(like, op.value.dtype.name), (1,) * op.value.ndim) + op.value]
        return op, [op(*pending.arguments()[0])]

    def _variable(self, op: OwnVariable, call: Call, like: Any) -> tuple[Any, list[Any]]:
        owner: Any = op.owner
        cuts = self._transfer.cuts_of(op.variable)
        shape = tuple(int(cuts[axis].sum()) if axis in cuts else size for axis, size in enumerate(op.variable.shape))
        if id(op.variable) not in self._homes:
            home = keras.layers.Embedding(
                1, math.prod(shape), embeddings_initializer="zeros", dtype=owner.dtype_policy, name=self._unique(call.path)
            )
            home.trainable = op.trainable and owner.trainable
            self._homes[id(op.variable)] = (op, home)
        home = self._homes[id(op.variable)][1]
        values = keras.ops.reshape(home(_zeros(like, "int32")), shape)
        return OwnVariable(home, 0, home.embeddings, op.name, op.dtype, shape), [values]

    def give_variables(self) -> None:
        """Values for the variables of inlined layers, once the new model is whole."""
        for op, home in self._homes.values():
            self._transfer.give_flat(op.owner, op.variable, home.weights[0])

    def _unique(self, path: str) -> str:
        name = base = path.replace("/", "_")
        number = 1
        while name in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name)
        return name

    def _model_scopes(self, graph: Graph) -> list[Graph]:
        return self._scopes(graph)[0]

    def _inlined_scopes(self, graph: Graph) -> list[Graph]:
        return self._scopes(graph)[1]

    def _scopes(self, graph: Graph) -> tuple[list[Graph], list[Graph]]:
        """The graphs of models, and those of inlined layers."""
        models: list[Graph] = []
        inlined: list[Graph] = []
        seen: set[int] = set()
        pending = [(graph, graph.opened)]
        while pending:
            scope, is_inlined = pending.pop()
            if id(scope) in seen:
                continue
            seen.add(id(scope))
            (inlined if is_inlined else models).append(scope)
            for call in scope.calls:
                if call.inner is not None and (not call.inner.opened or self.is_inlined(call)):
                    pending.append((call.inner, call.inner.opened))
        return models, inlined


def _zeros(like: Any, dtype: str) -> Any:
    """A zero of shape (1,)."""
    first = like[(slice(0, 1),) * len(like.shape)]
    return keras.ops.reshape(keras.ops.zeros_like(first, dtype=dtype), (1,))
