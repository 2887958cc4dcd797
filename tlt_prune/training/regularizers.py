"""Weight decay, in the scope that a spec names, on new and on loaded models alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from tlt_prune.config import RegConfig
from tlt_prune.graph import Trait, all_layers, inherits_trait

if TYPE_CHECKING:
    import tensorflow as tf

_SCOPES: dict[str, tuple[Trait, ...]] = {
    "conv2d": ("convolution", "transposed convolution", "depthwise convolution", "separable convolution"),
    "dense": ("dense",),
}
# The variable that each regularizer argument is about, by the names that layers give it.
_VARIABLES = {
    "kernel_regularizer": ("kernel",),
    # A separable layer has two kernels; a depthwise one calls its only kernel "kernel".
    "depthwise_regularizer": ("depthwise_kernel", "kernel"),
    "pointwise_regularizer": ("pointwise_kernel",),
    "bias_regularizer": ("bias",),
}


@keras.saving.register_keras_serializable(package="tlt_prune")
class GroupLasso(keras.regularizers.Regularizer):
    """factor * sum over filters of sqrt(weights of a filter) * |w|_2: drives whole filters to zero.

    Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006, equation 2.1; on filters as in
    Wen et
    al., "Learning Structured Sparsity in Deep Neural Networks", 2016, arXiv:1608.03665, equation 2.

    Args:
        factor: of the sum.
        axes: of the kernel that count its filters.
    """

    def __init__(self, factor: float, axes: Sequence[int] = (-1,)) -> None:
        self.factor, self.axes = factor, tuple(axes)

    def __call__(self, x: keras.Variable) -> tf.Tensor:
        rank = len(x.shape)
        filters = {axis % rank for axis in self.axes}
        others = tuple(axis for axis in range(rank) if axis not in filters)
        size = math.prod(x.shape[axis] for axis in others)
        # Under the root, so that the gradient of a filter of zeros is zero and not NaN.
        norms = ops.sqrt(ops.sum(ops.square(x), axis=others) + _TINY)
        return self.factor * math.sqrt(size) * ops.sum(norms)

    def get_config(self) -> dict[str, Any]:
        return {"factor": self.factor, "axes": list(self.axes)}


_TINY = 1e-12


def regularizer(config: RegConfig, *, depthwise: bool = False) -> keras.regularizers.Regularizer | None:
    """The Keras regularizer of a spec, or None; that of a depthwise kernel, where a filter is one channel's, may differ."""
    if config.type == "none" or config.weight_decay == 0:
        return None
    if config.type == "group_lasso":
        return GroupLasso(config.weight_decay, (-2, -1) if depthwise else (-1,))
    return {"L1": keras.regularizers.L1, "L2": keras.regularizers.L2}[config.type](config.weight_decay)


def set_regularizers(model: keras.Model, config: RegConfig) -> int:
    """Gives every convolution and dense layer in scope the spec's regularizer, and every batch normalization that of its scale;
    takes it from those out of scope.

    Keras reads penalties off the variables, so a built model need not be rebuilt.

    Returns:
        Number of layers regularized.
    """
    in_scope = [kind for scope in config.scope for kind in _SCOPES[scope]]
    count = 0
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.gamma is not None:
            scale = keras.regularizers.L1(config.bn_scale_decay) if config.bn_scale_decay else None
            _set(layer, "gamma_regularizer", ("gamma",), scale)
            count += scale is not None
            continue
        if not inherits_trait(layer, *(kind for kinds in _SCOPES.values() for kind in kinds)):
            continue
        chosen = inherits_trait(layer, *in_scope)
        for argument, names in _VARIABLES.items():
            if hasattr(layer, argument):
                depthwise = argument == "depthwise_regularizer" or inherits_trait(layer, "depthwise convolution")
                given = chosen and (argument != "bias_regularizer" or config.bias)
                _set(layer, argument, names, regularizer(config, depthwise=depthwise) if given else None)
        count += chosen and regularizer(config) is not None
    return count


def _set(
    layer: keras.layers.Layer, argument: str, names: tuple[str, ...], penalty: keras.regularizers.Regularizer | None
) -> None:
    setattr(layer, argument, penalty)
    variable = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    if variable is not None:
        variable.regularizer = penalty
