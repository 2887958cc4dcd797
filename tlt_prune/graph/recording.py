"""A layer's `call`, run on symbolic tensors, and what Keras records of it.

Everything that this touches is put back: attributes, nodes, losses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import tree
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallContext
from keras.src.ops.node import Node

from tlt_prune.errors import first_line
from tlt_prune.graph.classes import is_keras_class, keras_base
from tlt_prune.graph.execute import filled
from tlt_prune.graph.family import OF_TENSORFLOW, Family, all_layers
from tlt_prune.graph.inner_graph import Builder, CannotOpenError, Sizes, Tensors, is_of_layers, layer_names, own_variable_call
from tlt_prune.graph.inner_ops import Constant
from tlt_prune.graph.nodes import noted_nodes
from tlt_prune.graph.reader import Call, Graph, Tensor

_LISTS_OF_KERAS = ("_trainable_variables", "_non_trainable_variables")


class _StandIn(keras.KerasTensor):
    """A variable of the layer, while it is opened."""

    def __init__(self, variable: keras.Variable, attribute: str, dtype: str, recorder: Recorder) -> None:
        super().__init__(tuple(variable.shape), dtype)
        self.variable = variable
        self.attribute = attribute
        """The attribute that holds it, which a rebuilt layer has too, whatever the variable is called."""
        self.trainable = variable.trainable
        self.path = variable.path
        self._recorder = recorder

    @property
    def value(self) -> _StandIn:
        return self

    def assign(self, value: Any) -> Any:
        """A state that the layer updates: what it gets is as wide as it is."""
        self._recorder.assigned.append((self, value))
        return value

    def assign_add(self, value: Any) -> Any:
        return self.assign(self + value)

    def assign_sub(self, value: Any) -> Any:
        return self.assign(self - value)


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where an attribute of a layer holds a variable."""

    container: Any
    key: Any
    real: Any
    stand_in: Any

    def put(self, value: Any) -> None:
        # Past Keras, which would track it.
        if isinstance(self.container, list):
            list.__setitem__(self.container, self.key, value)
        else:
            dict.__setitem__(self.container, self.key, value)


