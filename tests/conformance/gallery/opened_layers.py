"""Custom layers as people and libraries write them, one kind each: none has a rule, all are opened.

Every class says its constructor's arguments in `get_config`; what is odd about one is in its docstring.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops


class Configured(layers.Layer):
    """A layer whose constructor's arguments are its configuration."""

    entries: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{key: getattr(self, key) for key in self.entries}}


def registered(cls: Any) -> Any:
    return keras.saving.register_keras_serializable(package="opened")(cls)


# --- scales and shifts ---


@registered
class ScaleAndShift(Configured):
    """A learnable affine transformation."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="zeros", name="shift")

    def call(self, x: Any) -> Any:
        return x * self.scale + self.shift


@registered
class ScaledBranch(Configured):
    """x + gamma * f(x), as in networks with layer scale; gamma is a list's only entry."""

    entries = ("filters", "initial")

    def __init__(self, filters: int, initial: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.initial = filters, initial
        self.convolution = layers.Conv2D(filters, 3, padding="same")

    def build(self, shape: Any) -> None:
        self.convolution.build(shape)
        self.scales = [self.add_weight(shape=(self.filters,), initializer="ones", name="scale")]

    def call(self, x: Any) -> Any:
        return x + self.scales[0] * ops.gelu(self.convolution(x))


@registered
class OwnPReLU(Configured):
    def build(self, shape: Any) -> None:
        self.alpha = self.add_weight(shape=(1, 1, shape[-1]), initializer="zeros", name="alpha")

    def call(self, x: Any) -> Any:
        return ops.maximum(x, 0) + self.alpha * ops.minimum(x, 0)


@registered
class ResponseNorm(Configured):
    """Global response normalization: divides by a mean over the channels, so that it is approximate."""

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(1, 1, 1, shape[-1]), initializer="zeros", name="gamma")
        self.beta = self.add_weight(shape=(1, 1, 1, shape[-1]), initializer="zeros", name="beta")

    def call(self, x: Any) -> Any:
        energy = ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True))
        return self.gamma * (x * energy) + self.beta + x


# --- layers with kernels of their own ---


@registered
class OwnDense(Configured):
    entries = ("units",)

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, x: Any) -> Any:
        return ops.relu(ops.matmul(x, self.kernel) + self.bias)


@registered
class OwnEinsum(OwnDense):
    def call(self, x: Any) -> Any:
        return ops.relu(ops.einsum("...c,cd->...d", x, self.kernel) + self.bias)


@registered
class OwnTensordot(OwnDense):
    def call(self, x: Any) -> Any:
        return ops.tensordot(x, self.kernel, axes=1) + self.bias


@registered
class LowRank(Configured):
    """Two factors, of which the second is read transposed."""

    entries = ("units", "rank")

    def __init__(self, units: int, rank: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.rank = units, rank

    def build(self, shape: Any) -> None:
        self.first = self.add_weight(shape=(shape[-1], self.rank), name="first")
        self.second = self.add_weight(shape=(self.units, self.rank), name="second")

    def call(self, x: Any) -> Any:
        return ops.matmul(ops.matmul(x, self.first), ops.transpose(self.second))


@registered
class OwnConv(Configured):
    entries = ("filters", "size")

    def __init__(self, filters: int, size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.size = filters, size

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(self.size, self.size, shape[-1], self.filters), name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), name="bias")

    def kernel_now(self) -> Any:
        return self.kernel

    def call(self, x: Any) -> Any:
        return ops.conv(x, self.kernel_now(), padding="same") + self.bias


@registered
class Reparameterized(OwnConv):
    """A 3 x 3 and a 1 x 1 kernel that are added up to one convolution."""

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.point = self.add_weight(shape=(1, 1, shape[-1], self.filters), name="point")

    def kernel_now(self) -> Any:
        return self.kernel + ops.pad(self.point, [[1, 1], [1, 1], [0, 0], [0, 0]])


@registered
class ScaledKernel(OwnConv):
    """The kernel has one scale per filter."""

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.gain = self.add_weight(shape=(1, 1, 1, self.filters), initializer="ones", name="gain")

    def kernel_now(self) -> Any:
        return self.kernel * self.gain


@registered
class OwnDepthwise(Configured):
    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], 1), name="kernel")

    def call(self, x: Any) -> Any:
        return ops.depthwise_conv(x, self.kernel, padding="same")


