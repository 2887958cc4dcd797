"""Conversion of a model between Keras 3 and tf_keras: its twin has the same layers of the other package and equal weights.

tensorflow-model-optimization (sparsity, clustering) takes tf_keras models only. An entry of a layer's configuration is passed on
if the other package's class has an argument of that name; otherwise it must have its default.
"""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import tree

from tlt_prune import extras
from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph import Call, Graph, duplicate_names, is_keras_class, read, run_through
from tlt_prune.onnx import relative_difference

if TYPE_CHECKING:
    import tf_keras

# Raw operations of Keras 3 that symbolic tensors of both packages support as Python operators.
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "TrueDivide": operator.truediv,
    "Divide": operator.truediv,
}
# Entries about initial weights, which are copied by value, and about how Keras 3 stores a layer.
_LEFT_OUT = ("dtype", "build_config", "registered_name", "quantization_config")

# Rounding makes much less.
_MOST_DIFFERENT = 1e-3

# Entries with another name in the other package (LeakyReLU).
_RENAMED = {"negative_slope": "alpha", "alpha": "negative_slope"}


def to_tf_keras(model: keras.Model) -> tuple[tf_keras.Model, float]:
    """The twin of a Keras 3 model, and the largest difference of its outputs on random inputs, relative to the largest.

    Raises:
        UnsupportedModelError: a layer has no twin, or the model has no graph.
        MissingPackageError: tf_keras is not installed.
    """
    extras.require("sparsity", "A tf_keras model", "tf_keras")
    return _twin(model, importlib.import_module("tf_keras"), "keras")


def to_keras(model: tf_keras.Model) -> tuple[keras.Model, float]:
    """The twin of a tf_keras model: see `to_tf_keras`."""
    return _twin(model, keras, "tf_keras")


def _twin(model: keras.Model | tf_keras.Model, package: ModuleType, family: str) -> tuple[keras.Model | tf_keras.Model, float]:
    graph = read(model)
    if graph.family.name != family:
        raise UnsupportedModelError(f"Expected a {family} model. '{model.name}' is a {graph.family.name} model.")
    twice = sorted(duplicate_names(graph))
    if twice:
        raise UnsupportedModelError(
            f"'{model.name}' has several layers called '{twice[0]}', in models inside it, which would stand in one model in "
            f"{package.__name__}. Expected names of their own."
        )
    builder = _Builder(graph, package)
    twin = builder.run()
    difference = _difference(model, twin, graph)
    if not difference <= _MOST_DIFFERENT:
        raise UnsupportedModelError(
            f"The twin of '{model.name}' in {package.__name__} differs by {difference:.1e} of the largest output. Expected at "
            f"most {_MOST_DIFFERENT:.0e}: something has the same name in both packages and is not the same, such as the "
            "activation 'hard_sigmoid'."
        )
    return twin, difference


