"""A Keras model, read once into plain data. What differs between Keras 3 and tf_keras, its `Family` knows."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any

from keras import tree

from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph.classes import keras_model_base
from tlt_prune.graph.family import Family, dtype_name, family_of
from tlt_prune.graph.inner_ops import OwnVariable
from tlt_prune.graph.types import KerasModel, Operation


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A symbolic tensor of the model: `shape` includes the batch axis, None where unknown."""

    key: int
    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation.

    Attributes:
        op: the layer or raw operation object. It may appear in several calls.
        path: layer names from the outermost model down, joined by "/".
        args, kwargs: what it was called with; symbolic tensors appear as `Tensor`.
        outputs: its results, flat.
        inner: the graph behind `op`, when `op` is itself a model, or a TimeDistributed around one.
    """

    op: Any
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    inner: Graph | None

    def argument(self, position: int, name: str, default: object = None) -> Any:
        """An argument, given by position or by name."""
        return self.kwargs.get(name, self.args[position] if position < len(self.args) else default)

    @property
    def over_time(self) -> bool:
        """Whether `inner` is applied to every step of a sequence."""
        return self.inner is not None and self.inner.model is not self.op

    @property
    def is_run_inside(self) -> bool:
        """Whether the calls in `inner` run in the place of this one."""
        return self.inner is not None and not self.over_time and self.inner.runnable

    @property
    def is_opened(self) -> bool:
        """Whether `inner` is what a layer without a rule does."""
        return self.inner is not None and self.inner.opened

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(x for x in tree.flatten((self.args, self.kwargs)) if isinstance(x, Tensor))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A model as an ordered list of calls; every tensor is made before it is used.

    Attributes:
        model: the model read.
        inputs, outputs: structures (tensor, list, tuple or dict) of `Tensor`.
        input_ops: the InputLayer behind each flat input, or None where there is none.
        calls: in topological order.
        opened: whether it is what a layer does inside (see `opening`), and `model` is that layer.
        runnable: whether its calls can be run one by one, whatever the sizes of the inputs.
        unused: variables of the model that none of its calls needs, because blocks of it were left out.
    """

    model: Any
    family: Family
    inputs: Any
    outputs: Any
    input_ops: tuple[Any, ...]
    calls: tuple[Call, ...]
    opened: bool = False
    runnable: bool = True
    unused: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"<Graph of '{self.model.name}': {len(self.calls)} calls>"

    @property
    def flat_inputs(self) -> list[Tensor]:
        return list(tree.flatten(self.inputs))

    @property
    def flat_outputs(self) -> list[Tensor]:
        return list(tree.flatten(self.outputs))

    def scopes(self) -> Iterator[Graph]:
        """This graph and those of the models inside it, once each."""
        seen: set[int] = set()
        pending = [self]
        while pending:
            graph = pending.pop()
            if id(graph) in seen:
                continue
            seen.add(id(graph))
            yield graph
            pending += [call.inner for call in graph.calls if call.inner is not None]

    def walk(self) -> Iterator[Call]:
        """All calls, those inside nested models included, once each."""
        for graph in self.scopes():
            yield from graph.calls

    def readers_by_tensor(self) -> dict[int, list[Call | None]]:
        """Key of a tensor -> the calls that read it; None stands for an output of the model, or of one inside it."""
        readers: dict[int, list[Call | None]] = collections.defaultdict(list)
        for graph in self.scopes():
            for call in graph.calls:
                for tensor in call.inputs:
                    readers[tensor.key].append(call)
            for tensor in graph.flat_outputs:
                readers[tensor.key].append(None)
        return readers

    def weights(self) -> Iterator[tuple[Call, int, Any]]:
        """(call, position in its layer, variable) of every layer, those inside nested models included; once for each call.

        Of an opened layer: those of the layers that it calls, those that it reads itself, and then those that it does not use.
        """
        used = set()
        for call, index, variable in self.weights_used():
            used.add(id(variable))
            yield call, index, variable
        for call in self.walk():
            if call.is_opened:
                for index, variable in enumerate(self.family.weights(call.op)):
                    if id(variable) not in used:
                        used.add(id(variable))
                        yield call, index, variable

    def weights_used(self) -> Iterator[tuple[Call, int, Any]]:
        """The same without what opened layers do not use."""
        for call in self.walk():
            if isinstance(call.op, OwnVariable):
                yield dataclasses.replace(call, op=call.op.owner), call.op.index, call.op.variable
            elif call.inner is None and self.family.is_layer(call.op):
                for index, variable in enumerate(self.family.weights(call.op)):
                    yield call, index, variable


