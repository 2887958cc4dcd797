"""Models with layers that nobody wrote a rule for: custom ones (see `opened_kernels`), Lambdas, subclassed models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from gallery import opened_blocks as blocks
from gallery import opened_kernels as kernels
from gallery import opened_tokens as tokens
from gallery.configured import Configured, registered


def pictures(*middle: Any) -> keras.Model:
    """A convolution, the layers, another convolution."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 3, padding="same", activation="relu", name="before")(x)
    for layer in middle:
        y = layer(y)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="after")(y)
    return keras.Model(x, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y)))


def sequences(*middle: Any) -> keras.Model:
    """A dense layer for each of six tokens, the layers, another dense layer."""
    x = keras.Input((6, 5))
    y = layers.Dense(12, activation="relu", name="before")(x)
    for layer in middle:
        y = layer(y)
    y = layers.Dense(8, activation="relu", name="after")(y)
    return keras.Model(x, layers.Dense(3, name="head")(layers.Flatten()(y)))


def pyramid() -> keras.Model:
    x = keras.Input((8, 8, 3))
    fine = layers.Conv2D(12, 3, padding="same", name="fine")(x)
    coarse = layers.Conv2D(16, 3, padding="same", strides=2, name="coarse")(fine)
    both = blocks.Pyramid(8)([fine, coarse])
    heads = [layers.Dense(3)(layers.GlobalAveragePooling2D()(level)) for level in both]
    return keras.Model(x, heads)


def over_time(steps: int | None) -> keras.Model:
    x = keras.Input((steps, 8, 8, 3))
    y = layers.TimeDistributed(layers.Conv2D(12, 3, padding="same"), name="before")(x)
    y = layers.TimeDistributed(blocks.Inverted(16, 8))(y)
    y = layers.TimeDistributed(layers.GlobalAveragePooling2D())(y)
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


def twice_over_time() -> keras.Model:
    x = keras.Input((2, 3, 8, 8, 3))
    inner = layers.TimeDistributed(layers.TimeDistributed(blocks.Inverted(16, 8)), name="middle")
    return keras.Model(x, layers.Dense(3)(ops.mean(inner(x), axis=(1, 2, 3, 4))))


def called_twice() -> keras.Model:
    """One custom layer, two calls: what it counts is coupled."""
    x = keras.Input((8, 8, 3))
    block = blocks.ResidualBlock(12)
    y = layers.Conv2D(12, 3, padding="same", name="before")(x)
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(block(block(y)))))


def in_a_nested_model() -> keras.Model:
    inner = keras.Sequential([keras.Input((8, 8, 12)), blocks.ResidualBlock(12), kernels.ScaleAndShift()], name="inner")
    return pictures(inner)


def mixed_with_raw_operations() -> keras.Model:
    x = keras.Input((8, 8, 3))
    a = layers.Conv2D(12, 3, padding="same", name="a")(x)
    b = kernels.ScaleAndShift()(layers.Conv2D(12, 1, name="b")(x))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(ops.concatenate([a, b], axis=-1) * 2)))


class _Lambda:
    """Functions by name: Keras can load a Lambda whose function it knows."""

    @staticmethod
    @keras.saving.register_keras_serializable(package="opened")
    def relu_and_double(x: Any) -> Any:
        return ops.relu(x) * 2

    @staticmethod
    @keras.saving.register_keras_serializable(package="opened")
    def doubled_channels(x: Any) -> Any:
        return ops.concatenate([x, -x], axis=-1)

    @staticmethod
    @keras.saving.register_keras_serializable(package="opened")
    def halves_swapped(x: Any) -> Any:
        first, second = ops.split(x, 2, axis=-1)
        return first * ops.sigmoid(second)

    @staticmethod
    @keras.saving.register_keras_serializable(package="opened")
    def flat(x: Any) -> Any:
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))

    @staticmethod
    @keras.saving.register_keras_serializable(package="opened")
    def channel_attention(x: Any) -> Any:
        return x * ops.sigmoid(ops.mean(x, axis=(1, 2), keepdims=True))


def lambda_on_pictures(name: str) -> Callable[[], keras.Model]:
    return lambda: pictures(layers.Lambda(getattr(_Lambda, name)))


def lambda_to_tokens() -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = layers.Lambda(_Lambda.flat)(layers.Conv2D(12, 3, name="before")(x))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Dense(8, name="after")(y))))


def of_patches(*middle: Any) -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = tokens.PatchEmbedding(12, 4)(x)
    for layer in middle:
        y = layer(y)
    return keras.Model(x, layers.Dense(3)(y[:, 0]))


# --- subclassed models ---


