"""Random functional models from everything that is supported: nesting, sharing, concatenation, splitting, reshaping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from composite import STEPS, Composite
from hypothesis import strategies as st
from keras import layers, ops

Draw = Callable[[Any], Any]
WIDTHS = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16])


# Keras can load a Lambda only if it knows the function by its name.
known = keras.saving.register_keras_serializable(package="random_graphs")


@known
def doubled(y: Any) -> Any:
    return ops.relu(y) * 2.0


@known
def both_signs(y: Any) -> Any:
    return ops.concatenate([y, -y], axis=-1)


@known
def gated(y: Any) -> Any:
    return y * ops.sigmoid(y)


class Builder:
    """Grows a pool of image tensors of one spatial size, (height, width) = (6, 6)."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.shared: list[Any] = []

    def pick(self, pool: list[Any]) -> Any:
        return self.draw(st.sampled_from(pool))

    def width(self) -> int:
        return int(self.draw(WIDTHS))

    def one_of(self, choices: dict[str, Callable[[], Any]]) -> Any:
        return choices[self.draw(st.sampled_from(sorted(choices)))]()

    def conv(self, x: Any, width: int | None = None) -> Any:
        kernel = self.draw(st.sampled_from([1, 3]))
        activation = self.draw(st.sampled_from(["relu", "linear", "tanh"]))
        layer = layers.Conv2D(width or self.width(), kernel, padding="same", activation=activation)
        self.shared.append((layer, x.shape[-1]))
        return layer(x)

    def again(self, x: Any) -> Any:
        fitting = [layer for layer, width in self.shared if width == x.shape[-1]]
        return self.pick(fitting)(x) if fitting else self.conv(x)

    def grouped(self, x: Any) -> Any:
        groups = [n for n in (2, 3, 4) if x.shape[-1] % n == 0]
        if not groups:
            return self.conv(x)
        n = self.draw(st.sampled_from(groups))
        return layers.Conv2D(n * self.draw(st.sampled_from([1, 2, 3])), 3, padding="same", groups=n)(x)

    def depthwise(self, x: Any) -> Any:
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=self.draw(st.sampled_from([1, 1, 2])))(x)

    def separable(self, x: Any) -> Any:
        return layers.SeparableConv2D(self.width(), 3, padding="same")(x)

    def transposed(self, x: Any) -> Any:
        return layers.Conv2DTranspose(self.width(), 3, padding="same")(x)

    def dense(self, x: Any) -> Any:
        return layers.Dense(self.width(), activation="relu")(x)

    def norm(self, x: Any) -> Any:
        choices: dict[str, Callable[[], Any]] = {
            "batch": lambda: layers.BatchNormalization(scale=self.draw(st.booleans())),
            "instance": lambda: layers.GroupNormalization(-1),
            "space": lambda: layers.LayerNormalization(axis=(1, 2)),
            "layer": layers.LayerNormalization,
            "rms": layers.RMSNormalization,
            "group": lambda: layers.GroupNormalization(
                self.draw(st.sampled_from([n for n in (1, 2, 3) if x.shape[-1] % n == 0]))
            ),
        }
        return self.one_of(choices)(x)

    def spatial(self, x: Any) -> Any:
        """Layers that change the spatial size, and back."""
        choices: dict[str, Callable[[], Any]] = {
            "strided": lambda: layers.UpSampling2D()(layers.Conv2D(self.width(), 3, strides=2, padding="same")(x)),
            "dilated": lambda: layers.Conv2D(self.width(), 3, dilation_rate=2, padding="same")(x),
            "max": lambda: layers.MaxPooling2D(2, strides=1, padding="same")(x),
            "average": lambda: layers.UpSampling2D(interpolation="bilinear")(layers.AveragePooling2D(2)(x)),
            "crop": lambda: layers.ZeroPadding2D(1)(layers.Cropping2D(1)(x)),
            "resize": lambda: layers.Resizing(6, 6)(layers.Resizing(4, 4)(x)),
            "repeat": lambda: layers.Reshape((6, 6, x.shape[-1]))(layers.RepeatVector(36)(layers.GlobalMaxPooling2D()(x))),
            "depth_to_space": lambda: layers.AveragePooling2D(2)(ops.depth_to_space(self.conv(x, 8), 2)),
            "space_to_depth": lambda: layers.UpSampling2D()(ops.space_to_depth(x, 2)),
            "valid": lambda: layers.Conv2DTranspose(self.width(), 3)(layers.DepthwiseConv2D(3, strides=1)(x)),
        }
        return self.one_of(choices)

    def channels_first(self, x: Any) -> Any:
        y = layers.Permute((3, 1, 2))(x)
        # Without a bias: eager Keras mistakes the layout where a map is as wide as it has channels.
        options = {"padding": "same", "data_format": "channels_first", "use_bias": False}
        if self.draw(st.booleans()):
            y = layers.DepthwiseConv2D(3, **options)(y)
        y = layers.BatchNormalization(axis=1)(layers.Conv2D(self.width(), 3, **options)(y))
        return layers.Permute((2, 3, 1))(y)

    def constant(self, x: Any) -> Any:
        values = np.linspace(0.5, 1.5, x.shape[-1]).astype("float32")
        choices: dict[str, Callable[[], Any]] = {
            "array": lambda: x * values,
            "rescaling": lambda: layers.Rescaling(values.tolist(), 0.1)(x),
            "normalization": lambda: layers.Normalization(mean=values.tolist(), variance=(1 + values).tolist())(x),
        }
        return self.one_of(choices)

    def rearranged(self, x: Any) -> Any:
        """The channel axis moved, stacked, gathered, repeated."""
        width = x.shape[-1]
        choices: dict[str, Callable[[], Any]] = {
            "transpose": lambda: ops.transpose(ops.square(ops.transpose(x, (0, 3, 2, 1))), (0, 2, 3, 1)),
            "swapaxes": lambda: ops.moveaxis(ops.swapaxes(x, 1, 3), 1, 3),
            "stack": lambda: ops.reshape(
                ops.stack([x, self.conv(x, width)], axis=self.draw(st.sampled_from([3, 4]))), (-1, 6, 6, 2 * width)
            ),
            "stack_max": lambda: ops.max(ops.stack([x, ops.tanh(x)], axis=1), axis=1),
            "take": lambda: ops.take(x, self.draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=8)), axis=-1),
            "tile": lambda: ops.tile(x, (1, 1, 1, 2)),
            "repeat": lambda: ops.repeat(x, 2, axis=-1),
            "squeeze": lambda: ops.squeeze(ops.expand_dims(x, 3), 3),
        }
        return self.one_of(choices)

    def identity_in_inference(self, x: Any) -> Any:
        kinds = [layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise]
        return self.draw(st.sampled_from(kinds))(0.2)(x, training=False if self.draw(st.booleans()) else None)

    def prelu(self, x: Any) -> Any:
        return layers.PReLU(shared_axes=self.draw(st.sampled_from([None, [1, 2]])))(x)

    def merge(self, x: Any, y: Any) -> Any:
        if x.shape[-1] != y.shape[-1]:
            y = self.conv(y, x.shape[-1])
        kinds = [layers.Add, layers.Multiply, layers.Maximum, layers.Minimum, layers.Subtract, layers.Average]
        kind = self.draw(st.sampled_from([*kinds, "where"]))
        return ops.where(x > 0, x, y) if kind == "where" else kind()([x, y])

    def concat(self, x: Any, y: Any) -> Any:
        return layers.Concatenate()([x, y] if self.draw(st.booleans()) else [y, x, y])

    def gate(self, x: Any, y: Any) -> Any:
        kind = self.draw(st.sampled_from(["conv", "dense", "space", "mean", "sum"]))
        if kind == "space":
            return layers.Multiply()([x, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(y)])
        if kind == "mean":
            return x * ops.mean(y, axis=-1, keepdims=True)
        if kind == "sum":
            return x * ops.tanh(ops.sum(y * self.conv(y, y.shape[-1]), axis=-1, keepdims=True))
        if kind == "dense":
            gate = layers.Dense(x.shape[-1], activation="sigmoid")(layers.GlobalAveragePooling2D()(y))
            return layers.Multiply()([x, layers.Reshape((1, 1, x.shape[-1]))(gate)])
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        return x * layers.Conv2D(self.draw(st.sampled_from([1, x.shape[-1]])), 1, activation="sigmoid")(gate)

    def split(self, x: Any) -> Any:
        parts = [n for n in (2, 3, 4) if x.shape[-1] % n == 0]
        if not parts:
            return x[..., :1]
        pieces = ops.split(x, self.draw(st.sampled_from(parts)), axis=-1)
        return ops.concatenate([pieces[-1], *pieces[:-1]], axis=-1) if self.draw(st.booleans()) else pieces[0]

    def slice(self, x: Any) -> Any:
        width = x.shape[-1]
        start = self.draw(st.integers(0, width - 1))
        return x[..., start : self.draw(st.integers(start + 1, width))]

    def shuffle(self, x: Any) -> Any:
        groups = [n for n in (2, 3, 4) if x.shape[-1] % n == 0]
        if not groups:
            return x
        n = self.draw(st.sampled_from(groups))
        y = layers.Reshape((6, 6, n, x.shape[-1] // n))(x)
        return layers.Reshape((6, 6, x.shape[-1]))(layers.Permute((1, 2, 4, 3))(y))

    def there_and_back(self, x: Any) -> Any:
        flat = layers.Reshape((36, x.shape[-1]))(x)
        if self.draw(st.booleans()):
            flat = layers.Conv1D(self.width(), 3, padding="same")(flat)
        return layers.Reshape((6, 6, flat.shape[-1]))(flat)

    def sequence(self, x: Any) -> Any:
        """Rows as a sequence through a layer that works on sequences."""
        width = self.width()
        y = layers.Reshape((36, x.shape[-1]))(x)
        choices: dict[str, Callable[[], Any]] = {
            "separable": lambda: layers.SeparableConv1D(width, 3, padding="same")(y),
            "depthwise": lambda: layers.DepthwiseConv1D(3, padding="same")(y),
            "transposed": lambda: layers.Conv1DTranspose(width, 3, padding="same")(y),
            "rnn": lambda: layers.SimpleRNN(width, return_sequences=True)(y),
            "gru": lambda: layers.GRU(width, return_sequences=True)(y),
            "lstm": lambda: layers.LSTM(width, return_sequences=True)(y),
            "both": lambda: layers.Bidirectional(layers.LSTM(width, return_sequences=True))(y),
            "attention": lambda: layers.MultiHeadAttention(
                self.draw(st.sampled_from([1, 2, 4])), self.draw(st.sampled_from([2, 3, 4, 6]))
            )(y, y),
            "grouped": lambda: layers.GroupQueryAttention(3, 4, self.draw(st.sampled_from([1, 2])))(y, y),
            "einsum": lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, width), bias_axes="d")(y),
            "states": lambda: self.with_states(y, width),
            "raw": lambda: self.raw_attention(y, width),
            "dot": lambda: layers.Attention()([layers.Dense(6)(y), layers.Dense(width)(y), layers.Dense(6)(y)]),
            "cut": lambda: layers.ZeroPadding1D(2)(layers.MaxPooling1D(2, strides=1)(layers.Cropping1D((1, 2))(y))),
            "each": lambda: layers.TimeDistributed(layers.Dense(width, activation="relu"))(y),
        }
        y = self.one_of(choices)
        return layers.Reshape((6, 6, y.shape[-1]))(y)

    def with_states(self, y: Any, width: int) -> Any:
        whole, last, cell = layers.LSTM(width, return_sequences=True, return_state=True)(y)
        return whole + ops.expand_dims(ops.maximum(last, cell), 1)

    def raw_attention(self, y: Any, width: int) -> Any:
        query, key, value = layers.Dense(4)(y), layers.Dense(4)(y), layers.Dense(width)(y)
        scores = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))))
        return ops.matmul(scores, value) if self.draw(st.booleans()) else layers.Dot(axes=(2, 1))([scores, value])

    def volume(self, x: Any) -> Any:
        if self.draw(st.booleans()):
            y = layers.Conv3D(self.width(), 1)(layers.Reshape((6, 6, 1, x.shape[-1]))(x))
            return layers.Reshape((6, 6, y.shape[-1]))(y)
        return layers.ConvLSTM2D(self.width(), 3, padding="same")(layers.Reshape((1, 6, 6, x.shape[-1]))(x))

    def windows(self, x: Any) -> Any:
        """Windows of 3 x 3 join the batch, and come apart again."""
        width = x.shape[-1]
        y = ops.transpose(ops.reshape(x, (-1, 2, 3, 2, 3, width)), (0, 1, 3, 2, 4, 5))
        y = layers.Dense(self.width(), activation="relu")(ops.reshape(y, (-1, 9, width)))
        y = ops.transpose(ops.reshape(y, (-1, 2, 2, 3, 3, y.shape[-1])), (0, 1, 3, 2, 4, 5))
        return ops.reshape(y, (-1, 6, 6, y.shape[-1]))

    def wrapped(self, x: Any) -> Any:
        """Wrappers in wrappers, and layers in lists, which nobody has a rule for."""
        width = self.width()
        cells = lambda: [layers.GRUCell(width), layers.LSTMCell(2)]  # noqa: E731
        normalization = layers.Normalization(mean=0.1, variance=2.0)
        # Keras cannot build it inside the pipeline.
        normalization.build(x.shape)
        inner = keras.Sequential([keras.Input((x.shape[-1],)), layers.Dense(width), layers.Dense(3)])
        choices: dict[str, Callable[[], Any]] = {
            "twice": lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Dense(width)))(x),
            "model twice": lambda: layers.TimeDistributed(layers.TimeDistributed(inner))(x),
            "both over time": lambda: layers.TimeDistributed(layers.Bidirectional(layers.GRU(width, return_sequences=True)))(x),
            "cells": lambda: layers.TimeDistributed(layers.RNN(cells(), return_sequences=True))(x),
            "cells both ways": lambda: layers.TimeDistributed(layers.Bidirectional(layers.RNN(cells(), return_sequences=True)))(
                x
            ),
            "pipeline": lambda: layers.Pipeline([layers.Rescaling(0.5), normalization])(x),
        }
        return self.one_of(choices)

    def composite(self, x: Any) -> Any:
        """A class of its own, which nobody has a rule for, with variables or without."""
        steps = self.draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4))
        # Keras 3.15 takes a product with a constant for a sparse tensor, on which it cannot build a custom layer.
        x = ops.relu(x) if x.sparse else x
        return Composite(steps, self.width(), self.width(), self.draw(st.booleans()))(x)

    def as_a_lambda(self, x: Any) -> Any:
        return layers.Lambda(self.draw(st.sampled_from([doubled, both_signs, gated])))(x)

    def tied(self, x: Any) -> Any:
        """One layer, called by itself and inside a wrapper."""
        layer = layers.Dense(self.width(), activation="relu")
        y = layer(x)
        return layers.Concatenate()([y, layers.TimeDistributed(layer)(x)])

    def from_arrays(self, x: Any) -> Any:
        """Weights that begin as arrays."""
        width, channels = self.width(), x.shape[-1]

        def array(*shape: int) -> Any:
            return keras.initializers.Constant(np.linspace(-1, 1, int(np.prod(shape)), dtype="float32").reshape(shape))

        choices: dict[str, Callable[[], Any]] = {
            "kernel": lambda: layers.Conv2D(width, 1, kernel_initializer=array(1, 1, channels, width))(x),
            "bias": lambda: layers.Conv2D(width, 3, padding="same", bias_initializer=array(width))(x),
            "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=array(3, 3, channels, 1))(x),
            "norm": lambda: layers.BatchNormalization(gamma_initializer=array(channels), beta_initializer=array(channels))(x),
            "over time": lambda: layers.TimeDistributed(layers.Dense(width, kernel_initializer=array(channels, width)))(x),
            "recurrent": lambda: layers.TimeDistributed(
                layers.LSTM(width, return_sequences=True, recurrent_initializer=array(width, 4 * width))
            )(x),
        }
        return self.one_of(choices)

    def arithmetic(self, x: Any) -> Any:
        return ops.relu(x * 0.5 + 0.1) - ops.mean(x, axis=(1, 2), keepdims=True)

    def roll(self, x: Any) -> Any:
        return ops.flip(ops.roll(x, self.draw(st.integers(-3, 3)), axis=-1), axis=-1)

    def pad(self, x: Any) -> Any:
        y = ops.pad(x, ((0, 0), (0, 0), (0, 0), (self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2)))))
        # TensorFlow's graph optimizer fuses such a pad into a convolution that reads it, and loses the channels: `predict` of the
        # model as it was built fails.
        return ops.relu(y)

    def nested(self, x: Any) -> Any:
        inner = keras.Input(x.shape[1:])
        y = self.grow([inner], self.draw(st.integers(1, 2)), nested=False)[-1]
        model = keras.Model(inner, y)
        once = model(x)
        if self.draw(st.booleans()):
            return once
        return layers.Concatenate()([once, model(self.conv(x, x.shape[-1]))])

    def grow(self, pool: list[Any], steps: int, *, nested: bool = True) -> list[Any]:
        unary = ["conv", "conv", "conv", "again", "grouped", "depthwise", "separable", "transposed", "dense", "norm", "prelu"]
        unary += ["split", "slice", "shuffle", "there_and_back", "arithmetic", "roll", "pad", "sequence", "sequence", "volume"]
        unary += [
            "spatial",
            "spatial",
            "spatial",
            "channels_first",
            "constant",
            "rearranged",
            "rearranged",
            "identity_in_inference",
            "windows",
            "wrapped",
            "composite",
            "composite",
            "as_a_lambda",
            "tied",
            "from_arrays",
        ]
        binary = ["merge", "merge", "concat", "concat", "gate"]
        kinds = unary + binary + (["nested", "nested"] if nested else [])
        for _ in range(steps):
            kind = self.draw(st.sampled_from(kinds))
            x = pool[-1] if self.draw(st.booleans()) else self.pick(pool)
            y = getattr(self, kind)(x, self.pick(pool)) if kind in binary else getattr(self, kind)(x)
            # Widths must not explode through repeated concatenation.
            pool.append(y if y.shape[-1] <= 48 else self.conv(y))
        return pool


@st.composite
def models(draw: Draw) -> keras.Model:
    """A functional model with one to three inputs, one of them perhaps words, and one or two outputs."""
    keras.utils.set_random_seed(0)
    builder = Builder(draw)
    inputs = [keras.Input((6, 6, draw(st.sampled_from([1, 3])))) for _ in range(draw(st.sampled_from([1, 1, 2])))]
    pool = [builder.conv(x) for x in inputs]
    if draw(st.integers(0, 3)) == 0:
        inputs.append(keras.Input((36,), dtype="int32"))
        pool.append(layers.Reshape((6, 6, 6))(layers.Embedding(5, 6)(inputs[-1])))
    pool = builder.grow(pool, draw(st.integers(5, 10)))
    last = layers.Concatenate()([pool[-1], *pool[: len(inputs)]])
    kind = draw(st.sampled_from(["pool", "flatten"]))
    flat = layers.GlobalAveragePooling2D()(last) if kind == "pool" else layers.Flatten()(layers.MaxPooling2D(3)(last))
    outputs = [layers.Dense(3)(flat)]
    if draw(st.booleans()):
        outputs.append(layers.Conv2D(2, 1)(builder.pick(pool)))
    return keras.Model(inputs, outputs)
