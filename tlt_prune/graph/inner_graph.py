"""The graph of an opened layer, from what Keras recorded of it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.models.functional import Functional

from tlt_prune.graph.classes import keras_model_base
from tlt_prune.graph.family import Family
from tlt_prune.graph.inner_ops import Assigned, ConvTranspose, OwnVariable, ToBatch
from tlt_prune.graph.reader import Call, Graph, Tensor

new_keys = itertools.count(1)
"""Keys of tensors that no model has; negated, so that they are no `id`."""

_SIZES = {"BroadcastTo": "shape", "Tile": "repeats", "Repeat": "repeats", "Slice": "shape"}
"""Operations -> their attribute that holds sizes."""


class CannotOpenError(Exception):
    """A layer that cannot be opened; the text says why."""


class OpenReshapeError(CannotOpenError):
    """A reshape of which nobody knows whether the batch stays as it is; with sizes assumed it shows."""


class Sizes:
    """Stand-ins for sizes that a model leaves open, where a layer insists on knowing them.

    Args:
        primes: axis -> a prime that divides no other size, so that what was computed from it shows.
        batch_factor: the batch is that many times its prime: some layers divide it, by a number of windows for example.
        lenient: whether a reshape of which nobody knows whether the batch stays as it is counts as one where it does.
    """

    def __init__(self, primes: Mapping[int, int], batch_factor: int = 1, *, lenient: bool = False) -> None:
        self._primes, self.lenient = dict(primes), lenient
        self._sizes = {axis: prime * (1 if axis else batch_factor) for axis, prime in primes.items()}

    def assumed(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """A shape with stand-ins in the place of open sizes."""
        return tuple(self._sizes.get(axis) if size is None else size for axis, size in enumerate(shape))

    def known(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """A shape with None in the place of what was computed from a stand-in."""
        return tuple(None if self._is_assumed(x) else x for x in shape)

    def show_in(self, structure: Any) -> bool:
        """Whether something that is no tensor was computed from a stand-in: a number, or an array of such a size."""
        flat = [x for x in tree.flatten(structure) if not isinstance(x, Tensor)]
        return any(self._is_assumed(x) or any(map(self._is_assumed, tuple(getattr(x, "shape", ())))) for x in flat)

    def without_copies(self, value: Any) -> Any:
        """An array with one row in the place of as many equal ones as a batch was assumed to have; anything else as it is."""
        shape = tuple(getattr(value, "shape", ()))
        if isinstance(value, Tensor) or not shape or not self._is_assumed(shape[0]):
            return value
        rows = np.asarray(keras.ops.convert_to_numpy(value))
        return keras.ops.convert_to_tensor(rows[:1]) if (rows == rows[:1]).all() else value

    def _is_assumed(self, size: object) -> bool:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            return False
        return bool(size > 0) and any(int(size) % prime == 0 for prime in self._primes.values())


class Tensors:
    """Symbolic tensors -> `Tensor`, with keys that nothing else has."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._tensors: dict[int, tuple[Any, Tensor]] = {}

    def __call__(self, x: Any) -> Tensor:
        if id(x) not in self._tensors:
            if getattr(x.shape, "rank", 0) is None:
                raise CannotOpenError("it makes a tensor with an unknown number of axes")
            # The symbol is kept: an `id` is its own only while it lives.
            dtype = keras.backend.standardize_dtype(x.dtype)
            self._tensors[id(x)] = (x, Tensor(-next(new_keys), self.sizes.known(tuple(x.shape)), dtype))
        return self._tensors[id(x)][1]