@registered
class PlainNet(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = [layers.Conv2D(n, 3, padding="same", activation="relu") for n in (12, 16, 8)]
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(3)

    def call(self, x: Any, training: bool | None = None) -> Any:
        for layer in self.convolutions:
            x = layer(x)
        return self.head(self.pool(x))


@registered
class ResidualNet(keras.Model):
    """Batch normalization, dropout, custom blocks and a variable of its own; a dictionary comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layers.Conv2D(12, 3, padding="same")
        self.norm = layers.BatchNormalization()
        self.blocks = [blocks.ResidualBlock(12), blocks.Bottleneck(16, 8)]
        self.drop = layers.Dropout(0.3)
        self.head = layers.Dense(3)

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(16,), initializer="ones", name="scale")
        super().build(shape)

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = ops.relu(self.norm(self.stem(x), training=training))
        for block in self.blocks:
            x = block(x, training=training) if isinstance(block, blocks.ResidualBlock) else block(x)
        features = self.drop(ops.mean(x, axis=(1, 2)) * self.scale, training=training)
        return {"scores": self.head(features)}


def built(model: keras.Model, shape: tuple[int | None, ...]) -> keras.Model:
    model(np.zeros([1 if n is None else n for n in shape], np.float32))
    return model


EXACT: dict[str, Callable[[], keras.Model]] = {
    "scale and shift": lambda: pictures(kernels.ScaleAndShift()),
    "layer scale": lambda: pictures(kernels.ScaledBranch(12)),
    "own PReLU": lambda: pictures(kernels.OwnPReLU()),
    "own dense": lambda: sequences(kernels.OwnDense(16)),
    "own einsum": lambda: sequences(kernels.OwnEinsum(16)),
    "own tensordot": lambda: sequences(kernels.OwnTensordot(16)),
    "low rank": lambda: sequences(kernels.LowRank(16, 8)),
    "own convolution": lambda: pictures(kernels.OwnConv(16)),
    "re-parameterized convolution": lambda: pictures(kernels.Reparameterized(16)),
    "kernel with a scale": lambda: pictures(kernels.ScaledKernel(16)),
    "own depthwise convolution": lambda: pictures(kernels.OwnDepthwise()),
    "own transposed convolution": lambda: pictures(kernels.OwnTranspose(16)),
    "own batch normalization": lambda: pictures(kernels.OwnBatchNorm()),
    "residual block": lambda: pictures(blocks.ResidualBlock(12)),
    "bottleneck": lambda: pictures(blocks.Bottleneck(16, 8)),
    "inverted residual": lambda: pictures(blocks.InvertedResidual(2)),
    "squeeze and excite": lambda: pictures(blocks.SqueezeExcite()),
    "spatial gate": lambda: pictures(blocks.SpatialGate()),
    "ConvNeXt block": lambda: pictures(blocks.ConvNextBlock(12)),
    "pyramid": pyramid,
    "over time": lambda: over_time(3),
    "over any time": lambda: over_time(None),
    "over time twice": twice_over_time,
    "both ways": lambda: sequences(layers.Bidirectional(blocks.Recurrent(6))),
    "nested": lambda: pictures(blocks.Nested(16)),
    "ghost": lambda: pictures(blocks.Ghost(16)),
    "gated unit": lambda: sequences(blocks.GatedUnit(16)),
    "drop path": lambda: pictures(blocks.DropPath(0.2)),
    "weights in a loop": lambda: sequences(blocks.Loop(2)),
    "table of positions": lambda: sequences(tokens.PositionTable()),
    "positions looked up": lambda: sequences(tokens.PositionLookup()),
    "one head": lambda: sequences(tokens.OneHead(8)),
    "similarity": lambda: sequences(tokens.Similarity(8)),
    "class token": lambda: sequences(tokens.ClassToken()),
    "tiled token": lambda: sequences(tokens.TiledToken()),
    "patches and a class token": lambda: of_patches(tokens.ClassToken(), tokens.PositionTable()),
    "token mixer": lambda: sequences(tokens.TokenMixer(10)),
    "called twice": called_twice,
    "in a nested model": in_a_nested_model,
    "with raw operations": mixed_with_raw_operations,
    "lambda: elementwise": lambda_on_pictures("relu_and_double"),
    "lambda: concatenation": lambda_on_pictures("doubled_channels"),
    "lambda: gate": lambda_on_pictures("halves_swapped"),
    "lambda: attention over channels": lambda_on_pictures("channel_attention"),
    "lambda: tokens": lambda_to_tokens,
    "subclassed model": lambda: built(PlainNet(), (None, 8, 8, 3)),
    "subclassed residual network": lambda: built(ResidualNet(), (None, 8, 8, 3)),
}
"""Name -> a model that comes out smaller and exact."""

APPROXIMATE: dict[str, Callable[[], keras.Model]] = {
    "transformer encoder": lambda: of_patches(tokens.ClassToken(), tokens.PositionTable(), tokens.TransformerEncoder(3, 4, 16)),
}
"""The same with statistics over channels that go."""

__all__ = ["APPROXIMATE", "EXACT", "Configured"]
