"""Building blocks of all architectures: convolution, normalization, activation, with the toolkit's names.

Layers that the toolkit leaves unnamed get the names Keras 2 gave them in a fresh session
(`activation_1`, `add_2`), counted per model, so that a model's names never depend on what was built before.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

# (height, width, channels), whatever the data format; None is open.
InputShape = Sequence[int | None]
# Zeros along (height, width): as many on both sides, or (before, after).
Padding = Sequence[int | tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class ArchitectureOptions:
    """Options that every architecture has.

    Attributes:
        data_format: "channels_last" or "channels_first".
        use_batch_norm: batch normalization after convolutions (AlexNet and SqueezeNet have none).
        use_bias: of convolutions; None leaves the architecture's own choice.
        kernel_regularizer, bias_regularizer: Keras regularizers, for convolutions and dense layers.
        freeze_bn: batch normalization is not trained and runs in inference mode while training.
        freeze_blocks: numbers of the blocks whose convolutions are not trained.
        activation: of convolutions: "relu", "relu6", "relu-n" (`max_value`), "leaky_relu" or "lrelu" (`alpha`),
            "elu" (`alpha`), "mish", "swish"; None leaves the architecture's own choice.
        activation_kwargs: its parameters.
        bn_momentum, bn_epsilon: of batch normalization.
        width: factor of all filter counts.
        padding: "keras"; or "tao": convolutions and poolings with padding "same" get as many zeros on every side, as in NVIDIA's
            Keras, which its pretrained weights are made for. The two differ where strides are above 1, and for poolings.
        input_name: of the input layer.
    """

    data_format: str = "channels_last"
    use_batch_norm: bool = True
    use_bias: bool | None = None
    kernel_regularizer: keras.regularizers.Regularizer | None = None
    bias_regularizer: keras.regularizers.Regularizer | None = None
    freeze_bn: bool = False
    freeze_blocks: Sequence[int] = ()
    activation: str | None = None
    activation_kwargs: dict[str, float] = dataclasses.field(default_factory=dict)
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-3
    width: float = 1.0
    padding: str = "keras"
    input_name: str = "input_1"

    def __post_init__(self) -> None:
        if self.padding not in ("keras", "tao"):
            raise ValueError(f"padding: expected 'keras' or 'tao'. Received: {self.padding!r}.")


class Net:
    """Makes layers with one model's options and automatic names."""

    def __init__(
        self, options: ArchitectureOptions, *, use_bias: bool = True, activation: str = "relu", after: keras.Model | None = None
    ) -> None:
        """`use_bias` and `activation` are the architecture's own choices; automatic names go on from those of `after`."""
        self.options = options
        self.use_bias = use_bias if options.use_bias is None else options.use_bias
        self.activation = activation if options.activation is None else options.activation
        self._counts: collections.Counter[str] = collections.Counter()
        for layer in after.layers if after is not None else ():
            kind, _, number = layer.name.rpartition("_")
            if kind and number.isdecimal() and kind in _AUTOMATIC:
                self._counts[kind] = max(self._counts[kind], int(number))

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
        x: keras.KerasTensor,
        filters: int,
        kernel: int | tuple[int, int],
        strides: int = 1,
        *,
        name: str | None = None,
        padding: str = "same",
        block: int | None = None,
        **kwargs: Any,
    ) -> keras.KerasTensor:
        o = self.options
        name = name or self.name("Conv2d")
        # Where nothing is skipped, and the kernel has a middle, both pad alike.
        if strides > 1 or any(n % 2 == 0 for n in _pair(kernel)):
            x, padding = self._padded(x, [n // 2 for n in _pair(kernel)], padding, name)
        layer = keras.layers.Conv2D(
            self.filters(filters),
            kernel,
            strides=strides,
            padding=padding,
            data_format=o.data_format,
            kernel_regularizer=o.kernel_regularizer,
            bias_regularizer=o.bias_regularizer,
            trainable=block not in o.freeze_blocks,
            name=name,
            **{"use_bias": self.use_bias, **kwargs},
        )
        return layer(x)

    def output_conv(
        self, x: keras.KerasTensor, filters: int, kernel: int, name: str | None = None, **kwargs: Any
    ) -> keras.KerasTensor:
        """A convolution that makes outputs: as many as it says, whatever the width; with a bias unless said otherwise."""
        o = self.options
        layer = keras.layers.Conv2D(
            filters,
            kernel,
            data_format=o.data_format,
            kernel_regularizer=o.kernel_regularizer,
            bias_regularizer=o.bias_regularizer,
            name=name or self.name("Conv2d"),
            **{"padding": "same", **kwargs},
        )
        return layer(x)

    def conv_transpose(
        self, x: keras.KerasTensor, filters: int, kernel: int, strides: int, name: str | None = None, **kwargs: Any
    ) -> keras.KerasTensor:
        """A transposed convolution: its output is `strides` times as large."""
        o = self.options
        layer = keras.layers.Conv2DTranspose(
            self.filters(filters),
            kernel,
            strides=strides,
            padding="same",
            data_format=o.data_format,
            kernel_regularizer=o.kernel_regularizer,
            bias_regularizer=o.bias_regularizer,
            name=name or self.name("Conv2dTranspose"),
            **{"use_bias": self.use_bias, **kwargs},
        )
        return layer(x)

    def depthwise(
        self, x: keras.KerasTensor, kernel: int, strides: int = 1, *, name: str, padding: str, block: int, **kwargs: Any
    ) -> keras.KerasTensor:
        o = self.options
        return keras.layers.DepthwiseConv2D(
            kernel,
            strides=strides,
            padding=padding,
            data_format=o.data_format,
            use_bias=self.use_bias,
            depthwise_regularizer=o.kernel_regularizer,
            bias_regularizer=o.bias_regularizer,
            trainable=block not in o.freeze_blocks,
            name=name,
            **kwargs,
        )(x)

    def _padded(self, x: keras.KerasTensor, zeros: Sequence[int], padding: str, name: str) -> tuple[keras.KerasTensor, str]:
        """The input and the layer's padding: with "tao", zeros on every side (height, width) in place of "same"."""
        if self.options.padding != "tao" or padding != "same":
            return x, padding
        return (self.pad(x, tuple(zeros), f"{name}_pad") if any(zeros) else x), "valid"

    def pad(self, x: keras.KerasTensor, padding: Padding, name: str) -> keras.KerasTensor:
        return keras.layers.ZeroPadding2D(padding, data_format=self.options.data_format, name=name)(x)

    def concat(self, *xs: keras.KerasTensor, name: str | None = None) -> keras.KerasTensor:
        return keras.layers.Concatenate(axis=self.channel_axis, name=name or self.name("Concatenate"))(list(xs))

    def upsample(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Every position four times."""
        return keras.layers.UpSampling2D(2, data_format=self.options.data_format, name=name)(x)

    def last(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """With the channels in the last axis; as it is, where they are."""
        return x if self.channel_axis == 3 else keras.layers.Permute((2, 3, 1), name=self.name("Permute"))(x)

    def norm(self, x: keras.KerasTensor, name: str | None = None, **kwargs: Any) -> keras.KerasTensor:
        """Batch normalization, if the model has any."""
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

    def act(self, x: keras.KerasTensor, name: str | None = None, kind: str | None = None) -> keras.KerasTensor:
        """The model's activation, or `kind`.

        Raises:
            ValueError: there is no activation of that name.
        """
        parameters = self.options.activation_kwargs if kind is None else {}
        wanted = kind or self.activation
        if wanted not in _ACTIVATIONS:
            raise ValueError(f"Expected activation to be one of {', '.join(_ACTIVATIONS)}. Received: {wanted!r}.")
        return _ACTIVATIONS[wanted](self, x, name, parameters)

    def add(self, *xs: keras.KerasTensor, name: str | None = None) -> keras.KerasTensor:
        return keras.layers.Add(name=name or self.name("Add"))(list(xs))

    def max_pool(
        self, x: keras.KerasTensor, size: int, strides: int, padding: str = "same", name: str | None = None
    ) -> keras.KerasTensor:
        name = name or self.name("MaxPooling2d")
        x, padding = self._padded(x, [(size - 1) // 2] * 2, padding, name)
        return keras.layers.MaxPooling2D(size, strides=strides, padding=padding, data_format=self.options.data_format, name=name)(
            x
        )

    def average_pool(
        self, x: keras.KerasTensor, size: int, strides: int | None = None, padding: str = "same", name: str | None = None
    ) -> keras.KerasTensor:
        name = name or self.name("AveragePooling2d")
        # Zeros count in the average, unlike Keras' own padding.
        x, padding = self._padded(x, [(size - 1) // 2] * 2, padding, name)
        return keras.layers.AveragePooling2D(
            size, strides=strides, padding=padding, data_format=self.options.data_format, name=name
        )(x)

    def flatten(self, x: keras.KerasTensor, name: str | None = None) -> keras.KerasTensor:
        return keras.layers.Flatten(data_format=self.options.data_format, name=name or self.name("Flatten"))(x)

    def dense(self, x: keras.KerasTensor, units: int, name: str, activation: str = "softmax", **kwargs: Any) -> keras.KerasTensor:
        o = self.options
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_regularizer=o.kernel_regularizer,
            bias_regularizer=o.bias_regularizer,
            name=name,
            **kwargs,
        )(x)

    def global_pool(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return keras.layers.GlobalAveragePooling2D(data_format=self.options.data_format, name=name)(x)

    def spatial(self, x: keras.KerasTensor) -> tuple[int | None, int | None]:
        """(height, width) of a feature map."""
        return tuple(x.shape[2:] if self.channel_axis == 1 else x.shape[1:3])


# Kinds of layers that the toolkit leaves unnamed, as `Net.name` spells them.
_AUTOMATIC = frozenset(
    {"activation", "add", "average_pooling2d", "batch_normalization", "channel_shuffle", "concatenate", "conv2d"}
    | {"conv2d_transpose", "dropout", "flatten", "max_pooling2d", "permute", "re_lu", "leaky_re_lu", "elu", "zero_padding2d"}
)


def _pair(kernel: int | tuple[int, int]) -> tuple[int, int]:
    return (kernel, kernel) if isinstance(kernel, int) else kernel


# (net, x, name, parameters) -> the activated tensor.
_Activation = Callable[[Net, keras.KerasTensor, str | None, Mapping[str, float]], keras.KerasTensor]


def _activation(function: str) -> _Activation:
    def make(net: Net, x: keras.KerasTensor, name: str | None, parameters: Mapping[str, float]) -> keras.KerasTensor:
        return keras.layers.Activation(function, name=name or net.name("Activation"))(x)

    return make


def _leaky_relu(net: Net, x: keras.KerasTensor, name: str | None, parameters: Mapping[str, float]) -> keras.KerasTensor:
    slope = parameters.get("alpha", 0.1)
    return keras.layers.LeakyReLU(negative_slope=slope, name=name or net.name("LeakyReLU"))(x)


def _relu_n(net: Net, x: keras.KerasTensor, name: str | None, parameters: Mapping[str, float]) -> keras.KerasTensor:
    return keras.layers.ReLU(max_value=parameters["max_value"], name=name or net.name("ReLU"))(x)


def _elu(net: Net, x: keras.KerasTensor, name: str | None, parameters: Mapping[str, float]) -> keras.KerasTensor:
    return keras.layers.ELU(alpha=parameters.get("alpha", 1.0), name=name or net.name("ELU"))(x)


_ACTIVATIONS: dict[str, _Activation] = {
    "relu": _activation("relu"),
    "sigmoid": _activation("sigmoid"),
    "swish": _activation("silu"),
    "mish": _activation("mish"),
    "linear": _activation("linear"),
    "lrelu": _leaky_relu,
    "leaky_relu": _leaky_relu,
    "relu-n": _relu_n,
    "relu6": lambda net, x, name, parameters: _relu_n(net, x, name, {"max_value": 6.0}),
    "elu": _elu,
}


def inputs(options: ArchitectureOptions, input_shape: InputShape) -> keras.KerasTensor:
    """The input tensor; `input_shape` is (height, width, channels) whatever the data format."""
    height, width, channels = input_shape
    first = options.data_format == "channels_first"
    return keras.Input((channels, height, width) if first else (height, width, channels), name=options.input_name)


def letters(index: int) -> str:
    """The toolkit's numbering of repeated blocks: a to z, then aa, ab..."""
    text = ""
    while index >= 0:
        text = chr(ord("a") + index % 26) + text
        index = index // 26 - 1
    return text


def divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than 10 % below: arXiv:1801.04381's rounding."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
