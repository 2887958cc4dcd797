"""A Keras model, read once into plain data. The only reader of Keras' private attributes.

Keras records a model as nodes on its operations. Two facts decide how it is read: an operation's own
node list also holds calls made outside the model, so only the model's `_nodes_by_depth` counts; and
raw operations (`x + y`, `keras.ops.*`) are not in `model.layers` but are in the nodes.

tf_keras keeps the same structure under other names; `_TfKeras` reads those. Everything that needs to know
which of the two a model belongs to asks its `Family`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.models.functional import Functional, functional_like_constructor

from tlt_prune.errors import UnsupportedModelError


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A symbolic tensor of the model: `shape` includes the batch axis, None where unknown."""

    key: int
    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation.

    Attributes:
        op: the layer or raw operation object. It may appear in several calls.
        path: layer names from the outermost model down, joined by "/".
        args, kwargs: what it was called with; symbolic tensors appear as `Tensor`.
        outputs: its results, flat.
        inner: the graph behind `op`, when `op` is itself a model, or applies one to every step of a sequence.
        over_time: the latter.
    """

    op: Any
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    inner: Graph | None
    over_time: bool

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(x for x in tree.flatten((self.args, self.kwargs)) if isinstance(x, Tensor))


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A model as an ordered list of calls; every tensor is made before it is used.

    Attributes:
        model: the model read.
        inputs, outputs: structures (tensor, list, tuple or dict) of `Tensor`.
        input_ops: the InputLayer behind each flat input, or None where there is none.
        calls: in topological order.
    """

    model: Any
    family: Family
    inputs: Any
    outputs: Any
    input_ops: tuple[Any, ...]
    calls: tuple[Call, ...]

    @property
    def flat_inputs(self) -> list[Tensor]:
        return list(tree.flatten(self.inputs))

    @property
    def flat_outputs(self) -> list[Tensor]:
        return list(tree.flatten(self.outputs))

    def walk(self) -> Iterator[Call]:
        """All calls, those inside nested models included, once each."""
        seen: set[int] = set()
        pending = [self]
        while pending:
            graph = pending.pop()
            if id(graph) in seen:
                continue
            seen.add(id(graph))
            for call in graph.calls:
                yield call
                if call.inner is not None:
                    pending.append(call.inner)


