"""Custom layers that are blocks of layers (see `opened_kernels`)."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from gallery.configured import Configured, registered
from gallery.opened_kernels import OwnConv, ScaledBranch


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


@registered
class Inverted(Configured):
    """What a wrapper needs: it is built by itself, and says the shape of what it returns."""

    entries = ("filters", "inner")

    def __init__(self, filters: int, inner: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.inner = filters, inner
        self.expand, self.project = layers.Conv2D(inner, 3, padding="same", activation="relu"), layers.Conv2D(filters, 1)

    def build(self, shape: Any) -> None:
        self.expand.build(shape)
        self.project.build((*shape[:-1], self.inner))
        self.gamma = self.add_weight(shape=(self.filters,), initializer="ones", name="gamma")

    def call(self, x: Any) -> Any:
        return ops.relu(self.gamma * self.project(self.expand(x)))

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], self.filters)


@registered
class Recurrent(Configured):
    """What Bidirectional takes: a recurrent layer, and something behind it."""

    entries = ("units", "go_backwards", "return_sequences", "return_state")

    def __init__(
        self, units: int, go_backwards: bool = False, return_sequences: bool = True, return_state: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.units, self.go_backwards, self.stateful = units, go_backwards, False
        self.return_sequences, self.return_state = return_sequences, return_state
        self.steps = layers.LSTM(units, go_backwards=go_backwards, return_sequences=return_sequences)
        self.norm = layers.BatchNormalization()

    def build(self, shape: Any) -> None:
        self.steps.build(shape)
        self.norm.build((*shape[:-1], self.units))

    def call(self, x: Any, initial_state: Any = None, training: bool | None = None) -> Any:
        return self.norm(self.steps(x, initial_state=initial_state), training=training)

    def compute_output_shape(self, shape: Any, initial_state_shape: Any = None) -> Any:
        return (*shape[:-1], self.units)
