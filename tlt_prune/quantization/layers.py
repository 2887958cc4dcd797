"""Layers that round to int8 values while computing in floating point, so that training sees the rounding of inference.

Symmetric int8, as TensorRT wants it: q(x) = s clip(round(x / s), -127, 127) with s = maximum / 127. The gradient goes straight
through the rounding (Bengio et al., arXiv:1308.3432). Importing this module lets Keras load models that hold these layers.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
from keras import ops

from tlt_prune.graph import CallTrace
from tlt_prune.graph.rules import register_rule
from tlt_prune.quantization.ranges import LEVELS

if TYPE_CHECKING:
    import tensorflow as tf

_KERAS_PACKAGE = "tlt_prune"
_LEAST_GAIN = 1e-6
LayerTensor: TypeAlias = "keras.KerasTensor | tf.Tensor"
"""Symbolic while a model is built; the backend's own (here TensorFlow's) while it runs."""


def fake_quantize(x: LayerTensor, maximum: LayerTensor) -> LayerTensor:
    """q(x), differentiable in x and in `maximum`, which broadcasts against x.

    Automatic differentiation, straight through the rounding, gives the gradient of `maximum` in Esser et al., "Learned Step Size
    Quantization", ICLR 2020, arXiv:1902.08153, equation 3.
    """
    step = maximum / LEVELS
    scaled = ops.clip(x / step, -LEVELS, LEVELS)
    return (scaled + ops.stop_gradient(ops.round(scaled) - scaled)) * step


def _for_inference(x: LayerTensor, maximum: LayerTensor) -> LayerTensor:
    """q(x) by a TensorFlow operation that tf2onnx converts to QuantizeLinear/DequantizeLinear, if TensorFlow is the backend."""
    if keras.backend.backend() != "tensorflow":
        return fake_quantize(x, maximum)
    tensorflow = importlib.import_module("tensorflow")
    maximum = tensorflow.convert_to_tensor(maximum)
    return tensorflow.quantization.quantize_and_dequantize_v2(
        x, -maximum, maximum, num_bits=8, range_given=True, round_mode="HALF_TO_EVEN", narrow_range=True
    )


@keras.saving.register_keras_serializable(package=_KERAS_PACKAGE)
class FakeQuantize(keras.layers.Layer):
    """Quantizes an activation, with one range for the whole tensor.

    Args:
        learned: the range is trained with the weights; otherwise it follows the largest magnitude of the batches.
        momentum: of that moving average.
    """

    def __init__(self, learned: bool = False, momentum: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learned, self.momentum = learned, momentum
        self.rounds = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.maximum = self.add_weight(shape=(), initializer="ones", trainable=self.learned, name="maximum")

    def call(self, inputs: LayerTensor, training: bool | None = None) -> LayerTensor:
        if not self.rounds:
            return inputs
        if not training:
            return _for_inference(inputs, self.maximum)
        if not self.learned:
            largest = ops.cast(ops.max(ops.abs(inputs)), self.maximum.dtype)
            self.maximum.assign(self.momentum * self.maximum + (1 - self.momentum) * ops.maximum(largest, 1e-6))
            return fake_quantize(inputs, ops.stop_gradient(ops.convert_to_tensor(self.maximum)))
        # The gradient of the step sums over all activations, so it is scaled by 1 / sqrt(size LEVELS), as in the paper's section
        # 2.2. The variable is LEVELS steps: the same relative change needs LEVELS^2 times the gradient.
        size = int(np.prod([n or 1 for n in inputs.shape[1:]]))
        share = LEVELS**2 / np.sqrt(size * LEVELS)
        positive = ops.maximum(self.maximum, 1e-6)
        return fake_quantize(inputs, positive * share + ops.stop_gradient(positive * (1 - share)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "learned": self.learned, "momentum": self.momentum}


@contextlib.contextmanager
def rounding_off(layers: Iterable[FakeQuantize]) -> Iterator[None]:
    """Lets layers pass their inputs unrounded, for models that run eagerly."""
    layers = list(layers)
    for layer in layers:
        layer.rounds = False
    try:
        yield
    finally:
        for layer in layers:
            layer.rounds = True


def along_channels(shape: Sequence[int], channel_axes: Sequence[int]) -> tuple[int, ...]:
    """Shape that broadcasts one value per output channel against a kernel: 1 along all other axes."""
    axes = {axis % len(shape) for axis in channel_axes}
    return tuple(n if i in axes else 1 for i, n in enumerate(shape))


class _QuantizedKernel:
    """Mixin for a layer with a kernel, which is rounded during a call, with one range per output channel."""

    channel_axes: tuple[int, ...]
    _quantizing = False
    _gain: LayerTensor | None = None

    @property
    def kernel(self) -> Any:
        kernel = vars(self).get("_own_kernel")
        if kernel is None:
            kernel = super().kernel  # type: ignore[misc]
        if not self._quantizing:
            return kernel
        kernel = ops.convert_to_tensor(kernel)
        if self._gain is not None:
            kernel = kernel * ops.reshape(self._gain, along_channels(kernel.shape, self.channel_axes))
        others = [i for i in range(len(kernel.shape)) if i not in {a % len(kernel.shape) for a in self.channel_axes}]
        largest = ops.max(ops.abs(kernel), axis=others, keepdims=True)
        return fake_quantize(kernel, ops.stop_gradient(ops.where(largest > 0, largest, 1.0)))

    @kernel.setter
    def kernel(self, value: keras.Variable | None) -> None:
        self._own_kernel = value

    def call_with_gain(self, inputs: LayerTensor, gain: LayerTensor) -> LayerTensor:
        """Calls the layer with kernel * gain in the place of its kernel, rounded; gain is `(n_channels,)`."""
        object.__setattr__(self, "_gain", gain)
        try:
            return self(inputs)  # type: ignore[operator]
        finally:
            object.__setattr__(self, "_gain", None)

    def call(self, inputs: LayerTensor) -> LayerTensor:
        # Past Keras, which would track the attribute.
        object.__setattr__(self, "_quantizing", True)
        try:
            return super().call(inputs)  # type: ignore[misc]
        finally:
            object.__setattr__(self, "_quantizing", False)


def _quantized(base: type[keras.layers.Layer], *channel_axes: int) -> Any:
    # The axes of the output channels in the kernel.
    cls = type(f"Quantized{base.__name__}", (_QuantizedKernel, base), {"channel_axes": channel_axes, "__module__": __name__})
    cls.__doc__ = f"`keras.layers.{base.__name__}` whose kernel is quantized to int8, one range per output channel."
    return keras.saving.register_keras_serializable(package=_KERAS_PACKAGE)(cls)


QUANTIZED: dict[str, Any] = {
    "Conv1D": _quantized(keras.layers.Conv1D, -1),
    "Conv2D": _quantized(keras.layers.Conv2D, -1),
    "Conv3D": _quantized(keras.layers.Conv3D, -1),
    "Conv2DTranspose": _quantized(keras.layers.Conv2DTranspose, -2),
    "DepthwiseConv2D": _quantized(keras.layers.DepthwiseConv2D, -2, -1),
    "Dense": _quantized(keras.layers.Dense, -1),
}
"""Keras' class name -> the quantized class."""


