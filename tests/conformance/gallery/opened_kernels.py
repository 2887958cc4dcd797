"""Custom layers with scales and kernels of their own, as people and libraries write them, one kind each.

None has a rule, all are opened. Every class says its constructor's arguments in `get_config`; what is odd about one is in its
docstring.
"""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from gallery.configured import Configured, registered

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
