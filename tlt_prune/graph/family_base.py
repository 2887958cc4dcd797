"""What has to be known of a Keras: see `family`."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import keras
import numpy as np
from keras import tree

from tlt_prune.graph.classes import keras_base
from tlt_prune.graph.types import KerasModel, Layer, Operation, SymbolicTensor, TensorLike, Variable


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

    def node_type(self) -> Any:
        """The class of nodes."""
        raise NotImplementedError

    def linked_operations(self, node: Any) -> list[Any]:
        """The operations that know of a node: its own, and those that made what it is called on."""
        raise NotImplementedError

    def mend_node(self, node: Any) -> None:
        """Puts right what Keras records wrongly."""

    def own_variables(self, layer: Any) -> list[Any]:
        """The variables that a layer made, without those of layers inside."""
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

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """While operations run, nothing is kept for their gradients."""
        return contextlib.nullcontext()

    def infer(self, op: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        """The results of an operation as its model, called with `training=False`, computes them."""
        # Keras 3 records the default of random layers, which is to train, and its models override it.
        if self.is_layer(op) and "training" in inspect.signature(op.call).parameters:
            kwargs = {**kwargs, "training": False} if self.name == "keras" else {"training": False, **kwargs}
        with self.without_gradients():
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


@contextlib.contextmanager
def put_back(counters: dict[str, Any]) -> Iterator[None]:
    """Counters as they were, in the end."""
    before = dict(counters)
    try:
        yield
    finally:
        counters.clear()
        counters.update(before)


def dtype_name(tensor: Any) -> str:
    """The type of a symbolic tensor: Keras 3 has its name, tf_keras an object with one."""
    return tensor.dtype if isinstance(tensor.dtype, str) else str(tensor.dtype.name)


def as_array(value: object) -> np.ndarray[Any, Any]:
    """A tensor of any family and backend as an array. PyTorch's may be on a GPU, or wait for gradients."""
    return np.asarray(keras.ops.convert_to_numpy(value) if hasattr(value, "detach") else value)


def all_layers(layer: Operation) -> list[Any]:
    """The layers in a model or layer, to any depth, without itself."""
    return list(layer._flatten_layers(include_self=False)) if hasattr(layer, "_flatten_layers") else []
