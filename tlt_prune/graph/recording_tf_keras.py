"""The same as `recording`, for a layer of tf_keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras import tree

from tlt_prune.graph.family import Family
from tlt_prune.graph.inner_graph import Builder, CannotOpenError, Sizes, Tensors, layer_names, own_variable_call
from tlt_prune.graph.reader import Call, Graph, Tensor
from tlt_prune.graph.recording import Place, RecorderBase, with_training


class TfKerasRecorder(RecorderBase):
    """One run of one layer's `call` on symbolic tensors."""

    def __init__(self, call: Call, family: Family, sizes: Sizes) -> None:
        super().__init__(call, family, sizes)
        self._variables = {id(v): v for layer in self._tree for v in family.weights(layer)}
        self._stand_ins: dict[int, Any] = {}
        self._attributes: dict[int, str] = {}
        """`id` of a variable -> the attribute that holds it."""

    def _run(self, args: Any, kwargs: Any) -> Any:
        return self._layer.call(*args, **with_training(self._layer, kwargs, self._training))

    def _symbol(self, x: Tensor) -> Any:
        dtype = x.dtype
        if self._layer._autocast and dtype.startswith(("float", "bfloat")):
            dtype = self._layer.compute_dtype
        return self._family.symbol(x.shape, dtype)

    # --- recording ---

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
            self._places.append(Place(container, key, value, self._stand_in(value)))
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

    def _closed_call(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        """A layer that is called inside: as it is, on symbolic tensors."""
        if self._busy:
            return original(layer, *args, **kwargs)
        if not any(self._family.is_tensor(x) for x in tree.flatten((args, kwargs))):
            raise CannotOpenError(f"it calls '{layer.name}' on a constant")
        was_built = layer.built
        outputs = self._called_inside(original, layer, args, kwargs)
        if self._family.is_layer(layer) and layer.weights and not (was_built and id(layer) in self._known):
            raise CannotOpenError(f"it calls '{layer.name}', which is none of its layers, or not built")
        return outputs

    # --- the graph ---

    def _as_graph(self, given: Mapping[int, Any], results: Any) -> Graph:
        tensors = Tensors(self._sizes)
        inputs = [tensors(given[x.key]) for x in self._call.inputs]
        names, owners = layer_names(self._layer, self._family), self._owners()
        variables = [
            own_variable_call(self._call, owners[key], self._variables[key], self._attributes[key], tensors(symbol), names)
            for key, symbol in self._stand_ins.items()
        ]
        builder = Builder(self._call, self._family, tensors, names, None, self._variables)
        for node in self._nodes:
            if not node.is_input:
                builder.add(node)
        # TensorFlow's functions are recorded for the sizes at hand.
        builder.runnable = False
        return builder.finish(self._call, inputs, [tensors(x) for x in tree.flatten(results)], variables)