@keras.saving.register_keras_serializable(package=_KERAS_PACKAGE)
class QuantizedWithNorm(keras.layers.Layer):
    """A quantized layer and the batch normalization after it: the kernel is rounded with the normalization folded in, while
    training still normalizes by the batch.

        y = norm(layer(x; q(kernel gain)) / gain),   gain = gamma / sqrt(moving_variance + epsilon)

    In inference that is one layer of kernel q(kernel gain). Krishnamoorthi, "Quantizing deep convolutional networks for efficient
    inference", 2018, arXiv:1806.08342, section 3.2.2, without its freezing; as PyTorch's fused modules do it.

    Args:
        layer: one of `QUANTIZED`, its activation linear.
        norm: a BatchNormalization on its channels.
    """

    def __init__(self, layer: keras.layers.Layer, norm: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer, self.norm = layer, norm

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        # Keras has built inner layers that come from a file.
        if not self.layer.built:
            self.layer.build(input_shape)
            self.norm.build(self.layer.compute_output_shape(input_shape))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        shape: tuple[int | None, ...] = self.layer.compute_output_shape(input_shape)
        return shape

    def gain(self) -> LayerTensor:
        """`(n_channels,)`; at least 1e-6 in magnitude, so that a channel with gamma = 0 does not divide by zero."""
        gain = ops.rsqrt(ops.convert_to_tensor(self.norm.moving_variance) + self.norm.epsilon)
        if self.norm.scale:
            gain = gain * ops.convert_to_tensor(self.norm.gamma)
        gain = ops.stop_gradient(gain)
        return ops.where(ops.abs(gain) < _LEAST_GAIN, _LEAST_GAIN, gain)

    def call(self, inputs: LayerTensor, training: bool | None = None) -> LayerTensor:
        gain = self.gain()
        outputs = self.layer.call_with_gain(inputs, gain)
        shape = [1] * len(outputs.shape)
        shape[self.norm.axis] = -1
        gain = ops.reshape(gain, shape)
        if self.layer.use_bias:
            bias = ops.reshape(ops.convert_to_tensor(self.layer.bias), shape)
            outputs = (outputs - bias) / gain + bias
        else:
            outputs = outputs / gain
        return self.norm(outputs, training=training)

    def get_config(self) -> dict[str, Any]:
        inner = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("layer", "norm")}
        return {**super().get_config(), **inner}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizedWithNorm:
        inner = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("layer", "norm")}
        return cls(**{**config, **inner})


@register_rule(FakeQuantize, QuantizedWithNorm, *QUANTIZED.values())
def _after_pruning(call: CallTrace, *xs: Any) -> Any:
    """Freezes all channels: ranges and folded normalizations were trained for those that are there. Counts what is computed."""
    layer = call.op.layer if isinstance(call.op, QuantizedWithNorm) else call.op
    kernel = getattr(layer, "kernel", None)
    if kernel is not None:
        axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
        # A transposed kernel is applied at every input position.
        shape = call.in_shapes[0] if isinstance(layer, keras.layers.Conv2DTranspose) else call.out_shapes[0]
        call.macs(kernel, call.positions(shape, axis))
    return call.freeze_all(
        xs, "the model is trained for int8: prune the one it was made from, then call quantization_aware on that"
    )
