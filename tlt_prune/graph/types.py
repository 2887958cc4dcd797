"""Types of the objects that Keras 3 and tf_keras both have: protocols, because the classes themselves have no common base.

Only what this package reads of both is in them. A class has more attributes than its protocol: `Call.op` is `Any` for the rules,
which read those of one class (`kernel`, `filters`, `axis`), and what only one of the two Kerases has, `Family` reads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import ArrayLike

__all__ = [
    "BatchNormalization",
    "Convolution",
    "KerasModel",
    "Layer",
    "Operation",
    "Projection",
    "SymbolicTensor",
    "TensorLike",
    "Variable",
]


class TensorLike(Protocol):
    """Anything with a shape and a type: a NumPy array, a backend's tensor, a variable, a symbolic tensor."""

    @property
    def shape(self) -> Sequence[Any]:
        """Sizes of the axes; None where a symbolic tensor leaves one open. TensorFlow's `TensorShape` counts as one."""

    @property
    def dtype(self) -> Any:
        """Keras 3's and NumPy's types: the name, or an object whose `name` is the name."""


class Variable(TensorLike, Protocol):
    """A weight, or another state, of a layer: `keras.Variable` or `tf.Variable`."""

    @property
    def name(self) -> str: ...

    def assign(self, value: ArrayLike) -> Any:
        """Sets the value, an array of the variable's shape."""


class SymbolicTensor(TensorLike, Protocol):
    """A tensor without values, of which a functional model is made: the `KerasTensor` of either Keras."""

    _keras_history: Any
    """The call that it is the result of; only `family` reads it."""


class Operation(Protocol):
    """Anything that a model calls: a layer, or a raw operation (`keras.ops.*`, a TensorFlow function in tf_keras)."""

    @property
    def name(self) -> str: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What `__call__` computes."""


class Layer(Operation, Protocol):
    """A layer of either Keras."""

    trainable: bool
    built: bool

    @property
    def weights(self) -> Sequence[Variable]:
        """Its variables and those of the layers in it, without the states of random generators."""

    @property
    def variables(self) -> Sequence[Variable]:
        """The same with the states of random generators, where Keras 3 counts them."""

    def get_weights(self) -> list[Any]:
        """The values of its weights, NumPy arrays."""

    def get_config(self) -> dict[str, Any]: ...

    def get_build_config(self) -> dict[str, Any] | None: ...

    def build_from_config(self, config: dict[str, Any] | None) -> None: ...


class KerasModel(Layer, Protocol):
    """A model of either Keras; where it is said to be functional or Sequential, a subclassed one raises an error."""

    predict_function: Any
    """The compiled function of `predict`, None before the first use."""

    @property
    def layers(self) -> Sequence[Layer]: ...

    @property
    def inputs(self) -> Any:
        """Its symbolic inputs, flat."""

    @property
    def outputs(self) -> Any:
        """Its symbolic outputs, flat."""

    def predict_on_batch(self, x: object) -> Any:
        """The outputs for one batch, NumPy arrays."""

    def save(self, filepath: str | os.PathLike[str]) -> None: ...

    def compile(self, *args: Any, **kwargs: Any) -> None: ...

    def get_compile_config(self) -> dict[str, Any] | None: ...

    def compile_from_config(self, config: dict[str, Any] | None) -> None: ...


class Projection(Layer, Protocol):
    """A layer that multiplies with a kernel and adds a bias, if it has one: dense, EinsumDense, a convolution."""

    kernel: Variable
    bias: Variable | None
    activation: Any


class Convolution(Projection, Protocol):
    """A convolution of one to three spatial axes; the tuples have one entry for each."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: str
    data_format: str


class BatchNormalization(Layer, Protocol):
    """A batch normalization; `gamma` and `beta` are None where it has none."""

    axis: Any
    epsilon: float
    gamma: Variable | None
    beta: Variable | None
    moving_mean: Variable
    moving_variance: Variable
