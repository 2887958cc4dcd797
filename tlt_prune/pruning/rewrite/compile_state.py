"""The compile arguments of a model -> the model that was made of it."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from tlt_prune.errors import first_line
from tlt_prune.graph import Family, KerasModel, is_keras_class


def copy_compile_state(old: KerasModel, new: KerasModel, family: Family) -> None:
    """Compiles `new` as `old` is compiled.

    Optimizer and metrics, which have variables, are made anew from their configurations; functions and losses are the same
    objects. Nothing has to be registered with Keras. Where an argument cannot be copied, `new` is not compiled and a warning says
    why.
    """
    arguments = family.compile_arguments(old)
    if not arguments:
        return
    family.copy_policy(old, new)
    try:
        if is_keras_class(_definer(type(new), "compile")):
            new.compile(**{key: _fresh(value, family) for key, value in arguments.items()})
            _copy_exclusions(old, new)
            family.build_optimizer(new)
        else:
            new.compile_from_config(old.get_compile_config())
    # Users' optimizers, metrics and compile() may raise anything.
    except Exception as error:  # noqa: BLE001
        warnings.warn(
            f"The pruned model is not compiled: the compile arguments of '{old.name}' cannot be copied: {first_line(error)} "
            "Call compile() on it.",
            stacklevel=2,
        )


def _copy_exclusions(old: Any, new: Any) -> None:
    """What an optimizer spares from weight decay, which its configuration does not say."""
    optimizer: Any = getattr(old, "optimizer", None)
    copy: Any = getattr(new, "optimizer", None)
    while hasattr(optimizer, "_use_weight_decay") and hasattr(copy, "exclude_from_weight_decay"):
        spared = {_path(v) for v in old.trainable_variables if not optimizer._use_weight_decay(v)}
        if spared:
            copy.exclude_from_weight_decay([v for v in new.trainable_variables if _path(v) in spared])
        # Where a loss is scaled, the optimizer that trains is inside.
        optimizer, copy = getattr(optimizer, "inner_optimizer", None), getattr(copy, "inner_optimizer", None)


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _definer(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in vars(base))


def _fresh(value: Any, family: Family) -> Any:
    """A compile argument for another model: equal, and with no variable in common. A loss seldom has any."""
    if isinstance(value, dict):
        return {key: _fresh(x, family) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fresh(x, family) for x in value)
    is_loss = isinstance(value, family.namespace().losses.Loss)
    if not hasattr(value, "get_config") or (is_loss and not any(hasattr(x, "assign") for x in vars(value).values())):
        return value
    inside = [x for x in vars(value).values() if inspect.isfunction(x) or hasattr(x, "get_config")]
    named: list[Any] = [x if inspect.isfunction(x) else type(x) for x in inside]
    with family.namespace().utils.custom_object_scope({x.__name__: x for x in named if not is_keras_class(x)}):
        return type(value).from_config(value.get_config())
