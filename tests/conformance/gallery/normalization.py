"""Normalization, activations and other parameters per channel."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from gallery.cases import case, conv, head, image


@case()
def batch_norm_variants(g: Any) -> Any:
    x = image(g)
    y = g.layers.BatchNormalization(center=False)(conv(g, x))
    y = conv(g, g.layers.BatchNormalization(scale=False)(y), 10)
    return head(g, x, conv(g, g.layers.BatchNormalization(axis=-1)(y), 8))


@case()
def channels_first_chain(g: Any) -> Any:
    x = g.Input((3, 11, 11))
    y = g.layers.Conv2D(12, 3, data_format="channels_first", use_bias=False)(x)
    y = g.layers.ReLU()(g.layers.BatchNormalization(axis=1)(y))
    y = g.layers.DepthwiseConv2D(3, data_format="channels_first", use_bias=False)(y)
    y = g.layers.Flatten(data_format="channels_first")(g.layers.AveragePooling2D(2, data_format="channels_first")(y))
    return g.Model(x, g.layers.Dense(3)(y))


@case()
def prelu(g: Any) -> Any:
    x = image(g, 5)
    y = g.layers.PReLU(shared_axes=[1, 2])(conv(g, x, activation=None))
    return head(g, x, conv(g, g.layers.PReLU()(conv(g, y, 10, activation=None)), 8))


@case()
def instance_norm(g: Any) -> Any:
    x = image(g)
    y = g.layers.GroupNormalization(groups=-1 if g is keras else 12)(conv(g, x))
    return head(g, x, conv(g, y, 8))


@case(approximate=True)
def layer_norm(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, g.layers.LayerNormalization()(conv(g, x)), 8))


@case(approximate=True, keras3=True)
def rms_norm(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, keras.layers.RMSNormalization()(conv(g, x)), 8))


@case(approximate=True)
def unit_norm(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, g.layers.UnitNormalization()(conv(g, x)), 8))


@case(approximate=True)
def group_norm(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, g.layers.GroupNormalization(groups=4)(conv(g, x, 16)), 8))


@case(approximate=True)
def softmax_in_the_middle(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, g.layers.Softmax()(conv(g, x, activation=None)), 8))


@case()
def layer_norm_over_space_only(g: Any) -> Any:
    x = image(g, 5)
    y = g.layers.LayerNormalization(axis=[1, 2])(conv(g, x))
    return head(g, x, conv(g, y, 8))


@case()
def normalization_and_rescaling(g: Any) -> Any:
    x = image(g)
    y = g.layers.Rescaling(1 / 127.5, offset=-1)(x)
    if g is keras:
        y = keras.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(y)
        y = keras.layers.Rescaling(list(np.linspace(0.5, 1.5, 12)))(conv(g, y))
    else:
        y = conv(g, y)
    return head(g, x, conv(g, y, 8))


@case()
def adapted_normalization(g: Any) -> Any:
    x = image(g)
    y = conv(g, g.layers.Normalization()(x))
    return head(g, x, conv(g, g.layers.Normalization()(y), 8))


@case()
def constant_normalization(g: Any) -> Any:
    x = image(g)
    mean, variance = np.linspace(-1, 1, 12), np.linspace(0.5, 2, 12)
    y = g.layers.Normalization(mean=list(mean), variance=list(variance))(conv(g, x))
    return head(g, x, conv(g, g.layers.Normalization(axis=None, mean=0.3, variance=2.0)(y), 8))


@case(keras3=True)
def rescaling_channels_first(g: Any) -> Any:
    x = g.Input((3, 11, 11))
    y = keras.layers.Conv2D(12, 3, data_format="channels_first", use_bias=False)(x)
    scale = np.linspace(0.5, 1.5, 12).reshape(12, 1, 1)
    y = keras.layers.Rescaling(scale, offset=scale.tolist())(y)
    y = keras.layers.Conv2D(8, 3, data_format="channels_first", use_bias=False)(y)
    return g.Model(x, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D(data_format="channels_first")(y)))


@case()
def dropout_with_a_noise_shape(g: Any) -> Any:
    x = image(g)
    y = g.layers.Dropout(0.5, noise_shape=(None, 1, 1, 12))(conv(g, x))
    if g is keras:
        y = keras.layers.AlphaDropout(0.5, noise_shape=(None, 1, 1, 12))(conv(g, y))
    return head(g, x, conv(g, y, 8))


@case(keras3=True)
def layers_as_activations(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, activation=keras.layers.LeakyReLU(0.3))
    return head(g, x, conv(g, keras.layers.Dense(10, activation=keras.layers.ReLU(6.0))(y), 8))


@case()
def activations(g: Any) -> Any:
    x = image(g)
    y = x
    for name in ("elu", "selu", "softplus", "swish", "hard_sigmoid", "tanh"):
        y = g.layers.Activation(name)(conv(g, y, 8, activation=None))
    return head(g, x, conv(g, g.layers.LeakyReLU()(g.layers.ReLU(6.0)(y)), 8))
