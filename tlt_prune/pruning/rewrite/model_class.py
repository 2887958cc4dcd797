"""A model of the class that the user wrote: its training step, metrics and arguments outlive a rewrite."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from keras import tree

from tlt_prune.errors import first_line
from tlt_prune.graph import Family, KerasModel, is_keras_class


def same_class(model: KerasModel, family: Family, plain: type, parts: Mapping[str, Any]) -> Any:
    """`type(model)(**parts)`, with what else its constructor takes as `model` has it.

    Args:
        model: the original, of a class of Keras or derived from one.
        family: its Keras.
        plain: Keras' own class, which takes `parts` as well.
        parts: `inputs`, `outputs` and `name` of a functional model, or `layers` and `name` of a Sequential one.

    Returns:
        The new model. Where the class cannot be made from `parts`, one of class `plain`, and a warning says what is lost.
    """
    cls = type(model)
    if is_keras_class(cls):
        return plain(**parts)
    try:
        with family.namespace().utils.custom_object_scope({cls.__name__: cls}):
            new = cls(**parts, **_further_arguments(model, family, parts))
        if _is_made_of(new, parts):
            return new
        reason = "its constructor makes layers of its own"
    # A constructor of the user's may raise anything.
    except Exception as error:  # noqa: BLE001
        reason = first_line(error)
    expected = "inputs, outputs" if "inputs" in parts else "layers"
    warnings.warn(
        f"The pruned model is a plain {plain.__name__}, not a {cls.__name__}: {reason}. {_lost(cls)} is lost. "
        f"Expected a class whose constructor takes {expected}, name and what get_config() returns.",
        stacklevel=2,
    )
    return plain(**parts)


def _further_arguments(model: KerasModel, family: Family, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the constructor's other arguments: from `get_config()`, else from attributes of the same names."""
    parameters, takes_any = _parameters(type(model))
    refused = [name for name in parts if name not in parameters and not takes_any]
    if refused:
        raise TypeError(f"its constructor does not take {', '.join(refused)}")
    named = [
        p
        for name, p in parameters.items()
        if name not in (*parts, "trainable") and p.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    config: dict[str, Any] = model.get_config() if named else {}
    values = {}
    for p in named:
        if p.name in config:
            value = config[p.name]
            is_object = isinstance(value, dict) and "class_name" in value
            values[p.name] = family.namespace().saving.deserialize_keras_object(value) if is_object else value
        elif hasattr(model, p.name):
            values[p.name] = getattr(model, p.name)
        else:
            raise TypeError(f"get_config() does not return its argument {p.name!r}")
    return values


def _parameters(cls: type) -> tuple[dict[str, inspect.Parameter], bool]:
    """Parameters of a constructor and of those that it hands its arguments on to; and whether it takes any of Keras' too."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if is_keras_class(base):
            return parameters, True
        if "__init__" in vars(base):
            here = [*inspect.signature(base.__init__).parameters.items()][1:]  # type: ignore[misc]
            parameters = {**dict(here), **parameters}
            if not any(p.kind is inspect.Parameter.VAR_KEYWORD for _, p in here):
                break
    return parameters, False


def _is_made_of(new: KerasModel, parts: Mapping[str, Any]) -> bool:
    """Whether a new model is what it was to be made of, and nothing else."""
    if "layers" in parts:
        expected, received = parts["layers"][-len(new.layers) :], new.layers
    else:
        expected, received = tree.flatten((parts["inputs"], parts["outputs"])), tree.flatten((new.inputs, new.outputs))
    return len(expected) == len(received) and all(a is b for a, b in zip(expected, received, strict=True))


def _lost(cls: type) -> str:
    """The public methods that a plain class lacks, for people."""
    bases = [base for base in cls.__mro__ if not is_keras_class(base) and base is not object]
    names = {name for base in bases for name, value in vars(base).items() if callable(value)}
    methods = sorted(name for name in names if not name.startswith("_") and name not in ("get_config", "from_config"))
    return f"What it adds ({', '.join(methods)})" if methods else "What it adds"
