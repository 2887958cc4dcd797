"""Channels change their place, or others come between them."""

from __future__ import annotations

from typing import Any

from keras import ops

from gallery.cases import case, conv, head, image


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