class Builder:
    """Calls from nodes."""

    def __init__(
        self,
        call: Call,
        family: Family,
        tensors: Tensors,
        names: Mapping[int, str],
        like: Tensor | None,
        variables: Collection[int] = (),
    ) -> None:
        self._outer, self._family, self._tensors, self._names, self._like = call, family, tensors, names, like
        self._variables = variables
        """`id` of each variable that stands in the arguments itself."""
        self._calls: list[Call] = []
        self._counts: dict[str, int] = {}
        self.runnable = True
        """Whether each operation runs with any sizes."""

    def add(self, node: Any) -> None:
        op, args, kwargs = self._family.node_call(node)
        args, kwargs = tree.map_structure(lambda x: self._tensors(x) if self._is_symbol(x) else x, (args, kwargs))
        args, kwargs = tree.map_structure(self._tensors.sizes.without_copies, (args, kwargs))
        outputs = tuple(self._tensors(x) for x in tree.flatten(node.outputs))
        if self._family.name == "keras" and not isinstance(op, keras.layers.Layer):
            op = _in_plain_numbers(op)
            new, args = self._runnable(op, args, outputs, same_batch=_same_batch(node))
            if new is op:
                attributes = [x for key, x in vars(op).items() if not key.startswith("_")]
                self.runnable &= not self._tensors.sizes.show_in((args, kwargs, attributes))
            op = new
        self._calls.append(Call(op, inner_path(self._outer.path, self._name(op)), args, kwargs, outputs, None))

    def _is_symbol(self, x: Any) -> bool:
        return self._family.is_tensor(x) or id(x) in self._variables

    def add_assignment(self, variable: Call, value: Any) -> None:
        if isinstance(value, keras.KerasTensor):
            op = Assigned(variable.op)
            self._calls.append(Call(op, inner_path(self._outer.path, self._name(op)), (self._tensors(value),), {}, (), None))

    def _name(self, op: Any) -> str:
        """An attribute's name for a layer; for an operation its kind, with a number: both are the same in a rebuilt layer."""
        if id(op) in self._names:
            return self._names[id(op)]
        # tf_keras has one class for all functions.
        kind = getattr(op, "symbol", type(op).__name__).lower().replace(".", "_")
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return kind if self._counts[kind] == 1 else f"{kind}_{self._counts[kind]}"

    def _runnable(
        self, op: Any, args: tuple[Any, ...], outputs: tuple[Tensor, ...], *, same_batch: bool | None
    ) -> tuple[Any, tuple[Any, ...]]:
        """An operation that was recorded with sizes that are known only when it runs, as one that runs with any."""
        kind = type(op).__name__
        if kind == "ConvTranspose":
            return ConvTranspose(op), args
        if getattr(op, "data_format", "") is None:
            # Some of Keras' operations take the default when they are recorded, but not when they run.
            return type(op).from_config({**op.get_config(), "data_format": keras.config.image_data_format()}), args
        if kind == "Reshape":
            return self._reshape(op, outputs[0].shape, same_batch=same_batch), args
        sizes = self._tensors.sizes.known(_as_tuple(getattr(op, _SIZES[kind]))) if kind in _SIZES else ()
        if None in sizes:
            given = args[0].shape
            rest = _repeated(kind, given[1:], sizes)
            of_one = given[:1] == (1,) or len(given) < len(sizes)
            if sizes[0] is None and rest is not None and None not in rest and of_one and self._like is not None:
                return ToBatch(rest), (args[0], self._like)
            self.runnable = False
        return op, args

    def _reshape(self, op: Any, shape: tuple[int | None, ...], *, same_batch: bool | None) -> Any:
        new = self._tensors.sizes.known(_as_tuple(op.newshape))
        if None not in new:
            return op
        # With -1 beside it, the shape of what comes out says the rest.
        target = shape if -1 in new or new.count(None) > 1 else new
        if target.count(None) == 1:
            return type(op)(tuple(-1 if x is None else x for x in target), name=op.name)
        if target.count(None) == 2 and target[0] is None and same_batch is not False:
            if same_batch is None and not self._tensors.sizes.lenient:
                raise OpenReshapeError("it reshapes with sizes that are open")
            return keras.layers.Reshape([-1 if x is None else x for x in target[1:]], name=op.name)
        self.runnable = False
        return op

    def finish(self, call: Call, inputs: Sequence[Tensor], outputs: Sequence[Tensor], variables: Sequence[Call]) -> Graph:
        """The graph of what the outputs depend on."""
        needed = {x.key for x in outputs}
        kept: list[Call] = []
        for inner in reversed([*variables, *self._calls]):
            if isinstance(inner.op, Assigned) or any(x.key in needed for x in inner.outputs):
                needed.update(x.key for x in inner.inputs)
                kept.append(inner)
        made = {x.key for x in inputs} | {x.key for inner in kept for x in inner.outputs}
        if not needed <= made:
            raise CannotOpenError("it uses symbolic tensors from elsewhere")
        return Graph(
            model=call.op,
            family=self._family,
            inputs=list(inputs),
            outputs=list(outputs),
            input_ops=(None,) * len(inputs),
            calls=tuple(reversed(kept)),
            opened=True,
            runnable=self.runnable,
        )


