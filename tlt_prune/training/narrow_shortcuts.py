"""Strided 1 x 1 convolutions of few channels, such as the shortcuts of a pruned ResNet, trained on a CPU.

oneDNN's gradient of such a kernel writes past its workspace where the input has fewer channels than a vector register holds
floats, 16 (https://github.com/uxlfoundation/oneDNN/issues/6035, in TensorFlow 2.21): the process may die, without a message. A
kernel of one pixel sees every n-th pixel alone, so that taking these first and convolving them without strides is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import keras

from tlt_prune.graph import all_layers, inherits_trait

if TYPE_CHECKING:
    import tensorflow as tf

CHANNELS = 16


@contextlib.contextmanager
def subsampled_first(model: keras.Model) -> Iterator[list[str]]:
    """Computes strided 1 x 1 convolutions of fewer than 16 channels as convolutions without strides of every n-th pixel.

    The same numbers; the model is as it was afterwards. Yields the layers' names: none elsewhere than on TensorFlow.
    """
    layers = [x for x in all_layers(model) if keras.backend.backend() == "tensorflow" and _is_narrow(x)]
    for layer in layers:
        layer.convolution_op = _without_strides(layer)
    try:
        yield [x.name for x in layers]
    finally:
        for layer in layers:
            del layer.convolution_op


def _is_narrow(layer: keras.layers.Layer) -> bool:
    # What a subclass makes of the kernel is its own.
    if not inherits_trait(layer, "convolution") or type(layer).convolution_op is not keras.layers.Conv2D.convolution_op:
        return False
    return max(layer.kernel_size) == 1 < max(layer.strides) and bool(layer.built) and int(layer.kernel.shape[-2]) < CHANNELS


def _without_strides(layer: keras.layers.Layer) -> Callable[[tf.Tensor, tf.Tensor | keras.Variable], tf.Tensor]:
    steps = [slice(None, None, n) for n in layer.strides]
    every = (slice(None), *steps) if layer.data_format == "channels_last" else (slice(None), slice(None), *steps)

    def convolution_op(inputs: tf.Tensor, kernel: tf.Tensor | keras.Variable) -> tf.Tensor:
        return keras.ops.conv(inputs[every], kernel, strides=1, padding="valid", data_format=layer.data_format)

    return convolution_op
