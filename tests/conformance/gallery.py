"""Small named graphs, one kind of difficulty each. `g` builds layers of either Keras; `ops` are raw operations.

Every function returns a model whose outputs depend on its channels; `EXACT` lists those that obey the law,
`APPROXIMATE` those whose statistics change, `KERAS3` those that need something tf_keras does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

Build = Callable[[Any], Any]
EXACT: dict[str, Build] = {}
APPROXIMATE: dict[str, Build] = {}
KERAS3: set[str] = set()
FROZEN: dict[str, str] = {}
# Counts what is not differentiable, and an operation for which TensorFlow has no gradient.
WITHOUT_GRADIENTS = ("counts_and_norms", "augmentation")


def case(*, approximate: bool = False, keras3: bool = False, frozen: str = "") -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        (APPROXIMATE if approximate else EXACT)[build.__name__] = build
        if keras3:
            KERAS3.add(build.__name__)
        if frozen:
            FROZEN[build.__name__] = frozen
        return build

    return add


def image(g: Any, size: int = 9, channels: int = 3) -> Any:
    return g.Input((size, size, channels))


def conv(g: Any, x: Any, filters: int = 12, kernel: int = 3, **kwargs: Any) -> Any:
    return g.layers.Conv2D(filters, kernel, **{"padding": "same", "activation": "relu", **kwargs})(x)


def head(g: Any, inputs: Any, x: Any, units: int = 3) -> Any:
    """Global pooling where there is something to pool, and a dense layer."""
    pool = {3: "GlobalAveragePooling1D", 4: "GlobalAveragePooling2D", 5: "GlobalAveragePooling3D"}.get(len(x.shape))
    if pool:
        x = getattr(g.layers, pool)()(x)
    return g.Model(inputs, g.layers.Dense(units)(x))


# --- weighted layers ---


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


# --- normalization and parameters a channel ---


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


# --- merging ---


@case()
def residual(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    for _ in range(3):
        y = g.layers.Add()([y, g.layers.BatchNormalization()(conv(g, y))])
    return head(g, x, y)


@case()
def all_merges(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    for name in ("Subtract", "Multiply", "Average", "Maximum", "Minimum"):
        y = getattr(g.layers, name)()([y, conv(g, y)])
    return head(g, x, y)


@case()
def add_of_three_and_the_same_twice(g: Any) -> Any:
    x = image(g)
    y, z = conv(g, x), conv(g, x)
    return head(g, x, conv(g, g.layers.Add()([y, z, y]), 8))


@case()
def squeeze_excite(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    s = g.layers.Reshape((1, 1, 12))(g.layers.GlobalAveragePooling2D()(y))
    s = conv(g, conv(g, s, 4, 1), 12, 1, activation="sigmoid")
    return head(g, x, conv(g, g.layers.Multiply()([y, s]), 8))


@case()
def squeeze_excite_dense(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    s = g.layers.Dense(12, activation="sigmoid")(g.layers.Dense(6, activation="relu")(g.layers.GlobalMaxPooling2D()(y)))
    return head(g, x, conv(g, g.layers.Multiply()([y, g.layers.Reshape((1, 1, -1))(s)]), 8))


@case()
def spatial_attention(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    return head(g, x, conv(g, g.layers.Multiply()([y, conv(g, y, 1, activation="sigmoid")]), 8))


@case(frozen="model input")
def added_to_the_input(g: Any) -> Any:
    x = image(g, channels=4)
    y = g.layers.Add()([x, conv(g, conv(g, x, 8), 4)])
    return head(g, x, conv(g, y, 8))


@case()
def concat_of_concats(g: Any) -> Any:
    x = image(g)
    a, b, c = conv(g, x, 8), conv(g, x, 12), conv(g, x, 6)
    y = g.layers.Concatenate()([g.layers.Concatenate()([a, b]), g.layers.BatchNormalization()(c), a])
    return head(g, x, conv(g, g.layers.DepthwiseConv2D(3)(y), 8))


@case()
def concat_with_the_input(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, g.layers.Concatenate()([x, conv(g, x), conv(g, x, 6)]), 8))


@case()
def add_of_two_concats(g: Any) -> Any:
    x = image(g)
    left = g.layers.Concatenate()([conv(g, x, 8), conv(g, x, 12)])
    right = g.layers.Concatenate()([conv(g, x, 14), conv(g, x, 6)])
    return head(g, x, conv(g, g.layers.Add()([left, right]), 8))


@case()
def concat_along_height(g: Any) -> Any:
    x = image(g)
    y = g.layers.Concatenate(axis=1)([conv(g, x), conv(g, x)])
    return head(g, x, conv(g, y, 8))


@case()
def dense_block(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 8)
    for _ in range(3):
        z = conv(g, g.layers.ReLU()(g.layers.BatchNormalization()(y)), 6)
        y = g.layers.Concatenate()([y, z])
    return head(g, x, y)


@case(frozen="channels of both operands would span two axes of a product")
def dot_of_activations(g: Any) -> Any:
    x = g.Input((5, 4))
    a, b = g.layers.Dense(8, activation="relu")(x), g.layers.Dense(10, activation="relu")(x)
    # (5, 8) . (5, 10) over time -> (8, 10): then over the features.
    y = g.layers.Dot(axes=1)([a, g.layers.Dense(6)(b)])
    return g.Model(x, g.layers.Dense(3)(g.layers.Flatten()(y)))


# --- moving ---


@case()
def flatten_then_dense(g: Any) -> Any:
    x = image(g, 6)
    y = g.layers.Flatten()(g.layers.MaxPooling2D()(conv(g, x)))
    return g.Model(x, g.layers.Dense(3)(g.layers.Dense(10, activation="relu")(y)))


@case()
def reshape_there_and_back(g: Any) -> Any:
    x = image(g, 6)
    y = g.layers.Reshape((36, 12))(conv(g, x))
    y = g.layers.Conv1D(8, 3, padding="same", activation="relu")(y)
    return head(g, x, conv(g, g.layers.Reshape((6, 6, -1))(y), 8))


@case()
def dense_to_image(g: Any) -> Any:
    x = g.Input((5,))
    y = g.layers.Reshape((4, 4, 6))(g.layers.Dense(96, activation="relu")(x))
    return head(g, x, conv(g, g.layers.UpSampling2D()(y), 8))


@case()
def permute(g: Any) -> Any:
    x = image(g, 6)
    y = g.layers.Permute((3, 1, 2))(conv(g, x))
    return g.Model(x, g.layers.Dense(3)(g.layers.Flatten()(y)))


@case()
def channel_shuffle(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 12)
    y = g.layers.Reshape((9, 9, 3, 4))(y)
    y = g.layers.Reshape((9, 9, 12))(g.layers.Permute((1, 2, 4, 3))(y))
    return head(g, x, conv(g, conv(g, y, 12, groups=3), 8))


@case()
def spatial_layers(g: Any) -> Any:
    x = image(g, 10)
    y = g.layers.ZeroPadding2D(1)(conv(g, x))
    y = g.layers.Cropping2D(2)(g.layers.AveragePooling2D(2)(y))
    y = g.layers.UpSampling2D(2, interpolation="bilinear")(g.layers.SpatialDropout2D(0.2)(y))
    return head(g, x, conv(g, g.layers.Resizing(5, 5)(g.layers.Dropout(0.1)(y)), 8))


@case()
def repeat_vector(g: Any) -> Any:
    x = g.Input((5,))
    y = g.layers.RepeatVector(4)(g.layers.Dense(12, activation="relu")(x))
    return head(g, x, g.layers.Conv1D(6, 2)(y))


@case(keras3=True)
def split_and_merge(g: Any) -> Any:
    x = image(g)
    a, b, c = ops.split(conv(g, x, 12), 3, axis=-1)
    return head(g, x, conv(g, g.layers.Concatenate()([c, a * b]), 8))


@case(keras3=True)
def slices(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 12)
    return head(
        g, x, conv(g, ops.concatenate([y[..., 2:7], y[:, ::2, ::2][:, :1, :1, 7:] + y[..., 7:12], y[..., :1]], axis=-1), 8)
    )


@case(keras3=True)
def slices_of_one_channel(g: Any) -> Any:
    """Found by random graphs: a slice of one channel, when that channel is among the weakest."""
    x = image(g)
    y = conv(g, x, 6)
    return head(g, x, g.layers.Concatenate()([conv(g, y[..., i : i + 1], 4) for i in range(6)]))


@case(keras3=True)
def gather_roll_flip(g: Any) -> Any:
    x = image(g)
    y = ops.roll(ops.flip(conv(g, x, 12), axis=-1), 5, axis=-1)
    y = ops.take(y, [11, 0, 3, 3, 7, 8], axis=-1)
    return head(g, x, conv(g, y, 8))


@case(keras3=True)
def stack_and_transpose(g: Any) -> Any:
    x = image(g, 5)
    y = ops.stack([conv(g, x, 8), conv(g, x, 8)], axis=-1)
    y = ops.reshape(ops.transpose(y, (0, 1, 2, 4, 3)), (-1, 5, 5, 16))
    return head(g, x, conv(g, y, 8))


@case(keras3=True)
def depth_to_space(g: Any) -> Any:
    x = image(g, 6)
    y = conv(g, x, 16)
    y = ops.reshape(y, (-1, 6, 6, 2, 2, 4))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, 12, 12, 4))
    return head(g, x, conv(g, y, 8))


@case(keras3=True)
def depth_to_space_and_back(g: Any) -> Any:
    x = image(g, 6)
    y = ops.depth_to_space(conv(g, x, 16), 2)
    y = ops.space_to_depth(conv(g, y, 4), 2)
    return head(g, x, conv(g, y, 8))


@case(keras3=True)
def pad_tile_repeat(g: Any) -> Any:
    x = image(g, 5)
    y = ops.pad(conv(g, x, 6), ((0, 0), (1, 1), (1, 1), (0, 2)))
    y = ops.repeat(ops.tile(y, (1, 1, 1, 2)), 2, axis=-1)
    return head(g, x, conv(g, y, 8))


@case()
def one_to_three_dimensions(g: Any) -> Any:
    x = g.Input((12, 3))
    y = g.layers.Conv1D(8, 3, padding="same", activation="relu")(x)
    y = g.layers.Conv2D(6, 2, activation="relu")(g.layers.Reshape((3, 4, 8))(y))
    y = g.layers.Conv3D(6, 1)(g.layers.Reshape((1, 2, 3, 6))(y))
    return head(g, x, y)


@case()
def augmentation(g: Any) -> Any:
    x = image(g)
    y = g.layers.RandomFlip("horizontal")(g.layers.RandomRotation(0.1)(x))
    y = g.layers.RandomContrast(0.1)(g.layers.RandomZoom(0.1)(conv(g, y)))
    return head(g, x, conv(g, y, 8))


@case()
def vision_transformer_block(g: Any) -> Any:
    x = image(g, 8)
    y = g.layers.Reshape((16, 10))(conv(g, x, 10, 2, strides=2))
    z = g.layers.BatchNormalization()(y)
    y = g.layers.Add()([y, g.layers.MultiHeadAttention(4, 3)(z, z)])
    z = g.layers.Dense(10)(g.layers.Dense(14, activation="gelu")(g.layers.BatchNormalization()(y)))
    return g.Model(x, g.layers.Dense(3)(g.layers.Flatten()(g.layers.Add()([y, z]))))


# --- raw operations ---


@case()
def operators(g: Any) -> Any:
    x = image(g)
    y, z = conv(g, x), conv(g, x)
    return head(g, x, conv(g, (y + z * 2.0 - 1.0) / 3.0 - y, 8))


@case()
def constants_a_channel(g: Any) -> Any:
    x = image(g)
    scale = np.linspace(0.5, 1.5, 12).astype("float32")
    return head(g, x, conv(g, conv(g, x) * scale + scale.reshape(1, 1, 1, 12), 8))


@case()
def constants_in_a_list(g: Any) -> Any:
    x = g.Input((7,))
    scale = [0.5, 1.0, 1.5, 2.0]
    y = g.layers.Dense(4, activation="relu")(x) * (np.array(scale, "float32") if g is keras else scale)
    return g.Model(x, g.layers.Dense(3)(y))


@case(keras3=True)
def counts_and_norms(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    counted = ops.cast(ops.count_nonzero(y, axis=(1, 2)), "float32")
    return g.Model(x, keras.layers.Dense(3)(counted + ops.norm(conv(g, x), axis=(1, 2))))


@case(keras3=True)
def raw_activations_and_reductions(g: Any) -> Any:
    x = image(g)
    y = ops.relu(conv(g, x, activation=None))
    y = y * ops.sigmoid(ops.mean(y, axis=(1, 2), keepdims=True))
    y = ops.where(y > 0.1, y, ops.square(y) * 0.5)
    return head(g, x, conv(g, ops.clip(ops.maximum(y, 0.01), 0.0, 6.0), 8))


@case(keras3=True)
def hard_swish_by_hand(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, activation=None)
    return head(g, x, conv(g, y * ops.relu6(y + 3.0) / 6.0, 8))


@case(keras3=True, frozen="contracted with other activations")
def raw_attention(g: Any) -> Any:
    x = g.Input((6, 5))
    q, k, v = (keras.layers.Dense(8)(x) for _ in range(3))
    weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))))
    return head(g, x, keras.layers.Dense(6)(ops.matmul(weights, v)))


@case(keras3=True, frozen="reduced over the channels")
def channel_attention_over_mean(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    gate = conv(g, ops.mean(y, axis=-1, keepdims=True), 1, activation="sigmoid")
    return head(g, x, conv(g, conv(g, y * gate, 10), 8))


# --- attention and memory ---


@case(keras3=True)
def multi_head_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    y = keras.layers.Dense(16, activation="relu")(x)
    y = keras.layers.MultiHeadAttention(4, 5, value_dim=3)(y, y)
    return head(g, x, keras.layers.Dense(8)(y))


@case(keras3=True)
def cross_attention_residual(g: Any) -> Any:
    x, z = g.Input((6, 10)), g.Input((4, 7))
    y = keras.layers.Dense(16, activation="relu")(x)
    y = y + keras.layers.MultiHeadAttention(2, 4, use_bias=False)(y, keras.layers.Dense(9)(z))
    return head(g, [x, z], keras.layers.Dense(8)(y))


@case(keras3=True)
def single_head_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    y = keras.layers.MultiHeadAttention(1, 4, value_dim=8)(x, x)
    return head(g, x, keras.layers.Dense(8)(y))


@case(keras3=True)
def grouped_query_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    y = keras.layers.Dense(16)(x)
    y = y + keras.layers.GroupQueryAttention(4, 8, 4)(y, y)
    return head(g, x, keras.layers.Dense(8)(y))


@case(frozen="contracted with other activations")
def attention_layer(g: Any) -> Any:
    x = g.Input((6, 10))
    y = g.layers.Attention()([g.layers.Dense(8)(x), g.layers.Dense(12)(x), g.layers.Dense(8)(x)])
    return head(g, x, g.layers.Dense(6)(y))


@case(frozen="contracted with other activations")
def attention_layer_with_masks(g: Any) -> Any:
    x, a, b = g.Input((6, 10)), g.Input((6,), dtype="bool"), g.Input((6,), dtype="bool")
    y = g.layers.Attention()([g.layers.Dense(12)(x), g.layers.Dense(12)(x)], mask=[a, b])
    y = g.layers.Dense(12)(y)
    # The values alone pass: their width is pruned where the keys are others.
    y = g.layers.Attention()([g.layers.Dense(8)(y), y, g.layers.Dense(8)(y)], mask=[a, b])
    return head(g, [x, a, b], g.layers.Dense(6)(y))


@case(keras3=True)
def multi_head_attention_with_a_mask(g: Any) -> Any:
    x, mask = g.Input((6, 10)), g.Input((6, 6), dtype="bool")
    y = keras.layers.Dense(16)(x)
    y = keras.layers.MultiHeadAttention(4, 5)(y, y, attention_mask=mask)
    return head(g, [x, mask], keras.layers.Dense(8)(y))


@case()
def simple_rnn(g: Any) -> Any:
    x = g.Input((5, 6))
    y = g.layers.SimpleRNN(12, return_sequences=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.SimpleRNN(8)(y)))


@case()
def gru(g: Any) -> Any:
    x = g.Input((5, 6))
    y = g.layers.GRU(12, return_sequences=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.GRU(8, reset_after=False)(y)))


@case()
def lstm_with_states(g: Any) -> Any:
    x = g.Input((5, 6))
    y, h, c = g.layers.LSTM(12, return_sequences=True, return_state=True)(g.layers.Dense(10)(x))
    z = g.layers.LSTM(12)(y, initial_state=[h, c])
    return g.Model(x, g.layers.Dense(3)(z))


@case()
def bidirectional(g: Any) -> Any:
    x = g.Input((5, 6))
    y = g.layers.Bidirectional(g.layers.LSTM(10, return_sequences=True))(x)
    y = g.layers.Bidirectional(g.layers.GRU(8, return_sequences=True), merge_mode="sum")(y)
    return head(g, x, g.layers.Dense(6)(y))


@case()
def conv_lstm(g: Any) -> Any:
    x = g.Input((3, 6, 6, 2))
    y = g.layers.ConvLSTM2D(8, 3, return_sequences=True)(x)
    return head(g, x, g.layers.ConvLSTM2D(6, 3)(y))


@case()
def time_distributed(g: Any) -> Any:
    x = g.Input((3, 6, 6, 2))
    y = g.layers.TimeDistributed(g.layers.Conv2D(8, 3, activation="relu"))(x)
    y = g.layers.TimeDistributed(g.layers.BatchNormalization())(y)
    y = g.layers.TimeDistributed(g.layers.Flatten())(y)
    return head(g, x, g.layers.TimeDistributed(g.layers.Dense(10))(y))


@case()
def time_distributed_recurrent(g: Any) -> Any:
    x = g.Input((3, 5, 6))
    y = g.layers.TimeDistributed(g.layers.LSTM(8, return_sequences=True))(x)
    y = g.layers.TimeDistributed(g.layers.Bidirectional(g.layers.GRU(6)))(y)
    return head(g, x, g.layers.Dense(10)(y))


@case(keras3=True)
def time_distributed_augmentation(g: Any) -> Any:
    x = g.Input((3, 6, 6, 3))
    y = keras.layers.TimeDistributed(keras.layers.RandomGrayscale())(x)
    y = keras.layers.TimeDistributed(keras.layers.Conv2D(8, 3, activation="relu"))(y)
    return g.Model(x, keras.layers.Dense(3)(keras.layers.Dense(10)(keras.layers.TimeDistributed(keras.layers.Flatten())(y))))


@case()
def stateful_recurrent(g: Any) -> Any:
    x = g.Input(batch_shape=(2, 5, 6)) if g is keras else g.Input((5, 6), batch_size=2)
    y = g.layers.LSTM(12, return_sequences=True, stateful=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.GRU(8, stateful=True)(y)))


@case()
def masked_recurrent_as_long_as_wide(g: Any) -> Any:
    """A mask (batch, time) has the shape of a state (batch, units) where there are as many steps as units."""
    x = g.Input((8, 6))
    mask = g.Input((8,), dtype="bool")
    y = g.layers.GRU(8, return_sequences=True)(x, mask=mask)
    return g.Model([x, mask], g.layers.Dense(3)(g.layers.LSTM(8)(y, mask=mask)))


# --- structure ---


@case()
def time_distributed_model(g: Any) -> Any:
    inner = g.Input((6, 6, 3))
    cnn = g.Model(inner, g.layers.GlobalAveragePooling2D()(conv(g, conv(g, inner, 8), 10)))
    x = g.Input((5, 6, 6, 3))
    y = g.layers.TimeDistributed(cnn)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.GRU(6)(y)))


@case()
def time_distributed_sequential_on_pruned_channels(g: Any) -> Any:
    x = g.Input((4, 6, 6, 3))
    y = g.layers.TimeDistributed(g.layers.Conv2D(8, 3, activation="relu"))(x)
    cnn = g.Sequential([g.layers.Conv2D(6, 3, activation="relu"), g.layers.Flatten(), g.layers.Dense(10)])
    return head(g, x, g.layers.TimeDistributed(cnn)(y))


@case()
def sequential(g: Any) -> Any:
    return g.Sequential(
        [g.Input((9, 9, 3)), g.layers.Conv2D(12, 3, activation="relu"), g.layers.Flatten(), g.layers.Dense(8), g.layers.Dense(3)]
    )


@case()
def nested_model(g: Any) -> Any:
    a = g.Input((9, 9, 12))
    inner = g.Model(a, g.layers.Add()([a, conv(g, conv(g, a, 8), 12)]), name="inner")
    x = image(g)
    return head(g, x, conv(g, inner(conv(g, x, 12)), 8))


@case()
def nested_sequential_in_nested(g: Any) -> Any:
    block = g.Sequential(
        [g.Input((9, 9, 10)), g.layers.Conv2D(8, 3, activation="relu"), g.layers.BatchNormalization()], name="block"
    )
    a = g.Input((9, 9, 6))
    inner = g.Model(a, conv(g, block(conv(g, a, 10)), 10), name="inner")
    x = image(g)
    return head(g, x, inner(conv(g, x, 6)))


@case()
def siamese(g: Any) -> Any:
    a = g.Input((9, 9, 3))
    tower = g.Model(a, g.layers.GlobalAveragePooling2D()(conv(g, conv(g, a), 10)), name="tower")
    x, z = image(g), image(g)
    return g.Model([x, z], g.layers.Dense(3)(g.layers.Subtract()([tower(x), tower(z)])))


@case()
def nested_called_twice_with_other_channels(g: Any) -> Any:
    a = g.Input((9, 9, 8))
    inner = g.Model(a, conv(g, a, 10), name="inner")
    x = image(g)
    y, z = inner(conv(g, x, 8)), inner(conv(g, x, 8))
    return head(g, x, conv(g, g.layers.Concatenate()([y, z]), 6))


@case()
def shared_layer(g: Any) -> Any:
    x = image(g)
    shared = g.layers.Conv2D(10, 3, activation="relu")
    return head(g, x, conv(g, g.layers.Concatenate()([shared(conv(g, x)), shared(conv(g, x))]), 8))


@case()
def shared_reshape(g: Any) -> Any:
    x = image(g, 6)
    shared = g.layers.Reshape((36, 12))
    return head(g, x, g.layers.Conv1D(6, 1)(g.layers.Concatenate()([shared(conv(g, x)), shared(conv(g, x))])))


@case()
def applied_to_itself(g: Any) -> Any:
    x = image(g)
    layer = g.layers.Conv2D(12, 3, padding="same", activation="relu")
    return head(g, x, layer(layer(conv(g, x, 12))))


@case()
def several_outputs(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 12)
    z = conv(g, y, 10)
    return g.Model(x, [g.layers.Conv2D(2, 1)(y), g.layers.Conv2D(4, 1)(z), g.layers.Dense(3)(g.layers.Flatten()(z))])


@case(frozen="model output")
def output_that_goes_on(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 12)
    return g.Model(x, [y, g.layers.Conv2D(4, 1)(conv(g, y, 10))])


@case(keras3=True)
def dict_inputs_and_outputs(g: Any) -> Any:
    x, z = g.Input((9, 9, 3), name="left"), g.Input((9, 9, 2), name="right")
    y = g.layers.Concatenate()([conv(g, x, 10), conv(g, z, 8)])
    outputs = {"mask": conv(g, y, 1), "score": g.layers.Dense(3)(g.layers.GlobalMaxPooling2D()(conv(g, y, 6)))}
    return g.Model({"left": x, "right": z}, outputs)


@case()
def open_spatial_sizes(g: Any) -> Any:
    x = g.Input((None, None, 3))
    y = g.layers.Concatenate()([conv(g, x), conv(g, x, 6)])
    return head(g, x, conv(g, g.layers.MaxPooling2D()(y), 8))


@case()
def open_sizes_flattened_over_space(g: Any) -> Any:
    x = g.Input((None, None, 3))
    y = g.layers.Reshape((-1, 12))(conv(g, x))
    return head(g, x, g.layers.Conv1D(6, 1)(y))


@case()
def channels_first_as_wide_as_deep(g: Any) -> Any:
    """Keras 3.15 adds the bias of such a map on the wrong axis when it runs eagerly."""
    x = g.Input((3, 12, 12))
    y = x
    for _ in range(2):
        y = g.layers.Conv2D(12, 3, padding="same", data_format="channels_first", activation="relu")(y)
    return g.Model(x, g.layers.Dense(3)(g.layers.Flatten(data_format="channels_first")(y)))


@case()
def open_sizes_around_a_fixed_model(g: Any) -> Any:
    a = g.Input((12, 12, 3))
    inner = g.Model(a, g.layers.GlobalMaxPooling2D()(conv(g, a, 8, strides=3)), name="inner")
    x = g.Input((None, None, 3))
    return g.Model(x, g.layers.Dense(3)(g.layers.Dense(10)(inner(x))))


@case()
def fixed_batch(g: Any) -> Any:
    x = g.Input(batch_shape=(2, 6, 6, 3)) if g is keras else g.Input((6, 6, 3), batch_size=2)
    y = g.layers.Flatten()(conv(g, x))
    return g.Model(x, g.layers.Dense(3)(y))


@case()
def call_keywords(g: Any) -> Any:
    x = image(g)
    y = g.layers.BatchNormalization()(conv(g, x), training=False)
    return head(g, x, conv(g, g.layers.Dropout(0.5)(y, training=False), 8))


@case()
def masked_sequence(g: Any) -> Any:
    x = g.Input((6,), dtype="int32")
    y = g.layers.Embedding(20, 12, mask_zero=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.LSTM(8)(y)))


@case(keras3=True)
def mixed_precision(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, dtype="mixed_bfloat16")
    y = keras.layers.Activation("linear", dtype="float32")(conv(g, y, 8, dtype="mixed_bfloat16"))
    return head(g, x, y)


@case()
def channels_that_all_could_go(g: Any) -> Any:
    # Ranked with the others, the first four of these twelve are the weakest; a slice of them must not run empty.
    x = image(g)
    y = g.layers.Conv2D(12, 3, name="weak")(x)
    return head(g, x, g.layers.Concatenate()([conv(g, y[..., :4], 6), conv(g, y, 6)]))