def _same_batch(node: Any) -> bool | None:
    """Whether what a node returns has the batch of what it is given; None where both are open."""
    given = [x.shape[0] for x in node.arguments.keras_tensors[:1] if x.shape]
    made = node.outputs[0].shape[0] if node.outputs[0].shape else None
    return given == [made] if made is not None or given != [None] else None


def is_of_layers(layer: Any) -> bool:
    """Whether a layer is a model whose `call` runs through its layers."""
    return isinstance(layer, (keras.Sequential, Functional)) and keras_model_base(layer) is not None


def inner_path(path: str, name: str) -> str:
    """The path of something inside; a model itself has none."""
    return f"{path}/{name}" if path else name


def own_variable_call(
    outer: Call, owner_and_index: tuple[Any, int], variable: Any, attribute: str, tensor: Tensor, names: Mapping[int, str]
) -> Call:
    """What stands for a variable that an opened layer reads itself.

    Args:
        outer: the call of the opened layer.
        owner_and_index: the layer that made it, and its position among the weights of that layer.
        variable: itself.
        attribute: the attribute that holds it, which a rebuilt layer has too, whatever the variable is called.
        tensor: as which it is read.
        names: see `layer_names`.
    """
    owner, index = owner_and_index
    name = f"{names[id(owner)]}/{attribute}" if id(owner) in names else attribute
    op = OwnVariable(owner, index, variable, name, tensor.dtype)
    return Call(op, inner_path(outer.path, name), (), {}, (tensor,), None)


def layer_names(layer: Any, family: Family) -> dict[int, str]:
    """`id` of each layer inside -> the attributes that lead to it, joined by "/"."""
    names: dict[int, str] = {}
    pending: list[tuple[str, Any]] = [("", layer)]
    while pending:
        prefix, holder = pending.pop(0)
        entries = holder
        if is_of_layers(holder):
            entries = holder.layers
        elif family.is_layer(holder):
            entries = vars(holder)
            if keras.backend.backend() == "torch":
                # It keeps layers apart from other attributes.
                entries = {**entries, **entries.get("_modules", {})}
        pairs = entries.items() if isinstance(entries, dict) else enumerate(entries)
        for key, value in pairs:
            hidden = isinstance(key, str) and key.startswith("_") and isinstance(value, (list, dict))
            path = f"{prefix}{str(key).strip('_')}"
            if family.is_layer(value):
                if id(value) not in names and value is not layer:
                    names[id(value)] = path
                    pending.append((f"{path}/", value))
            elif isinstance(value, (list, tuple, dict)) and not hidden:
                pending.append((f"{path}/", value))
    return names


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _repeated(kind: str, shape: tuple[Any, ...], sizes: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The shape behind the batch axis of what a repetition along that axis returns; None where it is none."""
    if kind == "BroadcastTo":
        return sizes[1:]
    if kind == "Tile" and None not in (*shape, *sizes[1:]):
        return tuple(n * times for n, times in zip(shape, sizes[1:], strict=True))
    return shape if kind == "Repeat" and len(sizes) == 1 else None


def _in_plain_numbers(op: Any) -> Any:
    """An operation that Keras can write down: of Python's numbers where it was given NumPy's."""
    try:
        op.get_config()
    # Keras says so in several ways.
    except Exception:  # noqa: BLE001
        names = [name for name in inspect.signature(type(op).__init__).parameters if name != "self" and hasattr(op, name)]
        given = {name: tree.map_structure(_plain_number, getattr(op, name)) for name in names}
        return type(op)(**given)
    return op


def _plain_number(value: object) -> object:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return keras.ops.convert_to_numpy(value).tolist() if keras.ops.is_tensor(value) else value