class Family:
    """What differs between Keras 3 and tf_keras, and nothing else."""

    name: str

    def is_tensor(self, value: Any) -> bool:
        raise NotImplementedError

    def is_layer(self, op: Any) -> bool:
        raise NotImplementedError

    def functional(self, model: Any) -> Any | None:
        """The functional graph behind `model`, or None when it has none."""
        raise NotImplementedError

    def is_model(self, op: Any) -> bool:
        raise NotImplementedError

    def is_sequential(self, op: Any) -> bool:
        raise NotImplementedError

    def node_call(self, node: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """(operation, args, kwargs) of a node."""
        raise NotImplementedError

    def structures(self, functional: Any) -> tuple[Any, Any]:
        """(inputs, outputs) of a functional model, as structures of symbolic tensors."""
        raise NotImplementedError

    def input_op(self, tensor: Any) -> Any | None:
        raise NotImplementedError

    def namespace(self) -> Any:
        """The package: `keras` or `tf_keras`."""
        raise NotImplementedError

    def constructor(self, model: Any) -> Callable[..., Any]:
        """What builds a model of the same kind from inputs, outputs and name."""
        raise NotImplementedError

    def weights(self, op: Any) -> list[Any]:
        """The variables of a layer, those of the layers in it included."""
        return list(op.weights)

    def numpy(self, variable: Any) -> np.ndarray[Any, Any]:
        raise NotImplementedError

    def rebuild_lambda(self, op: Any) -> Any:
        """A new Lambda around the same function: Python functions do not survive a configuration."""
        raise NotImplementedError


class _Keras3(Family):
    name = "keras"

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, keras.KerasTensor)

    def is_layer(self, op: Any) -> bool:
        return isinstance(op, keras.layers.Layer)

    def functional(self, model: Any) -> Any | None:
        if isinstance(model, keras.Sequential):
            return model._functional
        return model if isinstance(model, Functional) else None

    def is_model(self, op: Any) -> bool:
        return isinstance(op, keras.Model)

    def is_sequential(self, op: Any) -> bool:
        return isinstance(op, keras.Sequential)

    def node_call(self, node: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return node.operation, tuple(node.arguments.args), dict(node.arguments.kwargs)

    def structures(self, functional: Any) -> tuple[Any, Any]:
        return functional._inputs_struct, functional._outputs_struct

    def input_op(self, tensor: Any) -> Any | None:
        op = tensor._keras_history.operation
        return op if isinstance(op, keras.layers.InputLayer) else None

    def namespace(self) -> Any:
        return keras

    def constructor(self, model: Any) -> Callable[..., Any]:
        return type(model) if functional_like_constructor(type(model)) else keras.Model

    def numpy(self, variable: Any) -> np.ndarray[Any, Any]:
        return np.asarray(keras.ops.convert_to_numpy(variable))

    def rebuild_lambda(self, op: Any) -> Any:
        return keras.layers.Lambda(
            op.function,
            output_shape=op._output_shape,
            mask=op.mask,
            arguments=op.arguments,
            name=op.name,
            dtype=op.dtype_policy,
            trainable=op.trainable,
        )


class _TfKeras(Family):
    name = "tf_keras"

    def __init__(self, package: Any) -> None:
        self._package = package

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, self._package.src.engine.keras_tensor.KerasTensor)

    def is_layer(self, op: Any) -> bool:
        # `tf.add(x, y)` on a symbolic tensor becomes a layer that only wraps the function.
        return not _is_tf_op(op)

    def functional(self, model: Any) -> Any | None:
        functional = self._package.src.engine.functional.Functional
        if isinstance(model, functional) and getattr(model, "_nodes_by_depth", None):
            return model
        return None

    def is_model(self, op: Any) -> bool:
        return isinstance(op, self._package.Model)

    def is_sequential(self, op: Any) -> bool:
        return isinstance(op, self._package.Sequential)

    def node_call(self, node: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return node.layer, tuple(node.call_args), dict(node.call_kwargs)

    def structures(self, functional: Any) -> tuple[Any, Any]:
        return functional._nested_inputs, functional._nested_outputs

    def input_op(self, tensor: Any) -> Any | None:
        op = tensor._keras_history.layer
        return op if isinstance(op, self._package.layers.InputLayer) else None

    def namespace(self) -> Any:
        return self._package

    def constructor(self, model: Any) -> Callable[..., Any]:
        build: Callable[..., Any] = self._package.Model
        return build

    def weights(self, op: Any) -> list[Any]:
        # Lookup layers count their vocabulary, which is no array, among them.
        return [x for x in op.weights if hasattr(x, "shape")]

    def numpy(self, variable: Any) -> np.ndarray[Any, Any]:
        return np.asarray(variable)

    def rebuild_lambda(self, op: Any) -> Any:
        return self._package.layers.Lambda(
            op.function,
            output_shape=op._output_shape,
            mask=op.mask,
            arguments=op.arguments,
            name=op.name,
            dtype=op.dtype_policy if hasattr(op, "dtype_policy") else op.dtype,
            trainable=op.trainable,
        )


_TF_OPS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")


def _is_tf_op(op: Any) -> bool:
    return type(op).__name__ in _TF_OPS and type(op).__module__.startswith("tf_keras.")


def family_of(model: Any) -> Family:
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


def read(model: Any) -> Graph:
    """Reads a functional or Sequential model, nested models included.

    Raises:
        UnsupportedModelError: the model has no graph: it is subclassed, or not built yet.
    """
    family = family_of(model)
    return _read(model, family, prefix="", memo={})


def _read(model: Any, family: Family, prefix: str, memo: dict[int, Graph]) -> Graph:
    if id(model) in memo:
        return memo[id(model)]
    functional = family.functional(model)
    if functional is None:
        raise UnsupportedModelError(_no_graph(model, family))
    to_tensor = _TensorMap(family)
    inputs, outputs = family.structures(functional)
    flat_inputs = tree.flatten(inputs)
    calls = []
    for node in _nodes(functional):
        op, args, kwargs = family.node_call(node)
        over_time = type(op).__name__ == "TimeDistributed"
        calls.append(
            Call(
                op=op,
                path=f"{prefix}{op.name}",
                args=to_tensor(args),
                kwargs=to_tensor(kwargs),
                outputs=tuple(tree.flatten(to_tensor(node.outputs))),
                inner=_inner(op.layer if over_time else op, family, f"{prefix}{op.name}/", memo),
                over_time=over_time,
            )
        )
    graph = Graph(
        model=model,
        family=family,
        inputs=to_tensor(inputs),
        outputs=to_tensor(outputs),
        input_ops=tuple(family.input_op(x) for x in flat_inputs),
        calls=tuple(calls),
    )
    memo[id(model)] = graph
    return graph


def _inner(op: Any, family: Family, prefix: str, memo: dict[int, Graph]) -> Graph | None:
    if not family.is_model(op) or family.functional(op) is None:
        return None
    return _read(op, family, prefix, memo)


def _nodes(functional: Any) -> Iterator[Any]:
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


class _TensorMap:
    """Replaces symbolic tensors by `Tensor` in any structure."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._known: dict[int, Tensor] = {}

    def __call__(self, structure: Any) -> Any:
        return tree.map_structure(self._one, structure)

    def _one(self, value: Any) -> Any:
        if not self._family.is_tensor(value):
            return value
        if id(value) not in self._known:
            dtype = value.dtype if isinstance(value.dtype, str) else value.dtype.name
            self._known[id(value)] = Tensor(id(value), tuple(value.shape), dtype)
        return self._known[id(value)]


def _no_graph(model: Any, family: Family) -> str:
    kind = type(model).__name__
    if family.is_sequential(model):
        return (
            f"Sequential model '{model.name}' is not built, so its layers have no shapes. "
            "Give it an Input layer, or call it once on real data, before pruning."
        )
    return (
        f"Expected a functional or Sequential model. Received: '{model.name}' of the subclassed type {kind}, "
        "which has no graph to trace. Rebuild it with the functional API: call its layers on a "
        "keras.Input and wrap the result in keras.Model(inputs, outputs)."
    )