class _Builder:
    def __init__(self, graph: Graph, package: ModuleType) -> None:
        self._graph, self._package = graph, package
        self._layers: dict[int, Any] = {}

    def run(self) -> keras.Model | tf_keras.Model:
        graph = self._graph
        inputs = [
            self._package.Input(
                shape=tensor.shape[1:], batch_size=tensor.shape[0], dtype=tensor.dtype, name=getattr(op, "name", None)
            )
            for tensor, op in zip(graph.flat_inputs, graph.input_ops, strict=True)
        ]
        outputs = run_through(graph, inputs, self._called)
        return self._package.Model(tree.pack_sequence_as(graph.inputs, inputs), outputs, name=graph.model.name)

    def _called(self, call: Call, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        op = call.op
        if not self._graph.family.is_layer(op):
            function = _OPERATORS.get(type(op).__name__)
            if function is None or len(args) != 2:
                raise UnsupportedModelError(
                    f"Operation '{call.path}' of type {type(op).__name__} has no twin. Expected layers, or one of "
                    f"{', '.join(_OPERATORS)} of two tensors."
                )
            return function(*args)
        if id(op) not in self._layers:
            self._layers[id(op)] = self._layer(call)
        layer = self._layers[id(op)]
        # The twin is switched to training as a whole.
        outputs = layer(*args, **{key: value for key, value in kwargs.items() if key not in ("training", "mask")})
        weights = op.get_weights()
        if [x.shape for x in weights] != [tuple(x.shape) for x in layer.get_weights()]:
            raise UnsupportedModelError(
                f"Layer '{call.path}' of type {type(op).__name__} has other weights in {self._package.__name__}."
            )
        layer.set_weights(weights)
        return outputs

    def _layer(self, call: Call) -> Any:
        op = call.op
        cls = getattr(self._package.layers, type(op).__name__, None)
        if cls is None or not is_keras_class(type(op)) or getattr(op, "layer", None) is not None:
            raise UnsupportedModelError(
                f"Layer '{call.path}' of type {type(op).__name__} has no twin in {self._package.__name__}. Expected Keras' own "
                "layers that both packages have, without others inside."
            )
        names = _arguments(cls)
        parameters = _arguments(type(op))
        config = {}
        for key, value in op.get_config().items():
            if key in _LEFT_OUT or key.endswith(("_initializer", "_constraint")):
                continue
            other = key if key in names else _RENAMED.get(key)
            if other in names:
                config[other] = self._value(call, key, value)
            elif key in parameters and not _is_default(parameters[key], value):
                raise UnsupportedModelError(
                    f"Layer '{call.path}' of type {type(op).__name__}: {key}={value!r} has no counterpart in "
                    f"{self._package.__name__}. Expected its default, {parameters[key].default!r}."
                )
        return cls(**config)

    def _check_activation(self, call: Call, name: str) -> None:
        try:
            self._package.activations.get(name)
        except ValueError as error:
            raise UnsupportedModelError(
                f"Layer '{call.path}': {self._package.__name__} has no activation '{name}'. Expected one that both packages have."
            ) from error

    def _value(self, call: Call, key: str, value: object) -> Any:
        if key.endswith("_regularizer") and value is not None:
            regularizer = getattr(call.op, key)
            cls = getattr(self._package.regularizers, type(regularizer).__name__, None)
            if cls is None:
                raise UnsupportedModelError(
                    f"Layer '{call.path}': {key} is {type(regularizer).__name__}, which {self._package.__name__} lacks."
                )
            return cls(**{k: float(v) for k, v in regularizer.get_config().items()})
        if key.endswith("activation") and isinstance(value, str):
            self._check_activation(call, value)
        if key == "axis" and isinstance(value, (list, tuple)) and len(value) == 1:
            return value[0]
        if isinstance(value, Mapping):
            raise UnsupportedModelError(
                f"Layer '{call.path}' of type {type(call.op).__name__}: {key} is an object, which has no twin."
            )
        return value


def _arguments(cls: Any) -> dict[str, inspect.Parameter]:
    """Arguments of a class's constructor, including those that it passes on to its bases."""
    arguments: dict[str, inspect.Parameter] = {"name": inspect.Parameter("name", inspect.Parameter.KEYWORD_ONLY, default=None)}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            for name, parameter in parameters.items():
                arguments.setdefault(name, parameter)
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break
    return arguments


def _is_default(parameter: inspect.Parameter, value: object) -> bool:
    default = parameter.default
    return bool(value == default) or value is None or (default is parameter.empty and value in (None, False))


def _difference(model: keras.Model | tf_keras.Model, twin: keras.Model | tf_keras.Model, graph: Graph) -> float:
    rng = np.random.default_rng(0)
    inputs = [
        rng.standard_normal((2, *(n or 8 for n in x.shape[1:]))).astype("float32")
        if x.dtype.startswith("float")
        else np.zeros((2, *(n or 8 for n in x.shape[1:])), x.dtype)
        for x in graph.flat_inputs
    ]
    fed = tree.pack_sequence_as(graph.inputs, inputs)
    both = [[np.asarray(y) for y in tree.flatten(each(fed, training=False))] for each in (model, twin)]
    return relative_difference(*both)
