"""The registry of rules: by name for what Keras ships, by class for what users write."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, TypeVar

from tlt_prune.graph.classes import changes_computation, is_keras_class, keras_base, patched

Rule = Callable[..., Any]
Key = TypeVar("Key", str, type)

Trait = Literal[
    "activation",
    "activation attribute",
    "averaging",
    "batch normalization",
    "concatenation",
    "convolution",
    "dense",
    "depthwise convolution",
    "elementwise",
    "elementwise weights",
    "flatten",
    "mean preserving",
    "separable convolution",
    "sum",
    "transposed convolution",
]
"""A property of a layer that others than the tracer ask for:

- "activation": the layer as a whole is a function of each element by itself;
- "activation attribute": what it computes goes through its attribute `activation`;
- "averaging": it averages over spatial axes;
- "elementwise": the operation treats every element by itself, with those of other tensors in the same place;
- "elementwise weights": its weights scale or shift elements, and none is contracted with channels as a kernel is;
- "mean preserving": in inference, the mean of a channel is the same behind it;
- the others: that it is one.
"""

_LAYER_TRAITS: dict[str, frozenset[Trait]] = {}
_OP_TRAITS: dict[str, frozenset[Trait]] = {}
_TF_TRAITS: dict[str, frozenset[Trait]] = {}
_LAYERS: dict[str, Rule] = {}
_OPS: dict[str, Rule] = {}
_TF_OPS: dict[str, Rule] = {}
_CLASSES: dict[type, Rule] = {}
_INNER: dict[type, Rule] = {}
_TAKE_FACETS: set[Rule] = set()
_WRAPPED: dict[Rule, tuple[str, ...]] = {}


def _decorator(registry: dict[Key, Rule], keys: tuple[Key, ...]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for key in keys:
            if key in registry:
                raise ValueError(f"A rule for {key!r} is already registered: {registry[key]!r}.")
            registry[key] = rule
        return rule

    return register


def _with_traits(
    registry: dict[str, Rule], all_traits: dict[str, frozenset[Trait]], names: tuple[str, ...], traits: frozenset[Trait]
) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _decorator(registry, names)(rule)
        all_traits.update(dict.fromkeys(names, traits))
        return rule

    return register


def layer(*names: str, traits: Collection[Trait] = ()) -> Callable[[Rule], Rule]:
    """Registers a rule for built-in layers, by class name, and their traits."""
    return _with_traits(_LAYERS, _LAYER_TRAITS, names, frozenset(traits))


def raw_op(*names: str, traits: Collection[Trait] = ()) -> Callable[[Rule], Rule]:
    """Registers a rule for Keras 3 raw operations (`keras.ops.*`), by class name, and their traits."""
    return _with_traits(_OPS, _OP_TRAITS, names, frozenset(traits))


def tf_op(*symbols: str, traits: Collection[Trait] = ()) -> Callable[[Rule], Rule]:
    """Registers a rule for TensorFlow functions in a tf_keras graph, by symbol ("math.add"), and their traits."""
    return _with_traits(_TF_OPS, _TF_TRAITS, symbols, frozenset(traits))


def inner_op(*classes: type) -> Callable[[Rule], Rule]:
    """Registers a rule for operations that stand for what an opened layer does (see `inner_ops`)."""
    return _decorator(_INNER, classes)


def wraps(*attributes: str) -> Callable[[Rule], Rule]:
    """Marks the rule of a wrapper, which leaves the rest to the rules of the layers in `attributes`."""

    def mark(rule: Rule) -> Rule:
        _WRAPPED[rule] = attributes
        return rule

    return mark


def wrapped(op: object) -> list[object]:
    """The layers that the rule of a wrapper leaves the rest to; none for any other."""
    rule = find(op, is_layer=True)
    return [] if rule is None else [getattr(op, name) for name in _WRAPPED.get(rule, ())]


def takes_facets(rule: Rule) -> Rule:
    """Marks a rule that is given `Facets` as they are: it knows what to do with labels on several axes of a variable."""
    _TAKE_FACETS.add(rule)
    return rule


def is_given_facets(rule: Rule) -> bool:
    """Whether a rule takes `Facets`."""
    return rule in _TAKE_FACETS


def register_rule(*classes: type) -> Callable[[Rule], Rule]:
    """Registers a rule for custom layer classes.

    ```python
    @tlt_prune.register_rule(Scale)                 # y = gamma * x, one gamma a channel
    def scale(call, x):
        channels = call.vector(x, axis=-1)          # the labels on the channel axis
        call.follow(channels, call.op.gamma)        # gamma has one entry a channel
        return x                                    # the output carries the same channels
    ```

    A layer with a kernel contracts the incoming channels and issues fresh ones:

    ```python
    @tlt_prune.register_rule(PatchProjection)       # patches (batch, n, d) @ kernel (d, units) + bias
    def project(call, x):
        incoming, out = call.vector(x, axis=-1), call.fresh(call.op.units)
        call.attach(call.op.kernel, 0, incoming, "in")  # rows that read the incoming channels
        call.attach(call.op.kernel, 1, out, "out")      # columns that make the new ones
        call.follow(out, call.op.bias)
        call.produce(out, (call.op.kernel, (1,), out))  # a row of the plan: scored by its columns
        call.count("units", out)                        # get_config()["units"] counts them
        call.macs(call.op.kernel, call.positions(call.out_shapes[0], -1))
        return call.place(out, axis=-1)
    ```

    Args:
        *classes: layer classes. Subclasses inherit the rule unless they override something that computes.

    Returns:
        A decorator for `rule(call, x, ...) -> labels`, with `call` a `tlt_prune.CallTrace`.

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


def find(op: object, *, is_layer: bool) -> Rule | None:
    """The rule of an operation, or None.

    A subclass inherits the rule of its base unless it overrides something that its calls may depend on: then the rule no
    longer describes what it does.
    """
    for cls in type(op).__mro__:
        if cls in _CLASSES:
            return None if patched(op) else _CLASSES[cls]
        if is_keras_class(cls) or changes_computation(cls, type(op)):
            break
    if not is_layer:
        return _of_operation(op)
    base = keras_base(op)
    return None if base is None else _LAYERS.get(base.__name__)


def states_trait(op: object, trait: Trait, *, is_layer: bool) -> bool:
    """Whether an operation computes what a built-in one with that trait does."""
    if is_layer:
        base = keras_base(op)
        return base is not None and trait in _LAYER_TRAITS.get(base.__name__, ())
    if hasattr(op, "symbol"):
        return trait in _TF_TRAITS.get(op.symbol, ())
    return is_keras_class(type(op)) and trait in _OP_TRAITS.get(type(op).__name__, ())


def inherits_trait(op: object, *traits: Trait) -> bool:
    """Whether a layer is of a class that Keras ships with one of these traits, or of a subclass, whatever that overrides."""
    return any(
        is_keras_class(cls) and not _LAYER_TRAITS.get(cls.__name__, frozenset()).isdisjoint(traits) for cls in type(op).__mro__
    )


def _of_operation(op: object) -> Rule | None:
    cls = type(op)
    if cls in _INNER:
        return _INNER[cls]
    if cls.__module__.startswith("tf_keras."):
        symbol = getattr(op, "symbol", None)
        return _TF_OPS.get(symbol if symbol is not None else cls.__name__)
    return _OPS.get(cls.__name__) if is_keras_class(cls) else None


@functools.cache
def accepts(rule: Rule, count: int) -> bool:
    """Whether a rule takes that many label arrays: a call may have further tensors that nobody thought of."""
    try:
        inspect.signature(rule).bind(None, *range(count))
    except TypeError:
        return False
    return True