@registered
class OwnTranspose(Configured):
    entries = ("filters",)

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(2, 2, self.filters, shape[-1]), name="kernel")

    def call(self, x: Any) -> Any:
        return ops.conv_transpose(x, self.kernel, strides=2)


@registered
class OwnBatchNorm(Configured):
    """Statistics of its own, updated in training."""

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(shape[-1],), initializer="zeros", name="beta")
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="mean")
        self.variance = self.add_weight(shape=(shape[-1],), initializer="ones", trainable=False, name="variance")

    def call(self, x: Any, training: bool | None = None) -> Any:
        if training:
            mean, variance = ops.moments(x, axes=(0, 1, 2))
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
            self.variance.assign(0.9 * self.variance + 0.1 * variance)
        else:
            mean, variance = self.mean, self.variance
        return ops.batch_normalization(x, mean, variance, axis=-1, offset=self.beta, scale=self.gamma)


# --- blocks of layers ---


@registered
class ResidualBlock(Configured):
    entries = ("filters",)

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.first = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.first_norm = layers.BatchNormalization()
        self.second = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.second_norm = layers.BatchNormalization()

    def call(self, x: Any, training: bool | None = None) -> Any:
        y = ops.relu(self.first_norm(self.first(x), training=training))
        return ops.relu(x + self.second_norm(self.second(y), training=training))