class RecorderBase:
    """One run of one layer's `call` on symbolic tensors: what both Kerases have in common.

    Args:
        call: of a layer that is built.
        family: its Keras.
        sizes: stand-ins for sizes that the model leaves open.
    """

    def __init__(self, call: Call, family: Family, sizes: Sizes) -> None:
        self._call, self._family, self._sizes = call, family, sizes
        self._layer = call.op
        self._tree = [call.op, *all_layers(call.op)]
        self._known = {id(x) for x in self._tree}
        self._nodes: list[Any] = []
        self._busy = False
        self._training: bool | None = None
        self._places: list[Place] = []

    def graph(self, training: bool | None) -> Graph:
        """The graph behind the call.

        Raises:
            CannotOpenError: the layer does something that cannot be recorded.
        """
        self._training = training
        given = {x.key: self._symbol(x) for x in self._call.inputs}
        args, kwargs = filled((self._call.args, self._call.kwargs), given)
        with self._recording():
            try:
                results = self._run(args, kwargs)
            except CannotOpenError:
                raise
            # A layer may raise anything on what is no array.
            except Exception as error:
                why = f"on symbolic tensors it raises {type(error).__name__}: {first_line(error, 120)}"
                raise CannotOpenError(why) from error
            losses = any(self._family.is_tensor(x) for layer in self._tree for x in layer._losses)
        if losses:
            raise CannotOpenError("it adds a loss")
        flat = tree.flatten(results)
        for x in flat:
            if not self._family.is_tensor(x):
                raise CannotOpenError(f"it returns a {type(x).__name__} that does not depend on its inputs")
        if len(flat) != len(self._call.outputs) and self._call.path:
            raise CannotOpenError(f"it returns {len(flat)} tensors inside and {len(self._call.outputs)} outside")
        return self._as_graph(given, results)

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """Variables stand in, and nodes are noted, until everything is put back."""
        base = self._family.namespace().layers.Layer
        attributes = [(layer, dict(vars(layer)), list(layer._losses)) for layer in self._tree]
        layer_call = base.__call__
        recorder = self

        def closed(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return recorder._closed_call(layer_call, layer, args, kwargs)

        self._find_variables()
        try:
            base.__call__ = closed
            with self._surroundings(), noted_nodes(self._nodes, self._family):
                self._stand()
                yield
        finally:
            base.__call__ = layer_call
            self._lift()
            for layer, attribute, losses in attributes:
                vars(layer).clear()
                vars(layer).update(attribute)
                layer._losses[:] = losses

    def _stand(self) -> None:
        for place in self._places:
            place.put(place.stand_in)

    def _lift(self) -> None:
        for place in self._places:
            place.put(place.real)

    def _called_inside(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        """A layer that is called inside, with everything in its place meanwhile."""
        self._busy = True
        self._lift()
        try:
            return original(layer, *args, **kwargs)
        finally:
            self._stand()
            self._busy = False

    def _owners(self) -> dict[int, tuple[Any, int]]:
        """`id` of each variable -> the layer that made it, and its position among the weights of that layer."""
        owners: dict[int, tuple[Any, int]] = {}
        for layer in self._tree:
            own = {id(v) for v in self._family.own_variables(layer)} - owners.keys()
            if own:
                owners |= {id(v): (layer, i) for i, v in enumerate(self._family.weights(layer)) if id(v) in own}
        # What no layer says that it made is the opened one's.
        for i, v in enumerate(self._family.weights(self._layer)):
            owners.setdefault(id(v), (self._layer, i))
        return owners

    def _symbol(self, x: Tensor) -> Any:
        raise NotImplementedError

    def _run(self, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def _surroundings(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def _find_variables(self) -> None:
        raise NotImplementedError

    def _closed_call(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def _as_graph(self, given: Mapping[int, Any], results: Any) -> Graph:
        raise NotImplementedError


class Recorder(RecorderBase):
    """That of Keras 3."""

    def __init__(self, call: Call, family: Family, sizes: Sizes) -> None:
        super().__init__(call, family, sizes)
        self._stand_ins: dict[int, _StandIn] = {}
        self.assigned: list[tuple[_StandIn, Any]] = []

    def _run(self, args: Any, kwargs: Any) -> Any:
        return _transparent(self._layer, args, kwargs, self._training)

    def _symbol(self, x: Tensor) -> keras.KerasTensor:
        shape, dtype = self._sizes.assumed(x.shape), x.dtype
        if self._layer.autocast and keras.backend.is_float_dtype(dtype) and self._layer._convert_input_args:
            dtype = self._layer.input_dtype
        return keras.KerasTensor(shape, dtype)

    # --- recording ---

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        context = global_state.get_global_attribute("current_call_ctx")
        global_state.set_global_attribute("current_call_ctx", CallContext(entry_layer=self._layer))
        try:
            with keras.StatelessScope():
                yield
        finally:
            global_state.set_global_attribute("current_call_ctx", context)

    def _find_variables(self) -> None:
        for layer in self._tree:
            # Keras' own lists come last: an attribute is the better name.
            entries = sorted(vars(layer).items(), key=lambda x: x[0] in _LISTS_OF_KERAS)
            for key, value in entries:
                if key in OF_TENSORFLOW:
                    continue
                self._search(vars(layer), key, value, layer, key.strip("_"))

    def _search(self, container: Any, key: Any, value: Any, layer: Any, attribute: str) -> None:
        """Finds the places of variables in an attribute, to any depth of lists and dictionaries."""
        if isinstance(value, keras.Variable):
            self._places.append(Place(container, key, value, self._stand_in(value, layer, attribute)))
        elif isinstance(value, (list, dict)):
            for inner, x in list(value.items() if isinstance(value, dict) else enumerate(value)):
                self._search(value, inner, x, layer, f"{attribute}/{inner}")
        elif isinstance(value, tuple) and any(isinstance(x, keras.Variable) for x in value):
            replaced = tuple(
                self._stand_in(x, layer, f"{attribute}/{i}") if isinstance(x, keras.Variable) else x for i, x in enumerate(value)
            )
            self._places.append(Place(container, key, value, replaced))

    def _stand_in(self, variable: Any, layer: Any, attribute: str) -> _StandIn:
        if id(variable) not in self._stand_ins:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            # As in a call: variables are cast to the type that the layer computes in.
            if variable._autocast and keras.backend.is_float_dtype(dtype) and layer.compute_dtype != layer.variable_dtype:
                dtype = layer.compute_dtype
            self._stand_ins[id(variable)] = _StandIn(variable, attribute, dtype, self)
        return self._stand_ins[id(variable)]

    def _closed_call(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        """A layer that is called inside: as it is, on symbolic tensors."""
        if self._busy:
            return original(layer, *args, **kwargs)
        if is_of_layers(layer):
            # Its layers are called as if they stood here.
            return layer.call(*args, **kwargs)
        if not any(isinstance(x, keras.KerasTensor) for x in tree.flatten((args, kwargs))):
            args = (self._constant(args[0]), *args[1:])
        was_built, is_known = layer.built, id(layer) in self._known
        try:
            outputs = self._called_inside(original, layer, args, kwargs)
        except Exception:
            # Keras notes only calls that return tensors, of shapes that the layer says right.
            if is_keras_class(type(layer)) or not is_known:
                raise
            outputs = None
        if outputs is None:
            return _transparent(layer, args, kwargs, self._training)
        if layer.weights and not is_known:
            raise CannotOpenError(f"it calls '{layer.name}', which is none of its layers")
        if layer.weights and not was_built:
            raise CannotOpenError(f"the layer '{layer.name}' in it is not built: call the model once on data")
        return outputs

    def _constant(self, value: Any) -> Any:
        tensor = keras.ops.convert_to_tensor(value)
        symbol = keras.KerasTensor(tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        Node(Constant(keras.ops.convert_to_numpy(tensor)), (), {}, symbol)
        return symbol

    # --- the graph ---

    def _as_graph(self, given: Mapping[int, Any], results: Any) -> Graph:
        tensors = Tensors(self._sizes)
        inputs = [tensors(given[x.key]) for x in self._call.inputs]
        names = layer_names(self._layer, self._family)
        owners = self._owners()
        variables = {
            id(x): own_variable_call(self._call, owners[id(x.variable)], x.variable, x.attribute, tensors(x), names)
            for x in self._stand_ins.values()
        }
        builder = Builder(self._call, self._family, tensors, names, inputs[0] if inputs else None)
        for node in self._nodes:
            builder.add(node)
        for stand_in, value in self.assigned:
            builder.add_assignment(variables[id(stand_in)], value)
        graph = builder.finish(self._call, inputs, [tensors(x) for x in tree.flatten(results)], list(variables.values()))
        if self._call.path:
            return graph
        # A model may take and return a structure.
        by_key = {x.key: tensor for x, tensor in zip(self._call.inputs, inputs, strict=True)}
        return dataclasses.replace(
            graph,
            inputs=tree.map_structure(lambda x: by_key[x.key], self._call.args[0]),
            outputs=tree.pack_sequence_as(results, graph.flat_outputs),
        )


def _transparent(layer: Any, args: Any, kwargs: Any, training: bool | None) -> Any:
    """What a layer does, as if it stood here."""
    if keras_base(layer) is keras.layers.TimeDistributed:
        return _of_all_steps(layer, *args, **kwargs)
    return layer.call(*args, **with_training(layer, kwargs, training))


def with_training(layer: Any, kwargs: dict[str, Any], training: bool | None) -> dict[str, Any]:
    """Arguments of a layer's `call`, with `training` where it asks for that and is not told."""
    return {"training": training, **kwargs} if "training" in inspect.signature(layer.call).parameters else kwargs


def _of_all_steps(wrapper: Any, x: Any, mask: Any = None, training: bool | None = None) -> Any:
    """What a layer inside TimeDistributed does, of all steps of all sequences as one batch: Keras writes it down step by step."""
    if mask is not None:
        raise CannotOpenError("it is given a mask")
    if x.shape[1] is None:
        raise CannotOpenError("the number of its steps is open")
    steps = keras.ops.reshape(x, (-1, *x.shape[2:]))
    results = wrapper.layer(steps, **with_training(wrapper.layer, {}, training))
    return tree.map_structure(lambda y: keras.ops.reshape(y, (-1, x.shape[1], *y.shape[1:])), results)
