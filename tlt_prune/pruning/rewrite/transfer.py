"""The weights of a model -> those of the rewritten one: each is given exactly once, or an error names what was not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import UnsupportedModelError
from tlt_prune.graph import Alive, ChannelGraph, Graph, KerasModel, Layer, Variable, is_keras_class
from tlt_prune.graph.rebuild import layer_pairs


class Transfer:
    """Pairs the variables of old and new layers, and cuts the values on their way.

    Args:
        channels: the traced model.
        alive: `(n_labels,)`, True where the channel is retained.
    """

    def __init__(self, channels: ChannelGraph, alive: Alive) -> None:
        self._family = channels.graph.family
        self._cuts: dict[int, dict[int, NDArray[np.bool_]]] = {}
        """`id` of an old variable -> axis -> what is retained there."""
        for axis in channels.axes:
            keep = alive[axis.labels]
            if not keep.all():
                variable = self._family.weights(axis.op)[axis.index]
                self._cuts.setdefault(id(variable), {})[axis.axis] = keep
        self._pairs: dict[int, tuple[Variable, Variable]] = {}
        """`id` of an old variable -> itself and the new one."""
        self._source: dict[int, int] = {}
        """`id` of a new variable -> that of the old one."""
        self._late: list[tuple[Variable, Callable[[], NDArray[Any]]]] = []

    def cuts_of(self, variable: Variable) -> dict[int, NDArray[np.bool_]]:
        """Axis -> `(size,)` booleans for each axis of a variable of which something is removed."""
        return self._cuts.get(id(variable), {})

    def cut(self, variable: Variable, value: NDArray[Any]) -> NDArray[Any]:
        """What is retained of an array of the shape of a variable."""
        for axis, keep in self.cuts_of(variable).items():
            value = np.compress(keep, value, axis=axis)
        return value

    def new_variables(self) -> dict[int, Variable]:
        """`id` of an old variable -> the new one, which may be flat (see `give_flat`)."""
        return {key: target for key, (_, target) in self._pairs.items()}

    def begin(self, layers: Iterable[tuple[Any, Any]]) -> None:
        """Says what the variables that wait for a value will start with, and remembers the others for `finish`.

        Args:
            layers: (old, new).

        Raises:
            UnsupportedModelError: a layer has other weights than it had, or they are no longer shared as they were.
        """
        for op, new in layers:
            if self._family.is_layer(op):
                self._pair(op, new)

    def _pair(self, op: Layer, new: Layer) -> None:
        sources, targets = self._family.weights(op), self._family.weights(new)
        if len(sources) != len(targets):
            # What a layer holds but never calls was built by somebody else.
            for old, layer in layer_pairs(op, new):
                if old.built and not layer.built:
                    layer.build_from_config(old.get_build_config())
            targets = self._family.weights(new)
        if len(sources) != len(targets):
            raise UnsupportedModelError(
                f"{_named(op)} has {len(sources)} weights, but {len(targets)} once rebuilt from its configuration. "
                "Expected all weights to be made in its constructor or build()."
            )
        for source, target in zip(sources, targets, strict=True):
            cuts = self.cuts_of(source)
            self._check_shape(op, source, target, cuts)
            self._give(op, source, target)
            frozen = isinstance(source, keras.Variable) and not source.trainable and op.trainable
            if frozen and isinstance(target, keras.Variable):
                # One that was frozen by itself, which no configuration says.
                target.trainable = False
        for source, target in zip(self._family.seeds(op), self._family.seeds(new), strict=False):
            self._give(op, source, target)

    def give_flat(self, op: Layer, source: Variable, target: Variable) -> None:
        """The values of a variable for one of another shape that has as many entries."""
        self._give(op, source, target)

    def _check_shape(self, op: Layer, source: Variable, target: Variable, cuts: dict[int, NDArray[np.bool_]]) -> None:
        expected = tuple(int(cuts[axis].sum()) if axis in cuts else size for axis, size in enumerate(source.shape))
        if expected != tuple(target.shape):
            raise UnsupportedModelError(
                f"{_named(op)} has a weight of shape {tuple(target.shape)} once rebuilt from its configuration, instead of "
                f"{expected}. Expected get_config() to say what the weight's size follows from."
            )

    def _give(self, op: Layer, source: Variable, target: Variable) -> None:
        if id(source) not in self._pairs and id(target) not in self._source:
            self._pairs[id(source)], self._source[id(target)] = (source, target), id(source)

            def value() -> NDArray[Any]:
                return self.cut(source, self._family.numpy(source)).reshape(target.shape)

            if not self._family.start(target, value):
                self._late.append((target, value))
        elif self._source.get(id(target)) != id(source):
            raise UnsupportedModelError(
                f"{_named(op)} shares the weight '{_path(source)}' with another layer, but would not once rebuilt from its "
                "configuration. Expected get_config() to hold the layer that it shares with, by "
                "keras.saving.serialize_keras_object(layer)."
            )

    def finish(self, graph: Graph, new: KerasModel, added: Iterable[Variable] = ()) -> None:
        """Gives the other variables their values, once the new model is whole, and counts.

        Args:
            graph: of the original.
            new: what became of it.
            added: variables of the new model that the original has none for.

        Raises:
            UnsupportedModelError: a weight of either model has no partner in the other.
        """
        for target, value in self._late:
            target.assign(value())
        # What a model of the user's own class has beside its graph.
        model, unused = graph.model, {id(v) for v in graph.unused}
        rest = [v for v in self._family.weights(model) if id(v) not in self._pairs and id(v) not in unused]
        given = self._source.keys() | {id(v) for v in added}
        more = [v for v in self._family.weights(new) if id(v) not in given]
        if type(new) is type(model) and [tuple(v.shape) for v in rest] == [tuple(v.shape) for v in more]:
            for source, target in zip(rest, more, strict=True):
                target.assign(self._family.numpy(source))
        elif more or (rest and type(new) is type(model)):
            raise UnsupportedModelError(
                f"'{model.name}' has {len(rest)} weights that its layers do not use ({_paths(rest)}), and {len(more)} once "
                f"rebuilt ({_paths(more)}). Expected its class {type(model).__name__} to make as many, of the same shapes, from "
                "what get_config() returns."
            )


def _named(op: Layer) -> str:
    """A layer, and who can mend it."""
    kind = "Keras' own" if is_keras_class(type(op)) else "custom"
    return f"Layer '{op.name}' of the {kind} type {type(op).__name__}"


def _path(variable: Variable) -> str:
    return str(getattr(variable, "path", variable.name))


def _paths(variables: Sequence[Variable]) -> str:
    return ", ".join(_path(v) for v in variables[:3]) or "none"
