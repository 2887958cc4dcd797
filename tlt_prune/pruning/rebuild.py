"""One layer or operation -> a new one of the same class, from its configuration with some entries replaced."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlt_prune.errors import PlanError, UnsupportedModelError, first_line
from tlt_prune.graph.channel_graph import Edit, resolve
from tlt_prune.graph.classes import is_keras_class
from tlt_prune.graph.family import Family, all_layers
from tlt_prune.graph.labels import Alive
from tlt_prune.graph.reader import Call

_DEFERRED = "zeros"
"""Initial values are overwritten at once: random ones would be waste."""


def rebuild(
    call: Call, family: Family, edits: Iterable[Edit], alive: Alive, override: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The new operation, and the initialisers to put back into it once it is built.

    Args:
        call: of the operation to rebuild.
        edits: its configuration edits.
        alive: `(n_labels,)`.
        override: configuration entries of the user's.

    Raises:
        PlanError: `override` has an entry that the configuration lacks.
        UnsupportedModelError: the class cannot be rebuilt from its configuration.
    """
    op = call.op
    if family.is_a(op, "Lambda") and is_keras_class(type(op)):
        return type(op)(**_overridden(call, family.lambda_arguments(op), override)), {}
    try:
        config = _copied(op.get_config())
    # A custom layer's may raise anything; Keras' own do where an argument cannot be written down.
    except Exception as error:
        raise _not_rebuilt(call, error) from error
    for edit in edits:
        _set(config, edit.key, resolve(edit.value, alive))
    if is_keras_class(type(op)):
        # Keras' layers take arrays, but restore themselves from lists only.
        config = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in config.items()}
    initialisers = {key: value for key, value in _silenced(op, config).items() if key not in override}
    _hand_over(op, config)
    config = _overridden(call, config, override)
    try:
        # What a layer is made of need not be registered with Keras.
        with family.namespace().utils.custom_object_scope(_objects_inside(op)):
            new = type(op).from_config(config)
    except (TypeError, ValueError) as error:
        raise _not_rebuilt(call, error) from error
    _hand_over_inside(op, new)
    # Before it is called: some lookups know their output's width only with their vocabulary.
    _hand_over_assets(op, new)
    return new, initialisers


def _overridden(call: Call, config: dict[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    for key in override:
        if key not in config:
            raise PlanError(
                f"layer_config_overrides: layer '{call.path}' of type {type(call.op).__name__} has no "
                f"configuration entry {key!r}. Expected one of {', '.join(sorted(config))}."
            )
    return {**config, **copy.deepcopy(dict(override))}


def _not_rebuilt(call: Call, error: Exception) -> UnsupportedModelError:
    own = is_keras_class(type(call.op))
    expected = "arguments that Keras can write into a file" if own else "get_config() to return every argument of the constructor"
    return UnsupportedModelError(
        f"Layer '{call.path}' of type {type(call.op).__name__} cannot be rebuilt from its configuration: {first_line(error)} "
        f"Expected {expected}."
    )


def _copied(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that may be edited: its dictionaries copied, without the shapes inner layers were built for."""
    return {key: _copied(value) if type(value) is dict else value for key, value in config.items() if key != "build_config"}


def _set(config: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = value


def _silenced(op: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Replaces the initialisers in a configuration and returns them."""
    # Layers that hand initialisers on to inner ones have them as properties, which cannot be put back.
    keys = [key for key in config if key.endswith("_initializer") and vars(op).get(key) is not None]
    config.update(dict.fromkeys(keys, _DEFERRED))
    return {key: getattr(op, key) for key in keys}


def _hand_over(op: Any, config: dict[str, Any]) -> None:
    """Replaces what only a registered class could be restored from by the object itself.

    A user's activation function, regularizer or constraint need not be known to Keras' serialisation.
    """
    config.update({key: value for key in config if _is_users_own(key, value := vars(op).get(key))})


def _objects_inside(op: Any) -> dict[str, Any]:
    """Classes and functions of the layers inside, by the names that their configurations call them."""
    inner = all_layers(op)
    own = [value for layer in inner for key, value in vars(layer).items() if _is_users_own(key, value)]
    named = [x if inspect.isfunction(x) else type(x) for x in (*inner, *own)]
    return {x.__name__: x for x in named}


def _hand_over_inside(op: Any, new: Any) -> None:
    """The objects themselves once more: a user's function may have the name of one of Keras'."""
    old_layers, new_layers = all_layers(op), all_layers(new)
    if len(old_layers) == len(new_layers):
        for old, layer in zip(old_layers, new_layers, strict=True):
            for key, value in vars(old).items():
                if _is_users_own(key, value):
                    setattr(layer, key, value)


def _is_users_own(key: str, value: Any) -> bool:
    if key.endswith("activation"):
        return inspect.isfunction(value)
    return key.endswith(("_regularizer", "_constraint")) and value is not None


def _hand_over_assets(op: Any, new: Any) -> None:
    """What a layer keeps beside weights and configuration, such as an adapted vocabulary: through its saving interface."""
    if not hasattr(op, "save_assets"):
        return
    variables: dict[str, Any] = {}
    op.save_own_variables(variables)
    new.load_own_variables(variables)
    with tempfile.TemporaryDirectory() as folder:
        op.save_assets(folder)
        new.load_assets(folder)


def cut_initialiser(initialiser: Any, rank: int, cuts: Mapping[int, Any]) -> Any:
    """An initialiser that holds an array, cut as its weight is: left whole, a saved model could not be built again.

    Args:
        rank: of the weight, against which the array is broadcast.
        cuts: axis -> `(size,)` booleans, what is retained.
    """
    value: Any = getattr(initialiser, "value", None)
    shape = np.shape(value)
    for axis, keep in cuts.items():
        at = axis - rank
        if len(shape) >= -at and shape[at] == len(keep):
            value = np.compress(keep, np.asarray(value), axis=at)
    return type(initialiser)(value) if np.shape(value) != shape else initialiser
