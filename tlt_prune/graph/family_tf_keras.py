"""tf_keras: see `family`. It is handed over as an object, and never imported."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from tlt_prune.graph.classes import keras_model_base
from tlt_prune.graph.family_base import Family, put_back
from tlt_prune.graph.types import KerasModel, Layer, SymbolicTensor, TensorLike, Variable


class TfKeras(Family):
    """That of the package `tf_keras`."""

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

    def node_type(self) -> Any:
        return self._package.src.engine.node.Node

    def linked_operations(self, node: Any) -> list[Any]:
        return [node.layer, *(x._keras_history.layer for x in node.keras_inputs)]

    def own_variables(self, layer: Any) -> list[Any]:
        return [*layer._trainable_weights, *layer._non_trainable_weights]

    def symbol(self, shape: Sequence[int | None], dtype: str) -> Any:
        return self._package.Input(batch_shape=tuple(shape), dtype=dtype)

    def build(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer(*args, **kwargs)

    def unnoticed(self) -> contextlib.AbstractContextManager[Any]:
        backend = self._package.src.backend
        return put_back(backend.get_default_graph_uid_map())

    def _serialization(self) -> Any:
        return self._package.src.saving.serialization_lib

    def weights(self, op: Layer) -> list[Variable]:
        # Lookup layers count their vocabulary, which is no array, among them.
        return [x for x in op.weights if hasattr(x, "shape")]

    def numpy(self, variable: TensorLike) -> np.ndarray[Any, Any]:
        return np.asarray(variable)


_TF_OPS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")


def _is_tf_op(op: object) -> bool:
    return type(op).__name__ in _TF_OPS and type(op).__module__.startswith("tf_keras.")
