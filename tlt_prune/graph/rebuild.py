"""One layer or operation -> a new one of the same class, from its configuration with some entries replaced."""

from __future__ import annotations

import copy
import inspect
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlt_prune.errors import PlanError, UnsupportedModelError, first_line
from tlt_prune.graph import initializers
from tlt_prune.graph.channel_graph import Edit, resolve
from tlt_prune.graph.classes import is_keras_class
from tlt_prune.graph.family import Family, all_layers
from tlt_prune.graph.labels import Alive
from tlt_prune.graph.reader import Call
from tlt_prune.graph.types import Layer, Operation


def rebuild(
    call: Call,
    family: Family,
    edits: Iterable[Edit],
    alive: Alive,
    override: Mapping[str, Any],
    held: Mapping[Layer, Layer],
    *,
    resized: bool,
) -> Any:
    """The new operation. Initializers that it will never use are zeros, until `initializers.restore` puts them back.

    Args:
        call: of the operation to rebuild.
        edits: its configuration edits.
        alive: `(n_labels,)`.
        override: configuration entries of the user's.
        held: layers that this one holds and the model has elsewhere too -> what became of them.
        resized: whether its weights or inputs change their shape. If not, the layers inside are built at once, as Keras does
            when it loads them.

    Raises:
        PlanError: `override` has an entry that the configuration lacks.
        UnsupportedModelError: the class cannot be rebuilt from its configuration.
    """
    op = call.op
    if family.is_a(op, "Lambda") and is_keras_class(type(op)):
        return type(op)(**_overridden(call, family.lambda_arguments(op), override))
    with family.sharing(held):
        try:
            with warnings.catch_warnings():
                # A function that cannot be written down is handed over itself.
                warnings.filterwarnings("ignore", message=".*includes a `lambda`")
                config = _copied(configuration(op), built=not resized)
        # A custom layer's may raise anything; Keras' own do where an argument cannot be written down.
        except Exception as error:
            raise _not_rebuilt(call, error) from error
        for edit in edits:
            config = with_entry(config, edit.key, resolve(edit.value, alive))
        if is_keras_class(type(op)):
            # Keras' layers take arrays, but restore themselves from lists only.
            config = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in config.items()}
        initializers.silence(op, config)
        _hand_over(op, config)
        config = _overridden(call, config, override)
        try:
            # What a layer is made of need not be registered with Keras.
            with family.namespace().utils.custom_object_scope(_objects_inside(op)):
                new = type(op)(**config) if op in _by_arguments else type(op).from_config(config)
        except (TypeError, ValueError) as error:
            raise _not_rebuilt(call, error) from error
    for old, layer in layer_pairs(op, new)[1:]:
        _hand_over_inside(old, layer)
    for old, layer in layer_pairs(op, new):
        # Before it is called: some lookups know their output's width only with their vocabulary.
        _hand_over_assets(old, layer)
    return new


_by_arguments: weakref.WeakSet[Any] = weakref.WeakSet()
"""Layers whose `get_config` does not return what their constructor was given."""


def configuration(op: Any) -> dict[str, Any]:
    """What a layer is made of: what it returns, or what its constructor was given."""
    if op in _by_arguments:
        return {**op._auto_config.config, "name": op.name}
    config: dict[str, Any] = op.get_config()
    return config


def trust_arguments(op: Any, *, trusted: bool) -> bool:
    """From here on, makes a layer of the arguments that its constructor was given, as Keras remembers them, or no longer.

    Returns:
        Whether that can be done: all of them are plain values or functions.
    """
    if not trusted:
        _by_arguments.discard(op)
        return True
    given = getattr(getattr(op, "_auto_config", None), "config", None)
    if not isinstance(given, dict) or not all(map(_is_value, given.values())):
        return False
    _by_arguments.add(op)
    return True


def _is_value(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_value, value))
    if isinstance(value, dict):
        return all(map(_is_value, value.values()))
    return (
        value is None
        or isinstance(value, (str, int, float, bool, np.generic))
        or inspect.isfunction(value)
        or inspect.isclass(value)
    )


def layer_pairs(op: Operation, new: Operation) -> list[tuple[Any, Any]]:
    """A layer and what became of it, then the layers inside; the latter only where both have the same."""
    old_layers, new_layers = all_layers(op), all_layers(new)
    same = [type(x) for x in old_layers] == [type(x) for x in new_layers]
    return [(op, new), *(zip(old_layers, new_layers, strict=True) if same else ())]


def _overridden(call: Call, config: dict[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    for key in override:
        if key not in config:
            raise PlanError(
                f"layer_config_overrides: layer '{call.path}' of type {type(call.op).__name__} has no "
                f"configuration entry {key!r}. Expected one of {', '.join(sorted(config))}."
            )
    return {**config, **copy.deepcopy(dict(override))}


def _not_rebuilt(call: Call, error: Exception) -> UnsupportedModelError:
    expected = "get_config() to return every argument of the constructor"
    if is_keras_class(type(call.op)):
        expected = "arguments that Keras can write into a file"
    return UnsupportedModelError(
        f"Layer '{call.path}' of type {type(call.op).__name__} cannot be rebuilt from its configuration: {first_line(error)} "
        f"Expected {expected}."
    )


def _copied(config: Any, *, built: bool) -> Any:
    """A configuration that may be edited: its dictionaries and lists copied, with or without the shapes layers were built for."""
    if type(config) is dict:
        return {key: _copied(value, built=built) for key, value in config.items() if built or key != "build_config"}
    if type(config) in (list, tuple):
        return type(config)(_copied(x, built=built) for x in config)
    return config


def with_entry(config: Any, path: tuple[Any, ...], value: object) -> Any:
    """A configuration with one entry replaced; only what leads to it is copied."""
    if not path:
        return value
    changed = with_entry(config[path[0]], path[1:], value) if len(path) > 1 else value
    if isinstance(config, dict):
        return {**config, path[0]: changed}
    return type(config)([changed if i == path[0] else x for i, x in enumerate(config)])


def _hand_over(op: Operation, config: dict[str, Any]) -> None:
    """Replaces what only a registered class could be restored from by the object itself.

    A user's activation function, regularizer or constraint need not be known to Keras' serialization.
    """
    config.update({key: value for key in config if _is_users_own(key, value := vars(op).get(key))})


def _objects_inside(op: Operation) -> dict[str, Any]:
    """Classes and functions of the layers inside, by the names that their configurations call them."""
    inner = all_layers(op)
    objects = [value for layer in inner for key, value in vars(layer).items() if _is_users_own(key, value)]
    named = [x if inspect.isfunction(x) else type(x) for x in (*inner, *objects)]
    return {x.__name__: x for x in named}


def _hand_over_inside(old: Layer, new: Layer) -> None:
    """The objects themselves once more: a user's function may have the name of one of Keras'."""
    for key, value in vars(old).items():
        if _is_users_own(key, value):
            setattr(new, key, value)


def _is_users_own(key: str, value: object) -> bool:
    if key.endswith("activation"):
        return inspect.isfunction(value)
    return key.endswith(("_regularizer", "_constraint")) and value is not None


def _hand_over_assets(op: Any, new: Any) -> None:
    """Copies the assets of a layer, such as an adapted vocabulary, through its saving interface."""
    if not hasattr(op, "save_assets"):
        return
    variables: dict[str, Any] = {}
    op.save_own_variables(variables)
    new.load_own_variables(variables)
    with tempfile.TemporaryDirectory() as folder:
        op.save_assets(folder)
        new.load_assets(folder)
