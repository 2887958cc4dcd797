"""The initializers of a layer that is rebuilt: out of the way while its weights get their values, and back afterwards.

Initial values are overwritten at once, so that random ones would be waste; and an array (`Constant`) has the size of the weight
before the rewrite, with which the smaller layer could neither be built now nor when its file is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune.graph.family import Family
from tlt_prune.graph.types import Layer, Variable

_DEFERRED = "zeros"
_SUFFIX = "_initializer"

Cuts = Mapping[int, NDArray[np.bool_]]
"""Axis of a weight -> `(size,)` booleans, what is retained."""


def silence(op: Layer, config: dict[str, Any]) -> None:
    """Replaces the initializers in a layer's configuration by zeros: its own, and of layers inside those that hold arrays."""
    # Layers that hand initializers on to inner ones have them as properties, which cannot be put back.
    config.update({key: _DEFERRED for key in config if key.endswith(_SUFFIX) and vars(op).get(key) is not None})
    _silence_arrays(config)


def _silence_arrays(config: Any) -> None:
    entries: Iterable[tuple[Any, Any]] = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in list(entries):
        if isinstance(key, str) and key.endswith(_SUFFIX) and _holds_array(value):
            config[key] = _DEFERRED
        elif isinstance(value, (dict, list)):
            _silence_arrays(value)


def _holds_array(value: object) -> bool:
    if isinstance(value, dict):
        return value.get("class_name") in ("__numpy__", "__tensor__") or any(_holds_array(x) for x in value.values())
    return isinstance(value, (list, tuple, np.ndarray)) and np.size(value) > 0


def restore(
    pairs: Iterable[tuple[Layer, Layer]], family: Family, cuts_of: Callable[[Variable], Cuts], overridden: Iterable[str]
) -> None:
    """Gives rebuilt layers their initializers, with arrays cut as the weights are that they fill.

    Args:
        pairs: a layer and what became of it, then the layers inside it alike.
        cuts_of: variable of an old layer -> how it was cut.
        overridden: entries of the outermost layer that the user replaced.
    """
    for position, (old, new) in enumerate(pairs):
        for key, initializer in list(vars(old).items()):
            if not key.endswith(_SUFFIX) or initializer is None or (position == 0 and key in overridden):
                continue
            arrays = {name: x for name, x in getattr(initializer, "__dict__", {}).items() if np.ndim(x)}
            if arrays:
                filled = _filled_by(key, arrays, family.weights(old))
                if filled is not None:
                    initializer = _cut_initializer(initializer, arrays, filled, cuts_of(filled))
                setattr(new, key, initializer)
            elif position == 0:
                setattr(new, key, initializer)


def _filled_by(key: str, arrays: Mapping[str, ArrayLike], weights: Iterable[Variable]) -> Variable | None:
    """The weight that an initializer fills: of those that its arrays fit, the one whose name is most like the initializer's."""
    kind = key.strip("_").removesuffix(_SUFFIX)

    def unlikeness(weight: Variable) -> tuple[bool, bool]:
        name = weight.name.split("/")[-1].split(":")[0]
        return name != kind, kind not in name

    shapes = [np.shape(x) for x in arrays.values()]
    return min((w for w in weights if any(_fits(shape, tuple(w.shape)) for shape in shapes)), key=unlikeness, default=None)


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether an array of `shape` can be broadcast to `whole`."""
    return len(shape) <= len(whole) and all(a in (1, b) for a, b in zip(shape[::-1], whole[::-1], strict=False))


def _cut_initializer(initializer: object, arrays: Mapping[str, ArrayLike], weight: Variable, cuts: Cuts) -> object:
    cut = copy.copy(initializer)
    whole = tuple(weight.shape)
    for name, array in arrays.items():
        if _fits(np.shape(array), whole):
            setattr(cut, name, _cut_array(array, len(whole), cuts))
    return cut


def _cut_array(array: ArrayLike, rank: int, cuts: Cuts) -> ArrayLike:
    """An array that is broadcast against a weight of `rank` axes, cut as that is."""
    value = array
    for axis, keep in cuts.items():
        at = axis - rank
        if len(np.shape(value)) >= -at and np.shape(value)[at] == len(keep):
            value = np.compress(keep, np.asarray(value), axis=at)
    return value
