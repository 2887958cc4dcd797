"""A model run call by call over all of a data set: every call sees all batches before the next one starts.

So what a call computes with may be changed just before it runs, knowing all that it will be given: batch normalizations get
their true statistics, kernels are fitted, each knowing what came before. One pass over a model does, whatever its depth. What
no later call needs is let go.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import keras
from keras import tree

from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph.reader import Call, Graph, Tensor
from tlt_prune.pruning.running.batches import Batch, progress

_Step = TypeVar("_Step")
Values = list[Any]
"""One array a batch."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A call that is about to run.

    Attributes:
        known: tensor key -> its values, for each tensor of the call's graph that exists and is still needed.
        replaced: tensor key -> values that this call, and no other, is given instead; for the receiver to fill.
        only_call: whether its layer is called nowhere else in the model.
    """

    call: Call
    known: dict[int, Values]
    replaced: dict[int, Values]
    only_call: bool

    def input(self, position: int = 0) -> Values:
        """Values of the `position`-th tensor that the call is given."""
        return self.known[self.call.inputs[position].key]


class Walk:
    """Iterates over every call of a model, those of nested models included, just before it runs on all batches, in inference
    mode. A model applied over time is one call, as a layer is.

    Attributes:
        outputs: values of the model's flat outputs, once the walk is over.
    """

    def __init__(self, graph: Graph, batches: Sequence[Batch]) -> None:
        self._graph = graph
        self._times = collections.Counter(id(call.op) for call in graph.walk())
        self._runs = collections.Counter(id(call.inner) for call in graph.walk() if call.inner is not None)
        self._scopes: list[dict[int, Values]] = []
        flat = [tree.flatten(x) for x, _ in batches]
        self._inputs: list[Values] = [[x[i] for x in flat] for i in range(len(graph.flat_inputs))]
        if graph.family.name == "keras":
            pairs = zip(graph.flat_inputs, self._inputs, strict=True)
            self._inputs = [[keras.ops.convert_to_tensor(x, dtype=t.dtype) for x in values] for t, values in pairs]
        self.outputs: list[Values] = []

    def __iter__(self) -> Iterator[Step]:
        self.outputs = yield from self._run_graph(self._graph, self._inputs, repeated=False)

    def repeat(self, times: int) -> None:
        """From here on everything runs `times` times over: the values of every tensor are repeated, all batches after each
        other."""
        for known in self._scopes:
            for key, values in known.items():
                known[key] = values * times

    def _run_graph(self, graph: Graph, inputs: list[Values], *, repeated: bool) -> Any:
        known: dict[int, Values] = {t.key: v for t, v in zip(graph.flat_inputs, inputs, strict=True)}
        self._scopes.append(known)
        waiting = collections.Counter(x.key for call in graph.calls for x in call.inputs)
        waiting.update(x.key for x in graph.flat_outputs)
        for call in graph.calls:
            if call.inner is not None and not call.over_time:
                again = repeated or self._runs[id(call.inner)] > 1
                results = yield from self._run_graph(call.inner, [known[x.key] for x in call.inputs], repeated=again)
            else:
                step = Step(call, known, {}, only_call=self._times[id(call.op)] == 1 and not repeated)
                yield step
                results = self._run(call, {x.key: step.replaced.get(x.key, known[x.key]) for x in call.inputs})
            known.update(zip([x.key for x in call.outputs], results, strict=True))
            for x in call.inputs:
                waiting[x.key] -= 1
            for key in {x.key for x in (*call.inputs, *call.outputs)}:
                if not waiting[key]:
                    known.pop(key, None)
            del results
        self._scopes.pop()
        return [known[x.key] for x in graph.flat_outputs]

    def _run(self, call: Call, given: dict[int, Values]) -> list[Values]:
        """Each output's values."""
        rows = []
        count = len(next(iter(given.values()))) if given else 1
        for i in range(count):
            args, kwargs = tree.map_structure(
                lambda x, i=i: given[x.key][i] if isinstance(x, Tensor) else x, (call.args, call.kwargs)
            )
            rows.append(tree.flatten(self._graph.family.infer(call.op, args, kwargs)))
        return [list(column) for column in zip(*rows, strict=True)]


def calls_of(graph: Graph) -> Iterator[Call]:
    """The calls in the order of a walk: each once for every time it runs."""
    for call in graph.calls:
        if call.inner is not None and not call.over_time:
            yield from calls_of(call.inner)
        else:
            yield call


def watched(steps: Iterable[_Step], graph: Graph, what: str) -> Iterator[_Step]:
    """The steps of a walk over `graph`, with a progress bar."""
    with progress(sum(1 for _ in calls_of(graph)), what) as advance:
        for step in steps:
            advance()
            yield step


def side_by_side(original: Graph, pruned: Graph, batches: Sequence[Batch]) -> Iterator[tuple[Step, Step]]:
    """Both models' calls, pairwise, each pair just before it runs.

    Raises:
        UnsupportedModelError: they are not the same layers in the same order.
    """
    for a, b in zip(Walk(original, batches), Walk(pruned, batches), strict=True):
        if a.call.path != b.call.path:
            raise UnsupportedModelError(
                f"'{pruned.model.name}' calls '{b.call.path}' where '{original.model.name}' calls '{a.call.path}'. Expected the "
                "model that was pruned and what became of it."
            )
        yield a, b
