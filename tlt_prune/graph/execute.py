"""Running a graph that was read: call by call, nested models opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from tlt_prune.graph.reader import Call, Graph, Tensor

Visit = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]
"""(call, arguments, keyword arguments) in the new model -> what stands in the place of its outputs there."""


def rewired(graph: Graph, visit: Visit) -> keras.Model:
    """A functional model of what `visit` makes of every call; models inside are opened, so that it has no other models in it."""
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=getattr(op, "name", None))
        for tensor, op in zip(graph.flat_inputs, graph.input_ops, strict=True)
    ]
    outputs = run_through(graph, inputs, visit)
    return keras.Model(tree.pack_sequence_as(graph.inputs, inputs), outputs, name=graph.model.name)


def run_through(graph: Graph, inputs: list[Any], visit: Visit) -> Any:
    """The outputs of a graph on `inputs`, one for each of its flat inputs, where `visit` computes the calls."""
    values = dict(zip((x.key for x in graph.flat_inputs), inputs, strict=True))

    def at(structure: Any) -> Any:
        return tree.map_structure(lambda x: values[x.key] if isinstance(x, Tensor) else x, structure)

    for call in graph.calls:
        if call.inner is not None and not call.over_time:
            results = run_through(call.inner, [at(x) for x in call.inputs], visit)
        else:
            results = visit(call, at(call.args), at(call.kwargs))
        values.update(zip((x.key for x in call.outputs), tree.flatten(results), strict=True))
    return at(graph.outputs)
