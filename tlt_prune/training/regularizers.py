"""Weight decay, in the scope that a spec names, on new and on loaded models alike."""

from __future__ import annotations

from typing import Any

import keras

from tlt_prune.graph.family import all_layers
from tlt_prune.specs import RegConfig

_SCOPES: dict[str, tuple[type, ...]] = {
    "conv2d": (
        keras.layers.Conv1D,
        keras.layers.Conv2D,
        keras.layers.Conv3D,
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
        keras.layers.DepthwiseConv1D,
        keras.layers.DepthwiseConv2D,
        keras.layers.SeparableConv1D,
        keras.layers.SeparableConv2D,
    ),
    "dense": (keras.layers.Dense,),
}
# The variable that each regularizer argument is about, by the names that layers give it.
_VARIABLES = {
    "kernel_regularizer": ("kernel",),
    # A separable layer has two kernels; a depthwise one calls its only kernel "kernel".
    "depthwise_regularizer": ("depthwise_kernel", "kernel"),
    "pointwise_regularizer": ("pointwise_kernel",),
    "bias_regularizer": ("bias",),
}


def regularizer(config: RegConfig) -> Any | None:
    """The Keras regularizer of a spec, or None."""
    if config.type == "none" or config.weight_decay == 0:
        return None
    return {"L1": keras.regularizers.L1, "L2": keras.regularizers.L2}[config.type](config.weight_decay)


def set_regularizers(model: keras.Model, config: RegConfig) -> int:
    """Gives every convolution and dense layer in scope the spec's regularizer, and takes it from those out of scope.

    Keras reads penalties off the variables, so a built model need not be rebuilt.

    Returns:
        Number of layers regularized.
    """
    in_scope = tuple(kind for scope in config.scope for kind in _SCOPES[scope])
    count = 0
    for layer in all_layers(model):
        if not isinstance(layer, tuple(kind for kinds in _SCOPES.values() for kind in kinds)):
            continue
        penalty = regularizer(config) if isinstance(layer, in_scope) else None
        for argument, names in _VARIABLES.items():
            if hasattr(layer, argument):
                _set(layer, argument, names, penalty if argument != "bias_regularizer" or config.bias else None)
        count += penalty is not None
    return count


def _set(layer: Any, argument: str, names: tuple[str, ...], penalty: Any | None) -> None:
    setattr(layer, argument, penalty)
    variable = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    if variable is not None:
        variable.regularizer = penalty
