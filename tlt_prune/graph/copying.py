"""An exact copy of a Keras 3 layer that its configuration does not describe: attribute by attribute, with weights of its own."""

from __future__ import annotations

import copy
import functools
from typing import Any

import keras
import numpy as np

from tlt_prune.graph.classes import patched
from tlt_prune.graph.family import OF_TENSORFLOW

_BY_KERAS = ("_inbound_nodes", "_outbound_nodes", "_tracker", "_losses", "_loss_ids", "_metrics", "_layers", "_seed_generators")


def copy_of(layer: Any) -> Any:
    """A layer like another one, that shares no variable and no layer with it.

    Args:
        layer: a layer that is built.

    Raises:
        TypeError: it has an attribute that cannot be copied, or variables that no attribute holds in an order of its own.
    """
    new = _Copier().layer(layer)
    if [tuple(v.shape) for v in new.weights] != [tuple(v.shape) for v in layer.weights]:
        raise TypeError("its weights are not found in its attributes")
    return new


def describes(layer: Any, new: Any) -> bool:
    """Whether a layer made from another one's configuration has the same plain attributes, and no method of the other one was
    replaced on the object itself."""
    if patched(layer):
        return False
    ours, theirs, every = vars(layer), vars(new), of_every_layer()
    plain = [key for key, x in ours.items() if key in theirs and key not in every and is_plain(x)]
    return all(type(ours[key]) is type(theirs[key]) and ours[key] == theirs[key] for key in plain)


@functools.cache
def of_every_layer() -> frozenset[str]:
    """Names of the attributes that Keras gives every layer."""
    return frozenset(vars(keras.layers.Layer(name="any")))


def is_plain(value: object) -> bool:
    """Whether a value is a number, a text, nothing, or a tuple of such."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return isinstance(value, (str, int, float, bool, type(None)))


class _Copier:
    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}
        """`id` of an object -> itself, which keeps the `id` its own, and its copy."""

    def __call__(self, value: Any) -> Any:
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        if isinstance(value, keras.layers.Layer):
            return self.layer(value)
        if isinstance(value, keras.Variable):
            return self._kept(value, _variable(value))
        if isinstance(value, keras.random.SeedGenerator):
            return self._kept(value, keras.random.SeedGenerator.from_config(value.get_config()))
        if isinstance(value, dict):
            return self._kept(value, {key: self(x) for key, x in value.items()})
        if isinstance(value, (list, set, frozenset)) or type(value) is tuple:
            kind = next(cls for cls in (list, set, frozenset, tuple) if isinstance(value, cls))
            return self._kept(value, kind(self(x) for x in value))
        if isinstance(value, tuple):
            return self._kept(value, type(value)(*(self(x) for x in value)))
        if callable(value) or isinstance(value, (str, bytes, int, float, bool, type(None))):
            return value
        return self._kept(value, _plain(value))

    def layer(self, layer: Any) -> Any:
        if isinstance(layer, keras.Model) and (isinstance(layer, keras.Sequential) or hasattr(layer, "_inputs_struct")):
            inside = {type(x).__name__: type(x) for x in layer._flatten_layers()}
            with keras.saving.custom_object_scope(inside):
                new = keras.models.clone_model(layer)
            new.set_weights(layer.get_weights())
            return self._kept(layer, new)
        cls: Any = type(layer)
        new = cls.__new__(cls)
        base = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
        base.__init__(new, name=layer.name, dtype=layer.dtype_policy)
        self._kept(layer, new)
        made = set(vars(new))
        for key, value in vars(layer).items():
            if key in _BY_KERAS or key in OF_TENSORFLOW or key.endswith("_variables"):
                # What Keras and TensorFlow keep of what a layer has, they find out again.
                continue
            if callable(value) and hasattr(value, "__wrapped__"):
                continue
            if key not in made:
                setattr(new, key, self(value))
            elif isinstance(value, (str, int, float, bool, tuple, type(None))) or callable(value):
                # What the layer says of itself, such as `supports_masking`.
                vars(new)[key] = value
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            if id(variable) not in self._copies:
                new._track_variable(self(variable))
        for name in ("_layers", "_trainable_variables", "_non_trainable_variables"):
            # In the order in which the layer got them: its weights are numbered so.
            list.__setitem__(getattr(new, name), slice(None), [self(x) for x in getattr(layer, name)])
        new.trainable = layer.trainable
        if layer.built:
            new.built = True
            new._lock_state()
        return new

    def _kept(self, value: Any, new: Any) -> Any:
        self._copies[id(value)] = (value, new)
        return new


def _variable(variable: keras.Variable) -> keras.Variable:
    new = keras.Variable(
        keras.ops.convert_to_numpy(variable),
        dtype=variable.dtype,
        trainable=variable.trainable,
        autocast=variable._autocast,
        name=variable.name,
    )
    new.regularizer, new.constraint = variable.regularizer, variable.constraint
    return new


def _plain(value: Any) -> Any:
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_tensor(np.array(keras.ops.convert_to_numpy(value)))
    return copy.deepcopy(value)
