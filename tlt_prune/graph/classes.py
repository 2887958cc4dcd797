"""The class whose computation an object has: one that it inherits from, or its own.

A class that only adds arguments, configuration or training steps computes what its base does; one that overrides anything
else may compute anything, whatever the name of what it overrides (`call`, `convolution_op`, a `kernel` property...).
"""

from __future__ import annotations

import functools
from typing import Any

# What a subclass may define without changing what its calls compute: construction, saving, shapes, names.
_LAYER_NEUTRAL = frozenset(
    (
        *("get_config", "from_config", "get_build_config", "build_from_config", "get_compile_config", "compile_from_config"),
        *("compute_output_shape", "compute_output_spec", "compute_output_signature", "supports_masking"),
        *("save_own_variables", "load_own_variables", "save_assets", "load_assets", "count_params", "trainable", "name"),
    )
)
# And for models, everything but the forward pass: `train_step`, `metrics`, `summary`...
_MODEL_FORWARD = frozenset(("call", "__call__", "symbolic_call", "build"))
_SPECIAL = frozenset(("__call__", "__getattr__", "__getattribute__", "__new__"))
_KERAS = ("keras", "tf_keras")


def is_keras_class(cls: type) -> bool:
    """Whether a class comes from Keras or tf_keras itself."""
    return cls.__module__.partition(".")[0] in _KERAS


def changes_computation(cls: type, of: type) -> bool:
    """Whether `cls`, a base of the class `of`, overrides something there that calls may depend on.

    What a mixin overrides it does not inherit itself: the bases of `of` that come after it count.
    """
    behind = of.__mro__[of.__mro__.index(cls) + 1 :]
    return any(_matters(name) and any(name in vars(base) for base in behind if base is not object) for name in vars(cls))


def changes_forward(cls: type) -> bool:
    """The same for a model class, whose layers are known: only what runs them matters."""
    return any(name in vars(cls) for name in _MODEL_FORWARD)


def keras_base(op: object) -> type | None:
    """The class of Keras whose computation a layer has, or None where it has its own."""
    for cls in type(op).__mro__:
        if is_keras_class(cls):
            return None if patched(op) else cls
        if changes_computation(cls, type(op)):
            return None
    return None


def keras_model_base(model: object) -> type | None:
    """The same for a model: the class of Keras whose forward pass it has."""
    for cls in type(model).__mro__:
        if is_keras_class(cls):
            return cls
        if changes_forward(cls):
            return None
    return None


def patched(op: object) -> bool:
    """Whether a method was replaced on the object itself, by something that is not Keras' own wrapper."""
    methods = _methods(type(op))  # type: ignore[arg-type]
    return any(
        name in methods and callable(value) and not _wraps_own(value, getattr(type(op), name)) for name, value in vars(op).items()
    )


def _wraps_own(value: object, method: object) -> bool:
    """Keras wraps some methods (`build`, `quantize`) on every object, and tf_keras sets `call` to TensorFlow's functions."""
    wrapped = getattr(value, "__wrapped__", None)
    home = str(getattr(value, "__module__", "")).partition(".")[0]
    return getattr(wrapped, "__func__", wrapped) is method or home in (*_KERAS, "tensorflow")


def _matters(name: str) -> bool:
    if name.startswith("__") and name.endswith("__"):
        return name in _SPECIAL
    # Python's and Keras' bookkeeping on classes.
    return name not in _LAYER_NEUTRAL and not name.startswith(("_abc_", "_tf_", "_keras_"))


@functools.cache
def _methods(cls: Any) -> frozenset[str]:
    return frozenset(name for name in dir(cls) if _matters(name) and callable(getattr(cls, name, None)))
