"""Differences between Keras 3 and tf_keras; and the home of every private attribute of either that this package reads.

Keras records a model as nodes on its operations. Two facts decide how it is read: an operation's own
node list also holds calls made outside the model, so only the model's `_nodes_by_depth` counts; and
raw operations (`x + y`, `keras.ops.*`) are not in `model.layers` but are in the nodes. tf_keras keeps the same structure
under other names.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import keras
import numpy as np
from keras import tree
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallSpec
from keras.src.models.functional import Functional
from keras.src.saving import serialization_lib

from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph.classes import keras_base, keras_model_base
from tlt_prune.graph.types import KerasModel, Layer, Operation, SymbolicTensor, TensorLike, Variable

OF_TENSORFLOW = frozenset(
    f"_self_{name}"
    for name in (
        *("unconditional_checkpoint_dependencies", "unconditional_dependency_names", "unconditional_deferred_dependencies"),
        *("update_uid", "name_based_restores", "saveable_object_factories", "tracked_trackables", "setattr_tracking"),
    )
)
"""Attributes of layers in which TensorFlow keeps an account of its own of what they have."""


class _FunctionalModel(KerasModel, Protocol):
    _nodes_by_depth: Mapping[int, Sequence[Any]]
    """Distance to the outputs -> the calls there."""


class Family:
    """Differences between Keras 3 and tf_keras, and nothing else."""

    name: str

    def is_tensor(self, value: object) -> TypeGuard[SymbolicTensor]:
        raise NotImplementedError

    def symbol(self, shape: Sequence[int | None], dtype: str) -> Any:
        """A new symbolic tensor, of no model."""
        raise NotImplementedError

    def build(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Builds a layer for symbolic tensors that it is to be called on."""
        raise NotImplementedError

    def symbolic_call(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """What an operation returns of symbolic tensors, flat."""
        return list(tree.flatten(op(*args, **kwargs)))

    def is_layer(self, op: object) -> TypeGuard[Layer]:
        raise NotImplementedError

    def functional(self, model: KerasModel) -> Any | None:
        """The functional graph behind `model`, or None when it has none."""
        raise NotImplementedError

    def is_model(self, op: object) -> TypeGuard[KerasModel]:
        raise NotImplementedError

    def is_sequential(self, op: object) -> bool:
        raise NotImplementedError

    def nodes(self, functional: _FunctionalModel) -> Iterator[Any]:
        """The nodes of a functional model that are calls, in topological order."""
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    yield node

    def is_a(self, op: object, name: str) -> bool:
        """Whether a layer computes what Keras' layer class `name` does."""
        base = keras_base(op) if self.is_layer(op) else None
        return base is not None and base.__name__ == name

    def node_call(self, node: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """(operation, args, kwargs) of a node."""
        raise NotImplementedError

    def structures(self, functional: _FunctionalModel) -> tuple[Any, Any]:
        """(inputs, outputs) of a functional model, as structures of symbolic tensors."""
        raise NotImplementedError

    def input_op(self, tensor: SymbolicTensor) -> Any | None:
        raise NotImplementedError

    def namespace(self) -> Any:
        """The package: `keras` or `tf_keras`."""
        raise NotImplementedError

    @contextlib.contextmanager
    def sharing(self, layers: Mapping[Any, Any]) -> Iterator[None]:
        """While one layer is rebuilt from its configuration: where that holds one of `layers`, it gets what became of it; and
        what it holds twice stays one object.

        Args:
            layers: old layer -> new one.
        """
        library = self._serialization()
        with library.ObjectSharingScope():
            for old, new in layers.items():
                # Once an object was written down, its next mention bears its `id`.
                library.serialize_keras_object(old)
                library.record_object_after_deserialization(new, id(old))
            yield

    def _serialization(self) -> Any:
        raise NotImplementedError

    def seeds(self, op: Layer) -> list[Variable]:
        """The states of a layer's random generators, which are no weights."""
        return []

    def weights(self, op: Layer) -> list[Variable]:
        """The variables of a layer, those of the layers in it included."""
        return list(op.weights)

    def numpy(self, variable: TensorLike) -> np.ndarray[Any, Any]:
        raise NotImplementedError

    def unnoticed(self) -> contextlib.AbstractContextManager[Any]:
        """Puts back the counters from which Keras makes names: what is made inside leaves no trace in names made later."""
        raise NotImplementedError

    def construction(self) -> contextlib.AbstractContextManager[Any]:
        """While layers are called to build a model, their variables wait for `start` instead of getting initial values."""
        return contextlib.nullcontext()

    def start(self, variable: Variable, value: Callable[[], np.ndarray[Any, Any]]) -> bool:
        """Sets the initial value of a waiting variable; False for one that does not wait, and has to be assigned to."""
        return False

    def compile_arguments(self, model: KerasModel) -> dict[str, Any]:
        """Compile arguments of `model`, as objects; empty if it is not compiled."""
        compiled = getattr(model, "compiled", getattr(model, "_is_compiled", False))
        config = getattr(model, "_compile_config", None) if compiled else None
        return {} if config is None else dict(config.config)

    def copy_policy(self, old: KerasModel, new: KerasModel) -> None:
        """The dtype policy of a model, which decides how compile() scales the loss: not the one in force now."""

    def build_optimizer(self, model: KerasModel) -> None:
        """Makes an optimizer's variables, as loading a compiled model does."""

    def reset_states(self, model: KerasModel) -> None:
        """Stateful recurrent layers start from zero."""
        for layer in all_layers(model):
            if getattr(layer, "stateful", False) and getattr(layer, "states", None) is not None:
                layer.reset_states()

    @contextlib.contextmanager
    def untouched(self, model: KerasModel) -> Iterator[None]:
        """Puts back what running a model in inference changes: recurrent states, random seeds, the compiled function."""
        layers = all_layers(model)
        states = [v for x in layers for v in tree.flatten(getattr(x, "states", None)) if hasattr(v, "assign")]
        seeds = [v for x in layers for v in getattr(x, "non_trainable_variables", ()) if "seed" in getattr(v, "name", "")]
        before = [(v, self.numpy(v)) for v in (*states, *seeds)]
        function = model.predict_function
        try:
            yield
        finally:
            for variable, value in before:
                variable.assign(value)
            model.predict_function = function

    def infer(self, op: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        """The results of an operation as its model, called with `training=False`, computes them."""
        # Keras 3 records the default of random layers, which is to train, and its models override it.
        if self.is_layer(op) and "training" in inspect.signature(op.call).parameters:
            kwargs = {**kwargs, "training": False} if self.name == "keras" else {"training": False, **kwargs}
        return op(*args, **kwargs)

    def lambda_arguments(self, op: Any) -> dict[str, Any]:
        """Arguments of a new Lambda around the same function: Python functions do not survive a configuration."""
        return {
            "function": op.function,
            "output_shape": op._output_shape,
            "mask": op.mask,
            "arguments": op.arguments,
            "name": op.name,
            "dtype": op.dtype_policy if hasattr(op, "dtype_policy") else op.dtype,
            "trainable": op.trainable,
        }


class _Keras3(Family):
    name = "keras"

    def is_tensor(self, value: object) -> TypeGuard[SymbolicTensor]:
        return isinstance(value, keras.KerasTensor)

    def is_layer(self, op: object) -> TypeGuard[Layer]:
        return isinstance(op, keras.layers.Layer)

    def functional(self, model: KerasModel) -> Any | None:
        if keras_model_base(model) is None:
            return None
        if isinstance(model, keras.Sequential):
            return model._functional
        return model if isinstance(model, Functional) else None

    def is_model(self, op: object) -> TypeGuard[KerasModel]:
        return isinstance(op, keras.Model)

    def is_sequential(self, op: object) -> bool:
        return isinstance(op, keras.Sequential)

    def node_call(self, node: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return node.operation, tuple(node.arguments.args), dict(node.arguments.kwargs)

    def structures(self, functional: Functional) -> tuple[Any, Any]:
        return functional._inputs_struct, functional._outputs_struct

    def input_op(self, tensor: SymbolicTensor) -> Any | None:
        op = tensor._keras_history.operation
        return op if isinstance(op, keras.layers.InputLayer) else None

    def namespace(self) -> Any:
        return keras

    def _serialization(self) -> Any:
        return serialization_lib

    def seeds(self, op: Layer) -> list[Variable]:
        weights = {id(v) for v in op.weights}
        return [v for v in op.variables if id(v) not in weights]

    def numpy(self, variable: TensorLike) -> np.ndarray[Any, Any]:
        return np.asarray(keras.ops.convert_to_numpy(variable))

    def symbol(self, shape: Sequence[int | None], dtype: str) -> Any:
        return keras.KerasTensor(tuple(shape), dtype)

    def build(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # As a call does first: that takes a fraction of its time.
        layer._maybe_build(CallSpec(layer._call_signature, layer._call_context_args, args, kwargs))

    def symbolic_call(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        results = super().symbolic_call(op, args, kwargs)
        as_dense(tree.flatten((args, kwargs)), results)
        return results

    def unnoticed(self) -> contextlib.AbstractContextManager[Any]:
        return _put_back(global_state.get_global_attribute("object_name_uids", {}))

    def construction(self) -> contextlib.AbstractContextManager[Any]:
        # Variables made in a stateless scope are initialized when it ends.
        scope: contextlib.AbstractContextManager[Any] = keras.StatelessScope()
        return scope

    def copy_policy(self, old: keras.Model, new: keras.Model) -> None:
        if new.dtype_policy != old.dtype_policy:
            new.dtype_policy = old.dtype_policy

    def build_optimizer(self, model: keras.Model) -> None:
        if model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)

    def start(self, variable: keras.Variable, value: Callable[[], np.ndarray[Any, Any]]) -> bool:
        if variable._value is not None:
            return False
        variable._initializer = lambda shape, dtype=None: value()
        return True


class _TfKeras(Family):
    name = "tf_keras"

    def __init__(self, package: types.ModuleType) -> None:
        self._package = package

    def is_tensor(self, value: object) -> TypeGuard[SymbolicTensor]:
        return isinstance(value, self._package.src.engine.keras_tensor.KerasTensor)

    def is_layer(self, op: object) -> TypeGuard[Layer]:
        # `tf.add(x, y)` on a symbolic tensor becomes a layer that only wraps the function.
        return isinstance(op, self._package.layers.Layer) and not _is_tf_op(op)

    def functional(self, model: KerasModel) -> Any | None:
        functional = self._package.src.engine.functional.Functional
        if keras_model_base(model) is not None and isinstance(model, functional) and getattr(model, "_nodes_by_depth", None):
            return model
        return None

    def is_model(self, op: object) -> TypeGuard[KerasModel]:
        return isinstance(op, self._package.Model)

    def is_sequential(self, op: object) -> bool:
        return isinstance(op, self._package.Sequential)

    def node_call(self, node: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return node.layer, tuple(node.call_args), dict(node.call_kwargs)

    def structures(self, functional: Any) -> tuple[Any, Any]:
        return functional._nested_inputs, functional._nested_outputs

    def input_op(self, tensor: SymbolicTensor) -> Any | None:
        op = tensor._keras_history.layer
        return op if isinstance(op, self._package.layers.InputLayer) else None

    def namespace(self) -> Any:
        return self._package

    def symbol(self, shape: Sequence[int | None], dtype: str) -> Any:
        return self._package.Input(batch_shape=tuple(shape), dtype=dtype)

    def build(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer(*args, **kwargs)

    def unnoticed(self) -> contextlib.AbstractContextManager[Any]:
        backend = self._package.src.backend
        return _put_back(backend.get_default_graph_uid_map())

    def _serialization(self) -> Any:
        return self._package.src.saving.serialization_lib

    def weights(self, op: Layer) -> list[Variable]:
        # Lookup layers count their vocabulary, which is no array, among them.
        return [x for x in op.weights if hasattr(x, "shape")]

    def numpy(self, variable: TensorLike) -> np.ndarray[Any, Any]:
        return np.asarray(variable)


def as_dense(given: Sequence[Any], results: Sequence[Any]) -> None:
    """Marks symbolic tensors of Keras 3 as dense that were made of dense ones.

    Keras 3.15 takes a product with a constant for a sparse tensor, on which it cannot build a custom layer.
    """
    if not any(getattr(x, "sparse", False) for x in given):
        for x in results:
            x._sparse = False


@contextlib.contextmanager
def _put_back(counters: dict[str, Any]) -> Iterator[None]:
    before = dict(counters)
    try:
        yield
    finally:
        counters.clear()
        counters.update(before)


_TF_OPS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")


def _is_tf_op(op: object) -> bool:
    return type(op).__name__ in _TF_OPS and type(op).__module__.startswith("tf_keras.")


def tf_keras_family(package: types.ModuleType) -> Family:
    """That of tf_keras, which is never imported by this package."""
    return _TfKeras(package)


def family_of(model: object) -> Family:
    """Keras 3 or tf_keras.

    Raises:
        UnsupportedModelError: `model` is neither's model.
    """
    if isinstance(model, keras.Model):
        return _Keras3()
    # A tf_keras model can only exist where tf_keras has been imported: never import it ourselves.
    package = sys.modules.get("tf_keras")
    if package is not None and isinstance(model, package.Model):
        return _TfKeras(package)
    raise UnsupportedModelError(
        "Expected a keras.Model or tf_keras.Model. "
        f"Received: {model!r} (of type {type(model).__module__}.{type(model).__name__})."
    )


def all_layers(layer: Operation) -> list[Any]:
    """The layers in a model or layer, to any depth, without itself."""
    return list(layer._flatten_layers(include_self=False)) if hasattr(layer, "_flatten_layers") else []


def producing_layer(tensor: SymbolicTensor) -> Any:
    """The Keras 3 operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation
