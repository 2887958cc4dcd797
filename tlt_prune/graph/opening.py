"""Opening: what a layer without a rule does inside, as a graph that the same rules trace.

The layer's `call` runs on symbolic tensors, and Keras records the inner layers and operations that it uses. The layer's own
variables stand in as symbolic tensors too, so that `x * self.gamma` is recorded and not computed. Everything that this touches is
put back: attributes, nodes, name counters, losses. This is the only place that knows the internals of Keras that it takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree

from tlt_prune.graph.execute import Execution
from tlt_prune.graph.family import Family
from tlt_prune.graph.inner_graph import CannotOpenError, OpenReshapeError, Sizes, new_keys
from tlt_prune.graph.inner_ops import INNER_OPS, Assigned, ConvTranspose
from tlt_prune.graph.nodes import noted_nodes
from tlt_prune.graph.reader import Call, Graph, Tensor
from tlt_prune.graph.recording import Recorder
from tlt_prune.graph.recording_tf_keras import TfKerasRecorder

_LARGE = (127, 131, 137, 139, 149, 151, 157, 163)
_SMALL = (13, 11, 7, 17, 19, 5, 23)
"""Stand-ins for sizes that a layer insists on knowing, by axis: what it makes of them, such as a mask, must fit into memory."""


def open_layer(call: Call, family: Family, *, training: bool | None = None) -> Graph:
    """The graph behind a call of a layer without a rule.

    Args:
        call: of a layer that is built. The layer stays as it is.
        family: its Keras.
        training: what it is called with, if its `call` asks for it.

    Returns:
        A graph whose inputs and outputs are those of the call; the layer's own variables are calls of `OwnVariable` in it.

    Raises:
        CannotOpenError: the layer does something that cannot be recorded.
    """
    is_keras3 = family.name == "keras"
    recorder = Recorder if is_keras3 else TfKerasRecorder
    failures: list[CannotOpenError] = []
    for sizes in _assumed_sizes(call) if is_keras3 else (Sizes({}),):
        if sizes.lenient and not isinstance(failures[0], OpenReshapeError):
            continue
        try:
            with family.unnoticed():
                return recorder(call, family, sizes).graph(training)
        except CannotOpenError as error:
            failures.append(error)
    raise failures[0]


def _assumed_sizes(call: Call) -> Iterator[Sizes]:
    """What is tried for sizes that the model leaves open: nothing, the batch, all."""
    yield Sizes({})
    taken = {n for x in (*call.inputs, *call.op.weights) for n in x.shape if n}
    large, small = ([p for p in primes if all(n % p for n in taken)] for primes in (_LARGE, _SMALL))
    rank = max([len(x.shape) for x in call.inputs], default=0)
    if large:
        yield Sizes({0: large[0]})
    if small:
        yield Sizes({0: small[0]}, batch_factor=576)
    if large and any(None in x.shape[1:] for x in call.inputs):
        # Tables of positions may be short.
        for primes in (large[1:], small):
            if len(primes) >= rank - 1:
                yield Sizes({0: large[0], **dict(enumerate(primes[: rank - 1], start=1))})
    yield Sizes({}, lenient=True)


def open_model(model: keras.Model, family: Family) -> Graph:
    """The graph behind a subclassed model that is built.

    Raises:
        CannotOpenError: it is not built, takes several arguments, or does something that cannot be recorded.
    """
    failures = []
    for given in _inputs_of(model, family):
        try:
            return open_layer(Call(model, "", (given,), {}, (), None), family)
        except CannotOpenError as error:
            failures.append(error)
    raise failures[0]


def _inputs_of(model: Any, family: Family) -> Iterator[Any]:
    """What a model may be called on: structures of tensors, of which one fits."""
    if hasattr(model, "_inputs_struct"):
        # A functional model whose class overrides `call`.
        yield tree.map_structure(
            lambda x: Tensor(-next(new_keys), tuple(x.shape), keras.backend.standardize_dtype(x.dtype)),
            family.structures(model)[0],
        )
        return
    shapes = getattr(model, "_build_shapes_dict", None)
    if not model.built or not shapes:
        raise CannotOpenError("it is not built: call it once on data")
    if len(shapes) > 1:
        raise CannotOpenError(
            f"its call() takes several tensors ({', '.join(shapes)}), where a functional model takes one structure"
        )
    (structure,) = shapes.values()
    for dtype in (model.input_dtype, "int32"):
        yield _map_shapes(lambda shape: Tensor(-next(new_keys), (None, *shape[1:]), dtype), structure)  # noqa: B023


def why_not_inlined(call: Call, family: Family) -> str | None:
    """Why a layer that was opened cannot be replaced by what it does; None if it can."""
    assert call.inner is not None, "only what was opened can be inlined"
    if family.name != "keras":
        return "only layers of Keras 3 are inlined"
    if any(isinstance(x.op, (Assigned, ConvTranspose)) for x in call.inner.calls):
        return "it updates a state, or has an operation that Keras cannot run in a functional model"
    if family.is_a(call.op, "TimeDistributed") and call.op.non_trainable_weights:
        return "it updates a state at each step"
    if not call.inner.runnable:
        return "it computes with sizes that are known only when it runs"
    used = {id(variable) for _, _, variable in call.inner.weights_used()}
    if any(id(variable) not in used for variable in family.weights(call.op)):
        return "it has weights that it does not use"
    if not _runs(call.inner, family):
        return "what it does inside does not run by itself"
    try:
        trained = open_layer(call, family, training=True)
    except CannotOpenError as error:
        return f"in training {error}"
    return None if _wiring(trained) == _wiring(call.inner) else "it does something else in training"


def _runs(graph: Graph, family: Family) -> bool:
    """Whether the calls of a graph, made again on symbolic tensors, return what they are said to."""
    execution: Execution[Any] = Execution(graph, [keras.KerasTensor(x.shape, x.dtype) for x in graph.flat_inputs])
    nodes: list[Any] = []
    try:
        with family.unnoticed(), keras.StatelessScope(), noted_nodes(nodes, family):
            for pending in execution:
                call = pending.call
                args, kwargs = pending.arguments()
                if isinstance(call.op, INNER_OPS):
                    pending.results = [keras.KerasTensor(x.shape, x.dtype) for x in call.outputs]
                else:
                    pending.results = family.symbolic_call(call.op, args, kwargs)
    # Layers and operations raise anything on shapes that do not fit.
    except Exception:  # noqa: BLE001
        return False
    made = [tuple(x.shape) for x in execution.outputs]
    return all(_fits(a, x.shape) for a, x in zip(made, graph.flat_outputs, strict=True))


def _fits(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> bool:
    return len(a) == len(b) and all(m is None or n is None or m == n for m, n in zip(a, b, strict=True))


def _wiring(graph: Graph) -> list[Any]:
    """What is called on what."""
    numbers = {x.key: i for i, x in enumerate(graph.flat_inputs)}
    rows: list[Any] = []
    for call in graph.calls:
        rows.append((type(call.op).__name__, call.path, [numbers[x.key] for x in call.inputs]))
        for x in call.outputs:
            numbers[x.key] = len(numbers)
    return [*rows, [numbers[x.key] for x in graph.flat_outputs]]


def _map_shapes(function: Callable[[tuple[Any, ...]], Tensor], structure: Any) -> Any:
    """`function` of each shape in a structure of them."""
    if isinstance(structure, dict):
        return {key: _map_shapes(function, x) for key, x in structure.items()}
    if all(x is None or isinstance(x, int) for x in structure):
        return function(tuple(structure))
    return [_map_shapes(function, x) for x in structure]


def with_opened_layers(graph: Graph, is_closed: Callable[[Call], bool]) -> tuple[Graph, dict[int, str]]:
    """A graph in which each call of a layer without a rule has the graph behind it, where the layer can be opened.

    Args:
        graph: of a model.
        is_closed: whether a call's layer has no rule.

    Returns:
        The graph, and by the `id` of a layer why it could not be opened.
    """
    opener = _Opener(is_closed)
    return opener.graph(graph), opener.reasons


class _Opener:
    def __init__(self, is_closed: Callable[[Call], bool]) -> None:
        self._is_closed = is_closed
        self._graphs: dict[int, tuple[Graph, Graph]] = {}
        self.reasons: dict[int, str] = {}

    def graph(self, graph: Graph) -> Graph:
        if id(graph) not in self._graphs:
            calls = tuple(self._call(call, graph.family) for call in graph.calls)
            same = all(a is b for a, b in zip(calls, graph.calls, strict=True))
            self._graphs[id(graph)] = (graph, graph if same else dataclasses.replace(graph, calls=calls))
        return self._graphs[id(graph)][1]

    def _call(self, call: Call, family: Family) -> Call:
        inner = call.inner
        if inner is None and family.is_layer(call.op) and self._is_closed(call):
            try:
                inner = open_layer(call, family)
            except CannotOpenError as error:
                self.reasons[id(call.op)] = str(error)
        if inner is None:
            return call
        opened = self.graph(inner)
        return call if opened is call.inner else dataclasses.replace(call, inner=opened)
