"""The graph of a rewritten model, call by call that of the original: compensations walk through both side by side.

Reading the new model would not do: what was inlined has other calls there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras import tree

from tlt_prune.graph import Call, Family, Graph, KerasModel, Tensor, dtype_name, open_layer, read


class Mirror:
    """Notes the calls of a new model while it is built."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._graphs: dict[int, Graph] = {}
        """`id` of a graph of the original -> what became of it."""
        self._finished: dict[int, Graph] = {}
        self._symbols: list[Any] = []
        """They are kept: an `id` is its own only while it lives."""

    def call(self, call: Call, op: Any, arguments: tuple[Any, Any], results: Sequence[Any], inner: Graph | None = None) -> Call:
        """A call of the new model, in the place of `call`.

        Args:
            call: of the original.
            op: what is called.
            arguments: positional and keyword arguments, with symbolic tensors of the new model.
            results: symbolic tensors.
            inner: the graph behind an inlined layer.
        """
        args, kwargs = self._tensors(arguments)
        return Call(op, call.path, args, kwargs, tuple(self._tensors(list(results))), inner or call.inner)

    def graph(self, original: Graph, inputs: Sequence[Any], outputs: Sequence[Any], calls: Sequence[Call]) -> Graph:
        """The graph of an inlined layer, or of a model; `finish` says which one."""
        new = dataclasses.replace(
            original,
            inputs=tree.pack_sequence_as(original.inputs, self._tensors(list(inputs))),
            outputs=tree.pack_sequence_as(original.outputs, self._tensors(list(outputs))),
            input_ops=(None,) * len(inputs),
            calls=tuple(calls),
        )
        self._graphs[id(original)] = new
        return new

    def of(self, original: Graph) -> Graph:
        """What became of a graph, the last time that it was built."""
        return self._graphs[id(original)]

    def finished(self, original: Graph, models: dict[int, tuple[KerasModel, KerasModel]]) -> Graph:
        """The graph of the whole new model; layers that kept their class are opened in it, as they are in the original.

        Args:
            original: the graph of the original model.
            models: `id` of a graph of the original -> its model, and what became of that.
        """
        if id(original) not in self._finished:
            model = models[id(original)][1]
            # A Sequential model was not called.
            new = self._graphs.get(id(original)) or read(model)
            whole = dataclasses.replace(new, model=model, opened=False)
            self._finished[id(original)] = self._opened_as(original, whole, models)
        return self._finished[id(original)]

    def _opened_as(self, original: Graph, new: Graph, models: dict[int, tuple[KerasModel, KerasModel]]) -> Graph:
        calls = []
        for old, call in zip(original.calls, new.calls, strict=True):
            inner = call.inner
            if old.inner is not None and not old.inner.opened:
                inner = self.finished(old.inner, models)
            elif old.is_opened:
                assert old.inner is not None, "it is opened"
                is_whole = inner is None or inner is old.inner
                inner = self._opened_as(old.inner, open_layer(call, self._family) if is_whole else inner, models)  # type: ignore[arg-type]
            calls.append(dataclasses.replace(call, path=old.path, inner=inner))
        return dataclasses.replace(new, calls=tuple(calls))

    def _tensors(self, structure: Any) -> Any:
        return tree.map_structure(lambda x: self._tensor(x) if self._family.is_tensor(x) else x, structure)

    def _tensor(self, symbol: Any) -> Tensor:
        self._symbols.append(symbol)
        return Tensor(id(symbol), tuple(symbol.shape), dtype_name(symbol))