def matches(call: Call, pattern: str | type) -> bool:
    """Whether a call's layer has that name or path, fits that shell pattern, or is of that type."""
    if isinstance(pattern, type):
        return isinstance(call.op, pattern)
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in (call.op.name, call.path))


def nearest_name(name: str | type, names: Iterable[str]) -> str:
    """' Did you mean ...?' for a name that does not exist, or nothing."""
    near = difflib.get_close_matches(str(name), sorted(names), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def read(model: KerasModel) -> Graph:
    """Reads a functional or Sequential model, nested models included.

    Raises:
        UnsupportedModelError: the model has no graph: it is subclassed, or not built yet.
    """
    family = family_of(model)
    return _read_model(model, family, prefix="", memo={})


def duplicate_names(graph: Graph) -> set[str]:
    """Names that several layers or operations have, in models inside each other."""
    names = {id(call.op): call.op.name for call in graph.walk() if call.inner is None}
    return {name for name, count in collections.Counter(names.values()).items() if count > 1}


def _read_model(model: KerasModel, family: Family, prefix: str, memo: dict[int, Graph]) -> Graph:
    if id(model) in memo:
        return memo[id(model)]
    functional = family.functional(model)
    if functional is None:
        raise UnsupportedModelError(_no_graph(model, family))
    to_tensor = _TensorMap(family)
    inputs, outputs = family.structures(functional)
    flat_inputs = tree.flatten(inputs)
    calls = []
    for node in family.nodes(functional):
        op, args, kwargs = family.node_call(node)
        over_time = family.is_a(op, "TimeDistributed")
        calls.append(
            Call(
                op=op,
                path=f"{prefix}{op.name}",
                args=to_tensor(args),
                kwargs=to_tensor(kwargs),
                outputs=tuple(tree.flatten(to_tensor(node.outputs))),
                inner=_inner(op.layer if over_time else op, family, f"{prefix}{op.name}/", memo),
            )
        )
    graph = Graph(
        model=model,
        family=family,
        inputs=to_tensor(inputs),
        outputs=to_tensor(outputs),
        input_ops=tuple(family.input_op(x) for x in flat_inputs),
        calls=tuple(calls),
    )
    memo[id(model)] = graph
    return graph


def _inner(op: Operation, family: Family, prefix: str, memo: dict[int, Graph]) -> Graph | None:
    if not family.is_model(op) or family.functional(op) is None:
        return None
    return _read_model(op, family, prefix, memo)


class _TensorMap:
    """Replaces symbolic tensors by `Tensor` in any structure."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._known: dict[int, Tensor] = {}

    def __call__(self, structure: object) -> Any:
        return tree.map_structure(self._one, structure)

    def _one(self, value: object) -> object:
        if not self._family.is_tensor(value):
            return value
        if id(value) not in self._known:
            self._known[id(value)] = Tensor(id(value), tuple(value.shape), dtype_name(value))
        return self._known[id(value)]


def _no_graph(model: KerasModel, family: Family) -> str:
    kind = type(model).__name__
    if family.is_sequential(model) and keras_model_base(model) is not None:
        return (
            f"Sequential model '{model.name}' is not built, so its layers have no shapes. "
            "Give it an Input layer, or call it once on real data, before pruning."
        )
    return (
        f"Expected a functional or Sequential model. Received: '{model.name}' of the subclassed type {kind}, whose call() "
        "is its own, so that there is no graph to trace. Rebuild it with the functional API: call its layers on a "
        "keras.Input and wrap the result in keras.Model(inputs, outputs)."
    )
