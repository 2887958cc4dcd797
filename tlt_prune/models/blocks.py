"""What all architectures are made of: convolution, normalisation, activation, with the toolkit's names.

Layers that the toolkit leaves unnamed get the names Keras 2 gave them in a fresh session
(`activation_1`, `add_2`), counted per model, so that a model's names never depend on what was built before.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

Activation = str | None


@dataclasses.dataclass(frozen=True)
class Options:
    """What every architecture lets the user choose.

    Attributes:
        data_format: "channels_last" or "channels_first".
        use_batch_norm, use_bias: of convolutions.
        kernel_regularizer, bias_regularizer: Keras regularizers, for convolutions and dense layers.
        freeze_bn: batch normalisation is not trained and runs in inference mode while training.
        freeze_blocks: numbers of the blocks whose convolutions are not trained.
        activation: of convolutions: "relu", "relu-n" (`max_value`), "lrelu" (`alpha`), "mish", "swish".
        activation_kwargs: its parameters.
        bn_momentum, bn_epsilon: of batch normalisation.
        width: factor of all filter counts.
    """

    data_format: str = "channels_last"
    use_batch_norm: bool = True
    use_bias: bool = True
    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    freeze_bn: bool = False
    freeze_blocks: Sequence[int] = ()
    activation: str = "relu"
    activation_kwargs: dict[str, float] = dataclasses.field(default_factory=dict)
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-3
    width: float = 1.0


class Net:
    """Makes layers with one model's options and automatic names."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._counts: collections.Counter[str] = collections.Counter()

    @property
    def channel_axis(self) -> int:
        return 1 if self.options.data_format == "channels_first" else 3

    def name(self, kind: str) -> str:
        """The next automatic name of a layer class: "conv2d_1", "conv2d_2"..."""
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind).lower()
        self._counts[snake] += 1
        return f"{snake}_{self._counts[snake]}"

    def filters(self, count: int) -> int:
        return max(1, round(count * self.options.width))

    def conv(
        self,
        x: Any,
        filters: int,
        kernel: int | tuple[int, int],
        strides: int = 1,
        *,
        name: str | None = None,
        padding: str = "same",
        block: int | None = None,
        **kwargs: Any,
    ) -> Any:
        o = self.options
        layer = keras.layers.Conv2D(
            self.filters(filters),
            kernel,
            strides=strides,
            padding=padding,
            data_format=o.data_format,
            kernel_regularizer=o.kernel_regularizer,
            bias_regularizer=o.bias_regularizer,
            trainable=block not in o.freeze_blocks,
            name=name or self.name("Conv2d"),
            **{"use_bias": o.use_bias, **kwargs},
        )
        return layer(x)

    def norm(self, x: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Batch normalisation, if the model has any."""
        o = self.options
        if not o.use_batch_norm:
            return x
        settings = {"momentum": o.bn_momentum, "epsilon": o.bn_epsilon, **kwargs}
        layer = keras.layers.BatchNormalization(
            axis=self.channel_axis,
            # Keras 3 overrides a recorded training=False by the outer call's; only a frozen layer stays in inference mode.
            trainable=not o.freeze_bn,
            name=name or self.name("BatchNormalization"),
            **settings,
        )
        return layer(x)

    def act(self, x: Any, name: str | None = None, kind: str | None = None) -> Any:
        """The model's activation, or `kind`."""
        parameters = self.options.activation_kwargs if kind is None else {}
        return _ACTIVATIONS[kind or self.options.activation](self, x, name, parameters)

    def add(self, *xs: Any, name: str | None = None) -> Any:
        return keras.layers.Add(name=name or self.name("Add"))(list(xs))

    def max_pool(self, x: Any, size: int, strides: int, padding: str = "same", name: str | None = None) -> Any:
        return keras.layers.MaxPooling2D(
            size,
            strides=strides,
            padding=padding,
            data_format=self.options.data_format,
            name=name or self.name("MaxPooling2d"),
        )(x)

    def average_pool(self, x: Any, size: int, padding: str = "same", name: str | None = None) -> Any:
        return keras.layers.AveragePooling2D(
            size, padding=padding, data_format=self.options.data_format, name=name or self.name("AveragePooling2d")
        )(x)

    def dense_head(self, x: Any, classes: int, activation: str = "softmax") -> Any:
        """Flatten and one dense layer: the toolkit's classification head."""
        o = self.options
        x = keras.layers.Flatten(data_format=o.data_format, name=self.name("Flatten"))(x)
        return keras.layers.Dense(
            classes,
            activation=activation,
            kernel_regularizer=o.kernel_regularizer,
            bias_regularizer=o.bias_regularizer,
            name=f"head_fc{classes}",
        )(x)


def _activation(function: str) -> Callable[..., Any]:
    def make(net: Net, x: Any, name: str | None, parameters: dict[str, float]) -> Any:
        return keras.layers.Activation(function, name=name or net.name("Activation"))(x)

    return make


def _leaky_relu(net: Net, x: Any, name: str | None, parameters: dict[str, float]) -> Any:
    slope = parameters.get("alpha", 0.3)
    return keras.layers.LeakyReLU(negative_slope=slope, name=name or net.name("LeakyReLU"))(x)


def _relu_n(net: Net, x: Any, name: str | None, parameters: dict[str, float]) -> Any:
    return keras.layers.ReLU(max_value=parameters["max_value"], name=name or net.name("ReLU"))(x)


_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": _activation("relu"),
    "sigmoid": _activation("sigmoid"),
    "swish": _activation("silu"),
    "mish": _activation("mish"),
    "linear": _activation("linear"),
    "lrelu": _leaky_relu,
    "leaky_relu": _leaky_relu,
    "relu-n": _relu_n,
}


def inputs(options: Options, input_shape: Sequence[int | None], name: str = "input_1") -> Any:
    """The input tensor; `input_shape` is (height, width, channels) whatever the data format."""
    height, width, channels = input_shape
    first = options.data_format == "channels_first"
    return keras.Input((channels, height, width) if first else (height, width, channels), name=name)
