"""Weight decay, in the scope that a spec names, on new and on loaded models alike."""

from __future__ import annotations

from typing import Any

import keras

from tlt_prune.errors import SpecError
from tlt_prune.specs import RegConfig

_SCOPES: dict[str, tuple[type, ...]] = {
    "conv2d": (
        keras.layers.Conv1D,
        keras.layers.Conv2D,
        keras.layers.Conv3D,
        keras.layers.Conv2DTranspose,
        keras.layers.DepthwiseConv2D,
        keras.layers.SeparableConv2D,
    ),
    "dense": (keras.layers.Dense,),
}


def regularizer(config: RegConfig) -> Any | None:
    """The Keras regularizer of a spec, or None."""
    if config.type == "none" or config.weight_decay == 0:
        return None
    return {"L1": keras.regularizers.L1, "L2": keras.regularizers.L2}[config.type](config.weight_decay)


def set_regularizers(model: keras.Model, config: RegConfig) -> int:
    """Gives every layer in scope the spec's regularizer, and takes it from all others.

    Keras reads penalties off the variables, so a built model need not be rebuilt.

    Returns:
        Number of layers regularized.

    Raises:
        SpecError: the scope names an unknown kind.
    """
    unknown = sorted(set(config.scope) - set(_SCOPES))
    if unknown:
        raise SpecError(f"train.reg_config.scope: expected some of {', '.join(_SCOPES)}. Received: {unknown[0]!r}.")
    kinds = tuple(kind for scope in config.scope for kind in _SCOPES[scope])
    count = 0
    for layer in model._flatten_layers():
        names = ["kernel_regularizer", "depthwise_regularizer", "pointwise_regularizer"]
        regularized = isinstance(layer, kinds)
        for name in [x for x in names if hasattr(layer, x)]:
            _set(layer, name, regularizer(config) if regularized else None)
        if hasattr(layer, "bias_regularizer"):
            _set(layer, "bias_regularizer", regularizer(config) if regularized and config.bias else None)
        count += regularized and regularizer(config) is not None
    return count


def _set(layer: Any, name: str, value: Any | None) -> None:
    part = name.removesuffix("_regularizer")
    # A DepthwiseConv2D calls its one kernel "kernel" and its regularizer "depthwise".
    variable = next(
        (v for n in (part, f"{part}_kernel", "kernel") if isinstance(v := getattr(layer, n, None), keras.Variable)), None
    )
    if variable is not None:
        setattr(layer, name, value)
        variable.regularizer = value
