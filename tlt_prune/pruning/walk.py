"""A model run call by call over all of a data set: every call sees all batches before the next one starts.

So what a call computes with may be changed just before it runs, knowing all that it will be given: batch normalisations get
their true statistics, kernels are fitted, each knowing what came before. One pass over a model does, whatever its depth. What
no later call needs is let go.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import tree

from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph.reader import Call, Graph, Tensor
from tlt_prune.pruning.batches import Batch

Values = list[Any]
"""One array a batch."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A call that is about to run.

    Attributes:
        known: tensor key -> its values, for each tensor of the call's graph that exists and is still needed.
        only_call: whether its layer is called nowhere else in the model.
    """

    call: Call
    known: dict[int, Values]
    only_call: bool

    def input(self, position: int = 0) -> Values:
        """Values of the `position`-th tensor that the call is given."""
        return self.known[self.call.inputs[position].key]


def walk(graph: Graph, batches: Sequence[Batch]) -> Iterator[Step]:
    """Yields every call of a model, those of nested models included, just before it runs on all batches, in inference mode.

    A model applied over time is one call, as a layer is.
    """
    times = collections.Counter(id(call.op) for call in graph.walk())
    runs = collections.Counter(id(call.inner) for call in graph.walk() if call.inner is not None)
    flat = [tree.flatten(x) for x, _ in batches]
    inputs = [[keras.ops.convert_to_tensor(x[i], dtype=t.dtype) for x in flat] for i, t in enumerate(graph.flat_inputs)]
    if graph.family.name != "keras":
        inputs = [[x[i] for x in flat] for i in range(len(graph.flat_inputs))]
    yield from _walk(graph, inputs, times, runs, repeated=False)


def _walk(graph: Graph, inputs: list[Values], times: Any, runs: Any, *, repeated: bool) -> Any:
    known: dict[int, Values] = {t.key: v for t, v in zip(graph.flat_inputs, inputs, strict=True)}
    waiting = collections.Counter(x.key for call in graph.calls for x in call.inputs)
    for x in graph.flat_outputs:
        waiting[x.key] += 1
    for call in graph.calls:
        given = {x.key: known[x.key] for x in call.inputs}
        if call.inner is not None and not call.over_time:
            again = repeated or runs[id(call.inner)] > 1
            results = yield from _walk(call.inner, [given[x.key] for x in call.inputs], times, runs, repeated=again)
        else:
            yield Step(call, known, only_call=times[id(call.op)] == 1 and not repeated)
            results = _run(call, given)
        known.update(zip([x.key for x in call.outputs], results, strict=True))
        for x in call.inputs:
            waiting[x.key] -= 1
        for key in {x.key for x in (*call.inputs, *call.outputs)}:
            if not waiting[key]:
                known.pop(key, None)
        del given, results
    return [known[x.key] for x in graph.flat_outputs]


def _run(call: Call, given: dict[int, Values]) -> list[Values]:
    """Each output's values."""
    rows = []
    count = len(next(iter(given.values()))) if given else 1
    for i in range(count):
        args, kwargs = tree.map_structure(lambda x, i=i: given[x.key][i] if isinstance(x, Tensor) else x, (call.args, call.kwargs))
        rows.append(tree.flatten(call.op(*args, **kwargs)))
    return [list(column) for column in zip(*rows, strict=True)]


def side_by_side(
    original: Graph, pruned: Graph, batches: Sequence[Batch]
) -> Iterator[tuple[Step, Step]]:
    """Both models' calls, pairwise, each pair just before it runs.

    Raises:
        UnsupportedModelError: they are not the same layers in the same order.
    """
    for a, b in zip(walk(original, batches), walk(pruned, batches), strict=True):
        if a.call.path != b.call.path:
            raise UnsupportedModelError(
                f"'{pruned.model.name}' calls '{b.call.path}' where '{original.model.name}' calls '{a.call.path}'. Expected the "
                "model that was pruned and what became of it."
            )
        yield a, b
