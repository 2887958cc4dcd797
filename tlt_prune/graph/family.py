"""Differences between Keras 3 and tf_keras; and the home of every private attribute of either that this package reads.

Keras records a model as nodes on its operations. Two facts decide how it is read: an operation's own
node list also holds calls made outside the model, so only the model's `_nodes_by_depth` counts; and
raw operations (`x + y`, `keras.ops.*`) are not in `model.layers` but are in the nodes. tf_keras keeps the same structure
under other names.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import keras
import numpy as np
from keras import tree
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallSpec
from keras.src.models.functional import Functional
from keras.src.ops.node import Node
from keras.src.saving import serialization_lib

from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph.classes import keras_model_base
from tlt_prune.graph.family_base import Family, _FunctionalModel, all_layers, as_array, dtype_name, put_back
from tlt_prune.graph.family_tf_keras import TfKeras
from tlt_prune.graph.types import KerasModel, Layer, SymbolicTensor, TensorLike, Variable

__all__ = [
    "OF_TENSORFLOW",
    "Family",
    "_FunctionalModel",
    "all_layers",
    "as_array",
    "dtype_name",
    "family_of",
    "loaded_families",
    "producing_layer",
]

OF_TENSORFLOW = frozenset(
    f"_self_{name}"
    for name in (
        *("unconditional_checkpoint_dependencies", "unconditional_dependency_names", "unconditional_deferred_dependencies"),
        *("update_uid", "name_based_restores", "saveable_object_factories", "tracked_trackables", "setattr_tracking"),
    )
)
"""Attributes of layers in which TensorFlow keeps an account of its own of what they have."""


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

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        if keras.backend.backend() != "torch":
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = importlib.import_module("torch").no_grad()
        return context

    def numpy(self, variable: TensorLike) -> np.ndarray[Any, Any]:
        return np.asarray(keras.ops.convert_to_numpy(variable))

    def node_type(self) -> Any:
        return Node

    def linked_operations(self, node: Any) -> list[Any]:
        return [node.operation, *(x._keras_history.operation for x in node.arguments.keras_tensors)]

    def mend_node(self, node: Any) -> None:
        _as_dense(node.arguments.keras_tensors, node.outputs)

    def own_variables(self, layer: Any) -> list[Any]:
        return [*layer._trainable_variables, *layer._non_trainable_variables]

    def symbol(self, shape: Sequence[int | None], dtype: str) -> Any:
        return keras.KerasTensor(tuple(shape), dtype)

    def build(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # As a call does first: that takes a fraction of its time.
        layer._maybe_build(CallSpec(layer._call_signature, layer._call_context_args, args, kwargs))

    def symbolic_call(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        results = super().symbolic_call(op, args, kwargs)
        _as_dense(tree.flatten((args, kwargs)), results)
        return results

    def unnoticed(self) -> contextlib.AbstractContextManager[Any]:
        return put_back(global_state.get_global_attribute("object_name_uids", {}))

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


def _as_dense(given: Sequence[Any], results: Sequence[Any]) -> None:
    """Marks symbolic tensors of Keras 3 as dense that were made of dense ones.

    Keras 3.15 takes a product with a constant for a sparse tensor, on which it cannot build a custom layer.
    """
    if not any(getattr(x, "sparse", False) for x in given):
        for x in results:
            x._sparse = False


def loaded_families() -> list[Family]:
    """Keras 3, and tf_keras where it has been imported: this package never imports it itself."""
    package = sys.modules.get("tf_keras")
    return [_Keras3(), *([] if package is None else [TfKeras(package)])]


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
        return TfKeras(package)
    raise UnsupportedModelError(
        "Expected a keras.Model or tf_keras.Model. "
        f"Received: {model!r} (of type {type(model).__module__}.{type(model).__name__})."
    )


def producing_layer(tensor: SymbolicTensor) -> Any:
    """The operation that a symbolic tensor comes from; in tf_keras it is a layer."""
    history = tensor._keras_history
    return history.operation if hasattr(history, "operation") else history.layer