@registered
class Bottleneck(Configured):
    """The shortcut has a convolution; the inner width is an entry of its own."""

    entries = ("filters", "inner")

    def __init__(self, filters: int, inner: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.inner = filters, inner
        self.layers = [layers.Conv2D(inner, 1), layers.Conv2D(inner, 3, padding="same"), layers.Conv2D(filters, 1)]
        self.shortcut = layers.Conv2D(filters, 1)

    def call(self, x: Any) -> Any:
        y = x
        for layer in self.layers[:-1]:
            y = ops.silu(layer(y))
        return self.layers[-1](y) + self.shortcut(x)


@registered
class InvertedResidual(Configured):
    """Its inner width is a multiple of its input's."""

    entries = ("expansion",)

    def __init__(self, expansion: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.expansion = expansion

    def build(self, shape: Any) -> None:
        wide = shape[-1] * self.expansion
        self.expand = layers.Conv2D(wide, 1)
        self.depthwise = layers.DepthwiseConv2D(3, padding="same")
        self.project = layers.Conv2D(shape[-1], 1)
        self.expand.build(shape)
        self.depthwise.build((*shape[:-1], wide))
        self.project.build((*shape[:-1], wide))

    def call(self, x: Any) -> Any:
        return x + self.project(ops.relu6(self.depthwise(ops.relu6(self.expand(x)))))


@registered
class SqueezeExcite(Configured):
    entries = ("ratio",)

    def __init__(self, ratio: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, shape: Any) -> None:
        self.squeeze = layers.Dense(shape[-1] // self.ratio, activation="relu")
        self.excite = layers.Dense(shape[-1], activation="sigmoid")
        self.squeeze.build((None, shape[-1]))
        self.excite.build((None, shape[-1] // self.ratio))

    def call(self, x: Any) -> Any:
        return x * self.excite(self.squeeze(ops.mean(x, axis=(1, 2))))[:, None, None, :]


@registered
class SpatialGate(Configured):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid")

    def call(self, x: Any) -> Any:
        return x * self.gate(x)


@registered
class ConvNextBlock(Configured):
    """The layers are a Sequential; the scale is a variable of its own."""

    entries = ("dimension",)

    def __init__(self, dimension: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dimension = dimension
        self.body = keras.Sequential(
            [
                layers.DepthwiseConv2D(3, padding="same"),
                layers.BatchNormalization(),
                layers.Dense(2 * dimension, activation="gelu"),
                layers.Dense(dimension),
            ]
        )

    def build(self, shape: Any) -> None:
        self.body.build(shape)
        self.gamma = self.add_weight(shape=(self.dimension,), initializer="ones", name="gamma")

    def call(self, x: Any) -> Any:
        return x + self.body(x) * self.gamma


@registered
class Pyramid(Configured):
    """Two inputs of different sizes, two outputs; the levels are in a dictionary."""

    entries = ("filters",)

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.lateral = {name: layers.Conv2D(filters, 1) for name in ("fine", "coarse")}
        self.smooth = layers.Conv2D(filters, 3, padding="same")

    def call(self, inputs: Any) -> Any:
        fine, coarse = inputs
        top = self.lateral["coarse"](coarse)
        joined = self.lateral["fine"](fine) + ops.repeat(ops.repeat(top, 2, axis=1), 2, axis=2)
        return self.smooth(joined), top


@registered
class Nested(Configured):
    """Custom layers in a custom layer."""

    entries = ("filters",)

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.entrance = OwnConv(filters, 1)
        self.blocks = [ResidualBlock(filters), ScaledBranch(filters)]

    def call(self, x: Any) -> Any:
        x = self.entrance(x)
        for block in self.blocks:
            x = block(x)
        return x


@registered
class Ghost(Configured):
    """Half of the channels are made from the other half."""

    entries = ("filters",)

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.primary = layers.Conv2D(filters // 2, 1)
        self.cheap = layers.DepthwiseConv2D(3, padding="same")

    def call(self, x: Any) -> Any:
        x = self.primary(x)
        return ops.concatenate([x, self.cheap(x)], axis=-1)


@registered
class GatedUnit(Configured):
    entries = ("units",)

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.both = layers.Dense(2 * units)

    def call(self, x: Any) -> Any:
        value, gate = ops.split(self.both(x), 2, axis=-1)
        return value * ops.sigmoid(gate)


@registered
class DropPath(Configured):
    """Leaves out examples in training, and does nothing in inference."""

    entries = ("rate",)

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(3)

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not training:
            return x
        kept = ops.floor(1 - self.rate + keras.random.uniform((ops.shape(x)[0], 1, 1, 1), seed=self.seed_generator))
        return x / (1 - self.rate) * kept


@registered
class Loop(Configured):
    """Weights that are made in a loop, and found in a list only."""

    entries = ("depth",)

    def __init__(self, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth = depth

    def build(self, shape: Any) -> None:
        self.kernels = [self.add_weight(shape=(shape[-1], shape[-1]), name=f"kernel_{i}") for i in range(self.depth)]

    def call(self, x: Any) -> Any:
        for kernel in self.kernels:
            x = x + ops.tanh(x @ kernel)
        return x


# --- sequences ---


@registered
class PositionTable(Configured):
    """A table of positions that is learned."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(shape[1], shape[2]), name="table")

    def call(self, x: Any) -> Any:
        return x + self.table


@registered
class PositionLookup(Configured):
    """Positions that are looked up by an Embedding, called on a constant."""

    def build(self, shape: Any) -> None:
        self.positions = np.arange(shape[1])
        self.embedding = layers.Embedding(shape[1], shape[2])
        self.embedding.build(())

    def call(self, x: Any) -> Any:
        return x + self.embedding(self.positions)


@registered
class ClassToken(Configured):
    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, ops.shape(x)[-1]))
        return ops.concatenate([token, x], axis=1)


@registered
class TiledToken(ClassToken):
    def call(self, x: Any) -> Any:
        return ops.concatenate([ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x], axis=1)


@registered
class PatchEmbedding(Configured):
    entries = ("units", "size")

    def __init__(self, units: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.size = units, size
        self.projection = layers.Conv2D(units, size, strides=size)

    def call(self, x: Any) -> Any:
        x = self.projection(x)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))


@registered
class TransformerEncoder(Configured):
    entries = ("heads", "width", "hidden")

    def __init__(self, heads: int, width: int, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.width, self.hidden = heads, width, hidden

    def build(self, shape: Any) -> None:
        self.attention = layers.MultiHeadAttention(self.heads, self.width)
        self.attention.build(shape, shape)
        self.first, self.second = layers.Dense(self.hidden, activation="gelu"), layers.Dense(shape[-1])
        self.first.build(shape)
        self.second.build((*shape[:-1], self.hidden))
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        for norm in self.norms:
            norm.build(shape)

    def call(self, x: Any, training: bool | None = None) -> Any:
        y = self.norms[0](x)
        x = x + self.attention(y, y, training=training)
        return x + self.second(self.first(self.norms[1](x)))


@registered
class TokenMixer(Configured):
    """An MLP over the tokens, as in MLP-Mixer: the channels are an axis that it leaves alone."""

    entries = ("hidden",)

    def __init__(self, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape: Any) -> None:
        self.first, self.second = layers.Dense(self.hidden, activation="gelu"), layers.Dense(shape[1])
        self.first.build((None, shape[2], shape[1]))
        self.second.build((None, shape[2], self.hidden))

    def call(self, x: Any) -> Any:
        return x + ops.transpose(self.second(self.first(ops.transpose(x, (0, 2, 1)))), (0, 2, 1))
