"""The registry of rules: by name for what Keras ships, by class for what users write."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

Rule = Callable[..., Any]

_LAYERS: dict[str, Rule] = {}
_OPS: dict[str, Rule] = {}
_TF_OPS: dict[str, Rule] = {}
_CLASSES: dict[type, Rule] = {}

_MODULES = (
    "weighted", "normalization", "elementwise", "merging", "moving", "pooling", "preprocessing", "recurrent", "attention",
    "raw", "tf_ops",
)  # fmt: skip


def _decorator(registry: dict[Any, Rule], keys: tuple[Any, ...]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for key in keys:
            if key in registry:
                raise ValueError(f"A rule for {key!r} is already registered: {registry[key]!r}.")
            registry[key] = rule
        return rule

    return register


def layer(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for built-in layers, by class name."""
    return _decorator(_LAYERS, names)


def raw_op(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for Keras 3 raw operations (`keras.ops.*`), by class name."""
    return _decorator(_OPS, names)


def tf_op(*symbols: str) -> Callable[[Rule], Rule]:
    """Registers a rule for TensorFlow functions in a tf_keras graph, by symbol ("math.add")."""
    return _decorator(_TF_OPS, symbols)


def register_rule(*classes: type) -> Callable[[Rule], Rule]:
    """Registers a rule for custom layer classes.

    ```python
    @tlt_prune.register_rule(Scale)                 # y = gamma * x, one gamma a channel
    def scale(call, x):
        channels = call.vector(x, axis=-1)          # the labels on the channel axis
        call.follow(channels, call.op.gamma)        # gamma has one entry a channel
        return x                                    # the output carries the same channels
    ```

    Args:
        *classes: layer classes. Subclasses that do not override `call` or `build` inherit the rule.

    Returns:
        A decorator for `rule(call, x, ...) -> labels`, with `call` a `CallTrace`.

    Raises:
        TypeError: something that is not a class was given.
        ValueError: a class already has a rule.
    """
    for cls in classes:
        if not isinstance(cls, type):
            raise TypeError(f"register_rule() expects layer classes. Received: {cls!r}.")
    return _decorator(_CLASSES, classes)


@contextlib.contextmanager
def scoped() -> Iterator[None]:
    """Forgets, on leaving, the custom rules registered inside."""
    before = dict(_CLASSES)
    try:
        yield
    finally:
        _CLASSES.clear()
        _CLASSES.update(before)


@functools.cache
def _load() -> None:
    for name in _MODULES:
        importlib.import_module(f"tlt_prune.graph.rules.{name}")


def find(op: Any, *, is_layer: bool) -> Rule | None:
    """The rule of an operation, or None.

    A subclass inherits the rule of its base unless it defines `call` or `build` itself: then the rule
    no longer describes what it does.
    """
    _load()
    for cls in type(op).__mro__:
        if cls in _CLASSES:
            return _CLASSES[cls]
        package = cls.__module__.partition(".")[0]
        if package in ("keras", "tf_keras"):
            return _built_in(op, cls, is_layer)
        if "call" in cls.__dict__ or "build" in cls.__dict__:
            return None
    return None


def _built_in(op: Any, cls: type, is_layer: bool) -> Rule | None:
    if is_layer:
        return _LAYERS.get(cls.__name__)
    if cls.__module__.startswith("tf_keras."):
        symbol = getattr(op, "symbol", None)
        return _TF_OPS.get(symbol if symbol is not None else cls.__name__)
    return _OPS.get(cls.__name__)
