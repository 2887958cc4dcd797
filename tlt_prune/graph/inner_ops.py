"""Operations that stand for what an opened layer does besides calling layers and `keras.ops`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph.types import Layer, Variable


class OwnVariable:
    """A variable that a layer reads itself.

    Attributes:
        owner, index: the layer that has it, and its position in `Family.weights(owner)`.
        shape: what it is read as, where the layer holds it in another shape.
    """

    def __init__(
        self, owner: Layer, index: int, variable: Variable, name: str, dtype: str, shape: tuple[int, ...] | None = None
    ) -> None:
        self.owner, self.index, self.variable, self.name, self.dtype, self.shape = owner, index, variable, name, dtype, shape
        self.trainable = bool(getattr(variable, "trainable", True))

    def __call__(self) -> Any:
        return self.call()

    def call(self) -> Any:
        value = keras.ops.cast(keras.ops.convert_to_tensor(self.variable), self.dtype)
        return value if self.shape is None else keras.ops.reshape(value, self.shape)


class Constant:
    """An array that a layer inside is called on."""

    def __init__(self, value: NDArray[Any], name: str = "constant") -> None:
        self.value, self.name = np.asarray(value), name
        # Keras notes calls on operations.
        self._inbound_nodes: list[Any] = []
        self._outbound_nodes: list[Any] = []

    def __call__(self) -> Any:
        return self.call()

    def call(self) -> Any:
        return keras.ops.convert_to_tensor(self.value)


class Assigned:
    """A state of a layer gets a new value: nothing of the outputs depends on it, and it has the same channels."""

    def __init__(self, target: OwnVariable) -> None:
        self.target, self.name = target, "assigned"

    def __call__(self, value: Any) -> list[Any]:
        return []

    call = __call__


class ToBatch:
    """`x`, of one example, repeated for every example of a batch; `rest` is the shape behind the batch axis."""

    def __init__(self, rest: tuple[int, ...], name: str = "to_batch") -> None:
        self.rest, self.name = tuple(rest), name

    def __call__(self, x: Any, like: Any) -> Any:
        return self.call(x, like)

    def call(self, x: Any, like: Any) -> Any:
        """Args: `x`: (1, ...); `like`: any tensor of the batch."""
        first = like[(slice(None), *(slice(0, 1),) * (len(like.shape) - 1))]
        zeros = keras.ops.zeros_like(first, dtype=x.dtype)
        return x + keras.ops.reshape(zeros, (-1, *(1,) * len(self.rest)))


class ConvTranspose:
    """`keras.ops.conv_transpose`: what Keras 3.15 records of it mixes up two arguments when it runs."""

    def __init__(self, op: Any) -> None:
        self.strides, self.padding, self.output_padding = op.strides, op.padding, op.output_padding
        self.data_format, self.dilation_rate, self.name = op.data_format, op.dilation_rate, op.name

    def __call__(self, x: Any, kernel: Any) -> Any:
        return self.call(x, kernel)

    def call(self, x: Any, kernel: Any) -> Any:
        return keras.ops.conv_transpose(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


INNER_OPS = (Assigned, Constant, ConvTranspose, OwnVariable, ToBatch)
"""All of them."""
