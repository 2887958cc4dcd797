"""Layers with kernels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from gallery.cases import case, conv, head, image


@case()
def plain_conv(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, conv(g, x), 8, strides=2))


@case()
def conv_without_bias_dilated(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, conv(g, x, use_bias=False), 8, dilation_rate=2))


@case()
def grouped_conv(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, conv(g, conv(g, x, 12), 16, groups=4), 8))


@case()
def grouped_conv_one_channel_a_group(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, conv(g, conv(g, x, 12), 24, groups=12), 8))


@case()
def zeros_around_what_is_negative(g: Any) -> Any:
    """A zero is larger than all of a window; a pool's own padding never is."""
    x = image(g)
    y = g.layers.MaxPooling2D(3, 2)(g.layers.ZeroPadding2D(1)(g.layers.Conv2D(12, 3, padding="same", name="negative")(x)))
    z = g.layers.AveragePooling2D(3, 2)(g.layers.ZeroPadding2D(1)(conv(g, y)))
    return head(g, x, z)


@case()
def conv1d(g: Any) -> Any:
    x = g.Input((10, 4))
    y = g.layers.Conv1D(12, 3, activation="relu", padding="causal")(x)
    return head(g, x, g.layers.Conv1D(8, 3, strides=2)(g.layers.MaxPooling1D()(y)))


@case()
def conv3d(g: Any) -> Any:
    x = g.Input((6, 6, 6, 2))
    y = g.layers.MaxPooling3D()(g.layers.Conv3D(12, 3, activation="relu", padding="same")(x))
    return head(g, x, g.layers.Conv3D(8, 2)(y))


@case()
def conv1d_transpose(g: Any) -> Any:
    x = g.Input((8, 4))
    y = g.layers.Conv1DTranspose(12, 3, strides=2, activation="relu")(x)
    return head(g, x, g.layers.Conv1DTranspose(6, 3)(y))


@case()
def conv2d_transpose_unet(g: Any) -> Any:
    x = image(g, 8)
    a = conv(g, x)
    b = conv(g, g.layers.MaxPooling2D()(a), 16)
    up = g.layers.Conv2DTranspose(10, 2, strides=2, activation="relu")(b)
    return head(g, x, conv(g, g.layers.Concatenate()([a, up]), 8))


@case()
def conv3d_transpose(g: Any) -> Any:
    x = g.Input((4, 4, 4, 2))
    y = g.layers.Conv3DTranspose(8, 2, strides=2, activation="relu")(x)
    return head(g, x, g.layers.Conv3D(6, 2)(y))


@case()
def depthwise_chain(g: Any) -> Any:
    x = image(g)
    y = g.layers.DepthwiseConv2D(3, activation="relu")(conv(g, x))
    return head(g, x, conv(g, g.layers.DepthwiseConv2D(3, use_bias=False)(y), 8))


@case()
def depthwise_multiplier(g: Any) -> Any:
    x = image(g)
    y = g.layers.DepthwiseConv2D(3, depth_multiplier=3, activation="relu")(conv(g, x, 8))
    return head(g, x, conv(g, y, 8))


@case(frozen="model input")
def depthwise_on_input(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, conv(g, g.layers.DepthwiseConv2D(3)(x))))


@case()
def depthwise_1d(g: Any) -> Any:
    x = g.Input((10, 4))
    y = g.layers.Conv1D(12, 3, activation="relu")(x)
    return head(g, x, g.layers.DepthwiseConv1D(3, depth_multiplier=2)(y))


@case()
def one_conv_feeds_two_depthwise(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    parts = [g.layers.DepthwiseConv2D(k, padding="same")(y) for k in (3, 5)]
    return head(g, x, conv(g, g.layers.Concatenate()(parts), 8))


@case()
def separable(g: Any) -> Any:
    x = image(g)
    y = g.layers.SeparableConv2D(16, 3, depth_multiplier=2, activation="relu")(conv(g, x))
    return head(g, x, g.layers.SeparableConv2D(8, 3)(y))


@case()
def separable_1d(g: Any) -> Any:
    x = g.Input((10, 4))
    y = g.layers.SeparableConv1D(12, 3, activation="relu")(x)
    return head(g, x, g.layers.SeparableConv1D(8, 3)(y))


@case()
def dense_on_images(g: Any) -> Any:
    x = image(g, 5)
    y = g.layers.Dense(12, activation="relu")(conv(g, x))
    return head(g, x, g.layers.Dense(8, activation="relu")(y))


@case()
def dense_chain(g: Any) -> Any:
    x = g.Input((7,))
    y = g.layers.Dense(16, activation="gelu")(x)
    return g.Model(x, g.layers.Dense(2)(g.layers.Dense(10, activation="tanh")(g.layers.BatchNormalization()(y))))


@case(keras3=True)
def einsum_dense(g: Any) -> Any:
    x = g.Input((6, 8))
    y = keras.layers.EinsumDense("abc,cd->abd", output_shape=(None, 12), bias_axes="d", activation="relu")(x)
    y = keras.layers.EinsumDense("...c,cd->...d", output_shape=10, bias_axes="d")(y)
    return head(g, x, y)


@case(keras3=True)
def einsum_dense_heads(g: Any) -> Any:
    x = g.Input((6, 8))
    y = keras.layers.Dense(12, activation="relu")(x)
    y = keras.layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 10), bias_axes="de")(y)
    y = keras.layers.EinsumDense("abde,def->abf", output_shape=(None, 7), bias_axes="f")(y)
    return head(g, x, y)


@case(keras3=True)
def einsum_dense_ellipsis_behind(g: Any) -> Any:
    x = g.Input((4, 5))
    y = keras.layers.EinsumDense("ab...,bc->ac...", output_shape=(8,), bias_axes="c", activation="relu")(x)
    y = keras.layers.EinsumDense("ab...,bc->ac...", output_shape=6)(y)
    return g.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(y)))


@case(keras3=True)
def einsum_dense_sums_an_axis_out(g: Any) -> Any:
    x = g.Input((4, 5))
    y = keras.layers.EinsumDense("abc,cd->ad", output_shape=12, bias_axes="d")(keras.layers.Dense(10)(x))
    return g.Model(x, keras.layers.Dense(3)(y))


@case(keras3=True)
def embedding_from_a_matrix(g: Any) -> Any:
    """An initializer that holds an array must be cut too, or the saved model cannot be loaded."""
    x = g.Input((6,), dtype="int32")
    table = np.random.default_rng(0).standard_normal((20, 16)).astype("float32")
    y = keras.layers.Embedding(20, 16, embeddings_initializer=keras.initializers.Constant(table))(x)
    bias = keras.initializers.Constant(np.linspace(-1, 1, 8).astype("float32"))
    return head(g, x, keras.layers.Conv1D(8, 3, bias_initializer=bias)(y))


@case()
def embedding(g: Any) -> Any:
    x = g.Input((6,), dtype="int32")
    y = g.layers.Embedding(20, 16)(x)
    return head(g, x, g.layers.Conv1D(8, 3)(y))
