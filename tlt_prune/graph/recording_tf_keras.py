"""The same as `recording`, for a layer of tf_keras: its `call` on symbolic tensors, and what tf_keras records of it."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras import tree

from tlt_prune.errors import first_line
from tlt_prune.graph.execute import filled
from tlt_prune.graph.family import Family, all_layers, tf_keras_family
from tlt_prune.graph.inner_graph import Builder, CannotOpenError, Sizes, Tensors, layer_names, own_variable_call
from tlt_prune.graph.reader import Call, Graph, Tensor

_Place = tuple[Any, Any, Any]
"""(dictionary or list, key, variable)."""


class TfKerasRecorder:
    """One run of one layer's `call` on symbolic tensors.

    Args:
        call: of a layer that is built.
        family: its Keras.
    """

    def __init__(self, call: Call, family: Family) -> None:
        self._call, self._family, self._layer = call, family, call.op
        self._keras = family.namespace()
        self._tree = [call.op, *all_layers(call.op)]
        self._variables = {id(v): v for layer in self._tree for v in family.weights(layer)}
        self._nodes: list[Any] = []
        self._stand_ins: dict[int, Any] = {}
        self._attributes: dict[int, str] = {}
        """`id` of a variable -> the attribute that holds it."""
        self._places: list[_Place] = []
        self._busy = False

    def graph(self, training: bool | None) -> Graph:
        """The graph behind the call.

        Raises:
            CannotOpenError: the layer does something that cannot be recorded.
        """
        with self._family.unnoticed():
            given = {x.key: self._symbol(x) for x in self._call.inputs}
            args, kwargs = filled((self._call.args, self._call.kwargs), given)
            if "training" in inspect.signature(self._layer.call).parameters:
                kwargs = {"training": training, **kwargs}
            with self._recording():
                try:
                    results = self._layer.call(*args, **kwargs)
                # A layer may raise anything on what is no array.
                except Exception as error:
                    if isinstance(error, CannotOpenError):
                        raise
                    why = f"on symbolic tensors it raises {type(error).__name__}: {first_line(error, 120)}"
                    raise CannotOpenError(why) from error
                losses = any(self._family.is_tensor(x) for layer in self._tree for x in layer._losses)
        if losses:
            raise CannotOpenError("it adds a loss")
        return self._as_graph(given, results)

    def _symbol(self, x: Tensor) -> Any:
        dtype = x.dtype
        if self._layer._autocast and dtype.startswith(("float", "bfloat")):
            dtype = self._layer.compute_dtype
        return self._family.symbol(x.shape, dtype)

    # --- recording ---

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """Variables stand in, and nodes are noted, until everything is put back."""
        base = self._keras.layers.Layer
        layer_call = base.__call__
        attributes = [(layer, dict(vars(layer)), list(layer._losses)) for layer in self._tree]
        recorder = self

        def closed(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return recorder._closed_call(layer_call, layer, args, kwargs)

        self._find_variables()
        try:
            base.__call__ = closed
            with _noted_nodes(self._keras, self._nodes):
                self._stand()
                yield
        finally:
            base.__call__ = layer_call
            self._lift()
            for layer, attribute, losses in attributes:
                vars(layer).clear()
                vars(layer).update(attribute)
                layer._losses[:] = losses

    def _find_variables(self) -> None:
        for layer in self._tree:
            for key, value in vars(layer).items():
                if not key.startswith(("_trainable", "_non_trainable", "_self_", "_obj_", "_keras_api_names")):
                    self._search(vars(layer), key, value, key.strip("_"))
        missing = [v.name for key, v in self._variables.items() if key not in self._attributes]
        if missing:
            raise CannotOpenError(f"its variable '{missing[0]}' is not found in its attributes")

    def _search(self, container: Any, key: Any, value: Any, attribute: str) -> None:
        """Finds the places of variables in an attribute, to any depth of lists and dictionaries."""
        if id(value) in self._variables:
            self._attributes.setdefault(id(value), attribute)
            self._places.append((container, key, value))
            return
        # tf_keras wraps what attributes hold, to track it.
        inside = getattr(value, "_storage", getattr(value, "__wrapped__", value))
        if isinstance(inside, (list, dict)):
            for inner, x in list(inside.items() if isinstance(inside, dict) else enumerate(inside)):
                self._search(inside, inner, x, f"{attribute}/{inner}")

    def _stand_in(self, variable: Any) -> Any:
        if not variable.shape.rank:
            # tf_keras has no symbols without axes: a number stands in arguments as it is.
            return self._stand_ins.setdefault(id(variable), variable)
        if id(variable) not in self._stand_ins:
            dtype = variable.dtype.name
            if dtype.startswith("float") and self._layer._autocast:
                dtype = self._layer.compute_dtype
            self._stand_ins[id(variable)] = self._family.symbol(tuple(variable.shape), dtype)
        return self._stand_ins[id(variable)]

    def _stand(self) -> None:
        for container, key, variable in self._places:
            container[key] = self._stand_in(variable)

    def _lift(self) -> None:
        for container, key, variable in self._places:
            container[key] = variable

    def _closed_call(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        """A layer that is called inside: as it is, on symbolic tensors."""
        if self._busy:
            return original(layer, *args, **kwargs)
        if not any(self._family.is_tensor(x) for x in tree.flatten((args, kwargs))):
            raise CannotOpenError(f"it calls '{layer.name}' on a constant")
        was_built, known = layer.built, any(layer is x for x in self._tree)
        self._busy = True
        self._lift()
        try:
            outputs = original(layer, *args, **kwargs)
        finally:
            self._stand()
            self._busy = False
        if self._family.is_layer(layer) and layer.weights and not (known and was_built):
            raise CannotOpenError(f"it calls '{layer.name}', which is none of its layers, or not built")
        return outputs

    # --- the graph ---

    def _as_graph(self, given: Mapping[int, Any], results: Any) -> Graph:
        flat = tree.flatten(results)
        for x in flat:
            if not self._family.is_tensor(x):
                raise CannotOpenError(f"it returns a {type(x).__name__} that does not depend on its inputs")
        if len(flat) != len(self._call.outputs):
            raise CannotOpenError(f"it returns {len(flat)} tensors inside and {len(self._call.outputs)} outside")
        tensors = Tensors(Sizes({}))
        inputs = [tensors(given[x.key]) for x in self._call.inputs]
        names = layer_names(self._layer, self._family)
        owners = {id(v): (layer, i) for layer in reversed(self._tree) for i, v in enumerate(self._family.weights(layer))}
        variables = []
        for key, symbol in self._stand_ins.items():
            owner, index = owners[key]
            variables.append(
                own_variable_call(self._call, (owner, index), self._variables[key], self._attributes[key], tensors(symbol), names)
            )
        builder = Builder(self._call, self._family, tensors, names, None, self._variables)
        for node in self._nodes:
            if not node.is_input:
                builder.add(node)
        # TensorFlow's functions are recorded for the sizes at hand.
        builder.runnable = False
        return builder.finish(self._call, inputs, [tensors(x) for x in flat], variables)


@contextlib.contextmanager
def _noted_nodes(package: Any, nodes: list[Any]) -> Iterator[None]:
    """Notes what tf_keras records; at the end no layer knows of it anymore."""
    node = package.src.engine.node.Node
    node_init = node.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        node_init(self, *args, **kwargs)
        nodes.append(self)

    node.__init__ = noted
    try:
        yield
    finally:
        node.__init__ = node_init
        for made in reversed(nodes):
            _unlink(made)


def _unlink(node: Any) -> None:
    for layer in (node.layer, *(x._keras_history.layer for x in node.keras_inputs)):
        for nodes in (layer._inbound_nodes, layer._outbound_nodes):
            nodes[:] = [x for x in nodes if x is not node]


def tensorflow_operations_of(function: Callable[[Any], Any]) -> list[tuple[Any, Any]] | None:
    """The same as `operations_of`, for functions of TensorFlow, where tf_keras has been imported."""
    package = sys.modules.get("tf_keras")
    if package is None:
        return None
    family = tf_keras_family(package)
    nodes: list[Any] = []
    with family.unnoticed():
        try:
            symbol = family.symbol((None, 3, 5), "float32")
            with _noted_nodes(package, nodes):
                result = function(symbol)
        # A user's may raise anything on what is no array.
        except Exception:  # noqa: BLE001
            return None
    if not family.is_tensor(result):
        return None
    calls = [family.node_call(x) for x in nodes if not x.is_input]
    return [(op, tree.flatten((args, kwargs))) for op, args, kwargs in calls]
