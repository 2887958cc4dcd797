"""A model run call by call over all of a data set: every call sees all batches before the next one starts.

So what a call computes with may be changed just before it runs, knowing all that it will be given: batch normalizations get
their true statistics, kernels are fitted, each knowing what came before. One pass over a model does, whatever its depth. What
no later call needs is let go.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras
from keras import tree

from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph import Call, Execution, Graph, filled
from tlt_prune.io import progress
from tlt_prune.pruning.running.batches import Batch

_Step = TypeVar("_Step")
Values = list[Any]
"""One array a batch."""


@dataclasses.dataclass(eq=False)
class Step:
    """A call that is about to run.

    Attributes:
        known: tensor key -> its values: see `PendingCall`.
        replaced: tensor key -> values that this call, and no other, is given instead; for the receiver to fill.
        only_call: whether its layer is called nowhere else in the model.
        run: (call, tensor key -> values of what it is given) -> values of its outputs.
    """

    call: Call
    known: Mapping[int, Values]
    replaced: dict[int, Values]
    only_call: bool
    run: Callable[[Call, dict[int, Values]], list[Values]]
    _outputs: list[Values] | None = None

    def input(self, position: int = 0) -> Values:
        """Values of the `position`-th tensor that the call is given."""
        return self.known[self.call.inputs[position].key]

    def outputs(self) -> list[Values]:
        """Values of each output. The call runs when they are asked for, at the latest at its turn: once."""
        if self._outputs is None:
            given = {x.key: self.replaced.get(x.key, self.known[x.key]) for x in self.call.inputs}
            self._outputs = self.run(self.call, given)
        return self._outputs


class Walk:
    """Iterates over every call of a model, those of nested models included, just before it runs on all batches, in inference
    mode. A model applied over time is one call, as a layer is.

    Attributes:
        outputs: values of the model's flat outputs, once the walk is over.
    """

    def __init__(self, graph: Graph, batches: Sequence[Batch]) -> None:
        self._family = graph.family
        self._calls = collections.Counter(id(call.op) for call in graph.walk())
        self._runs = collections.Counter(id(call.op) for call in calls_of(graph))
        self._n_batches = len(batches)
        flat = [tree.flatten(x) for x, _ in batches]
        inputs: list[Values] = [[x[i] for x in flat] for i in range(len(graph.flat_inputs))]
        if graph.family.name == "keras":
            pairs = zip(graph.flat_inputs, inputs, strict=True)
            inputs = [[keras.ops.convert_to_tensor(x, dtype=t.dtype) for x in values] for t, values in pairs]
        self._execution: Execution[Values] = Execution(graph, inputs, forgetful=True)

    @property
    def outputs(self) -> list[Values]:
        return self._execution.outputs

    def __iter__(self) -> Iterator[Step]:
        for pending in self._execution:
            call = pending.call
            only_call = self._calls[id(call.op)] == self._runs[id(call.op)] == 1
            step = Step(call, pending.values, {}, only_call, self._run)
            yield step
            pending.results = step.outputs()

    def repeat(self, times: int) -> None:
        """From here on everything runs `times` times over: the values of every tensor are repeated, all batches after each
        other."""
        for values in self._execution.scopes:
            for key, of_tensor in values.items():
                values[key] = of_tensor * times

    def _run(self, call: Call, given: dict[int, Values]) -> list[Values]:
        """Each output's values."""
        rows = []
        # A variable or constant of an opened layer is the same for all batches.
        count = len(next(iter(given.values()))) if given else self._n_batches
        for i in range(count):
            args, kwargs = filled((call.args, call.kwargs), {key: values[i] for key, values in given.items()})
            rows.append(tree.flatten(self._family.infer(call.op, args, kwargs)))
        return [list(column) for column in zip(*rows, strict=True)]


def calls_of(graph: Graph) -> Iterator[Call]:
    """The calls in the order of a walk: each once for every time it runs."""
    for call in graph.calls:
        if call.is_run_inside:
            assert call.inner is not None, "it has a graph"
            yield from calls_of(call.inner)
        else:
            yield call


def watched(steps: Iterable[_Step], graph: Graph, what: str) -> Iterator[_Step]:
    """The steps of a walk over `graph`, with a progress bar."""
    with progress(sum(1 for _ in calls_of(graph)), what) as advance:
        for step in steps:
            advance()
            yield step


def side_by_side(original: Graph, kept: Graph, pruned: Graph, batches: Sequence[Batch]) -> Iterator[tuple[Step, Step]]:
    """Both models' calls, pairwise, each pair just before it runs.

    Args:
        original: the whole model.
        kept: the same without the calls that have no counterpart: those of residual blocks that are gone. They run, too.
        pruned: what became of it.
        batches: the examples.

    Raises:
        UnsupportedModelError: they are not the same layers in the same order.
    """
    with_counterpart = {call.outputs[0].key for call in calls_of(kept)}
    steps = (step for step in Walk(original, batches) if step.call.outputs[0].key in with_counterpart)
    for a, b in zip(steps, Walk(pruned, batches), strict=True):
        if a.call.path != b.call.path:
            raise UnsupportedModelError(
                f"'{pruned.model.name}' calls '{b.call.path}' where '{original.model.name}' calls '{a.call.path}'. Expected the "
                "model that was pruned and what became of it."
            )
        yield a, b
