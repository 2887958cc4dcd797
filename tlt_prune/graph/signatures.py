"""What was found out about a layer, for others that are like it."""

from __future__ import annotations

import collections
import inspect
import json
from collections.abc import Callable
from typing import Any

from keras import tree

from tlt_prune.graph.classes import patched
from tlt_prune.graph.copying import is_plain, of_every_layer
from tlt_prune.graph.reader import Call, Tensor

_MOST_REMEMBERED = 1024
_remembered: collections.OrderedDict[Any, Any] = collections.OrderedDict()


def remembered(key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """What was found out about a layer once holds for every layer of the same class, configuration and inputs."""
    if None in key:
        return compute()
    if key not in _remembered:
        _remembered[key] = compute()
        if len(_remembered) > _MOST_REMEMBERED:
            _remembered.popitem(last=False)
    _remembered.move_to_end(key)
    return _remembered[key]


def signature(op: Any) -> tuple[Any, ...] | None:
    """All that tells a layer from others of its class, but its name and its weights; None where that cannot be told."""
    if patched(op):
        return None
    try:
        config = {key: value for key, value in op.get_config().items() if key not in ("name", "build_config")}
        text = json.dumps(config, default=_text, sort_keys=True)
    # A custom layer's may raise anything.
    except Exception as error:  # noqa: BLE001
        text = _text(error)
    own = {key: value for key, value in vars(op).items() if key not in of_every_layer()}
    plain = repr(sorted((key, value) for key, value in own.items() if is_plain(value)))
    functions = tuple((key, value) for key, value in own.items() if _is_function(value))
    return text, plain, functions


def _is_function(value: object) -> bool:
    """Whether a value is a function of the user's, and not a method that Keras wraps on every object."""
    return inspect.isfunction(value) and not hasattr(value, "__wrapped__")


def _text(value: object) -> str:
    return f"{type(value).__name__} {value!r}"


def constant_arguments(call: Call) -> str:
    """The arguments of a call that are no tensors."""
    return repr(tree.map_structure(lambda x: "tensor" if isinstance(x, Tensor) else x, (call.args, call.kwargs)))
