"""The interpreter of graphs: values carried from call to call, whatever they are.

Label arrays while tracing, symbolic tensors while a model is built, batches while it runs, moments of activations: a value is
what the receiver of each call makes of the call's inputs.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import keras
from keras import tree

from tlt_prune.graph.reader import Call, Graph, Tensor

V = TypeVar("V")


@dataclasses.dataclass(eq=False)
class PendingCall(Generic[V]):
    """A call that is about to be computed.

    Attributes:
        call: the call.
        values: tensor key -> its value, for each tensor of the call's graph that exists and is still needed.
        results: values of the call's outputs, flat; the receiver's to set.
    """

    call: Call
    values: Mapping[int, V]
    results: Sequence[V] = ()

    @property
    def inputs(self) -> list[V]:
        return [self.values[x.key] for x in self.call.inputs]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keyword arguments of the call, with values in the place of tensors."""
        args, kwargs = filled((self.call.args, self.call.kwargs), self.values)
        return args, kwargs


class Execution(Generic[V]):
    """Iterates over the calls of a graph in topological order, each just before it is computed.

    ```python
    execution = Execution(graph, inputs)
    for pending in execution:
        args, kwargs = pending.arguments()
        pending.results = keras.tree.flatten(pending.call.op(*args, **kwargs))
    execution.outputs
    ```

    Args:
        graph: of a model.
        inputs: one value for each of its flat inputs.
        opened: whether the calls inside a nested model come in the place of its call. A model applied over time is one call.
        forgetful: whether values that no later call needs are let go.

    Attributes:
        scopes: tensor key -> value, for the graph itself and then for each run of a nested one; of a forgetful execution only for
            those that are running, with what is still needed.
        outputs: one value for each flat output, once the iteration is over.
    """

    def __init__(self, graph: Graph, inputs: Sequence[V], *, opened: bool = True, forgetful: bool = False) -> None:
        self._graph, self._inputs = graph, inputs
        self._opened, self._forgetful = opened, forgetful
        self.scopes: list[dict[int, V]] = []
        self.outputs: list[V] = []

    def __iter__(self) -> Iterator[PendingCall[V]]:
        self.outputs = yield from self._run(self._graph, self._inputs)

    def _run(self, graph: Graph, inputs: Sequence[V]) -> Generator[PendingCall[V], None, list[V]]:
        values = {x.key: value for x, value in zip(graph.flat_inputs, inputs, strict=True)}
        self.scopes.append(values)
        waiting = _uses(graph) if self._forgetful else None
        for call in graph.calls:
            if self._opened and call.is_run_inside:
                assert call.inner is not None, "it has a graph"
                results: Sequence[V] = yield from self._run(call.inner, [values[x.key] for x in call.inputs])
            else:
                pending = PendingCall(call, values)
                yield pending
                results, pending.results = pending.results, ()
            values.update(zip([x.key for x in call.outputs], results, strict=True))
            if waiting is not None:
                _forget(call, values, waiting)
            results = ()
        if self._forgetful:
            self.scopes.pop()
        return [values[x.key] for x in graph.flat_outputs]


def _uses(graph: Graph) -> collections.Counter[int]:
    """Tensor key -> how often a call or the model's output is given it."""
    uses = collections.Counter(x.key for call in graph.calls for x in call.inputs)
    uses.update(x.key for x in graph.flat_outputs)
    return uses


def _forget(call: Call, values: dict[int, V], waiting: collections.Counter[int]) -> None:
    """Lets go what nobody waits for once a call is computed."""
    for x in call.inputs:
        waiting[x.key] -= 1
    for key in {x.key for x in (*call.inputs, *call.outputs)}:
        if not waiting[key]:
            values.pop(key, None)


def filled(structure: object, values: Mapping[int, Any]) -> Any:
    """A structure with values in the place of its `Tensor`s."""
    return tree.map_structure(lambda x: values[x.key] if isinstance(x, Tensor) else x, structure)


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


def run_through(graph: Graph, inputs: Sequence[object], visit: Visit) -> Any:
    """The outputs of a graph on `inputs`, one for each of its flat inputs, where `visit` computes the calls."""
    execution: Execution[Any] = Execution(graph, inputs)
    for pending in execution:
        pending.results = tree.flatten(visit(pending.call, *pending.arguments()))
    return tree.pack_sequence_as(graph.outputs, execution.outputs)
