"""A model and what is retained of it -> a new model.

Every layer is rebuilt from its own configuration, with the entries that count channels replaced, and
called as the original graph calls it; its variables are made with their cut values. The model that was given
is only read.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.errors import PlanError, UnsupportedModelError
from tlt_prune.graph.channel_graph import ChannelGraph, Edit, resolve
from tlt_prune.graph.classes import is_keras_class
from tlt_prune.graph.family import all_layers
from tlt_prune.graph.labels import Alive, kept_shape
from tlt_prune.graph.reader import Call, Graph, Tensor, matches, nearest_name
from tlt_prune.pruning.rebuild import cut_initialiser, rebuild

Overrides = Mapping[str, Mapping[str, Any]]


def rewrite(channels: ChannelGraph, alive: Alive, overrides: Overrides | None = None) -> Any:
    """Builds the pruned model.

    Args:
        channels: the traced model.
        alive: `(n_labels,)`, True where the channel is retained.
        overrides: layer name, path or shell pattern -> configuration entries that replace the layer's own.

    Returns:
        A model of the same family, class, names, dtype policies and compile state.

    Raises:
        PlanError: an override names no layer, or an entry that its layer's configuration lacks.
        UnsupportedModelError: a layer cannot be rebuilt from its configuration.
    """
    return rewrite_with_layers(channels, alive, overrides)[0]


def rewrite_with_layers(channels: ChannelGraph, alive: Alive, overrides: Overrides | None = None) -> tuple[Any, dict[int, Any]]:
    """`rewrite`, and the new layer of each old one, by the old one's `id`."""
    rewriter = _Rewriter(channels, alive, overrides or {})
    model = rewriter.run()
    return model, rewriter.new_layers()


class _Rewriter:
    def __init__(self, channels: ChannelGraph, alive: Alive, overrides: Overrides) -> None:
        self._channels = channels
        self._alive = alive
        self._family = channels.graph.family
        self._overrides = overrides
        self._ops: dict[int, tuple[Any, Any]] = {}
        self._models: dict[int, tuple[Any, Any]] = {}
        self._initialisers: list[tuple[Any, Any, dict[str, Any]]] = []
        self._config_edits = _by_target(channels.config_edits)
        self._argument_edits = _by_target(channels.argument_edits)
        self._cuts: dict[tuple[int, int], dict[int, NDArray[np.bool_]]] = {}
        for axis in channels.axes:
            keep = alive[axis.labels]
            if not keep.all():
                self._cuts.setdefault((id(axis.op), axis.index), {})[axis.axis] = keep

    def new_layers(self) -> dict[int, Any]:
        return {key: new for key, (_, new) in self._ops.items()}

    def run(self) -> Any:
        graph = self._channels.graph
        calls = list(graph.walk())
        for pattern in self._overrides:
            if not any(matches(call, pattern) for call in calls):
                near = nearest_name(pattern, {call.path for call in calls})
                raise PlanError(f"layer_config_overrides: no layer matches {pattern!r}.{near}")
        for call in calls:
            if call.inner is None and id(call.op) not in self._ops:
                self._ops[id(call.op)] = (call.op, self._rebuilt(call))
        waiting = all(_can_wait(x) for op, _ in self._ops.values() for x in (op, *all_layers(op)))
        with self._family.construction() if waiting else contextlib.nullcontext():
            new = self._model(graph)
            self._copy_weights()
        self._finish()
        _copy_compile_state(graph.model, new)
        return new

    # --- structure ---

    def _model(self, graph: Graph) -> Any:
        if id(graph) not in self._models:
            sequential = self._family.is_sequential(graph.model)
            new = self._sequential(graph) if sequential else self._functional(graph)
            self._models[id(graph)] = (graph.model, new)
        return self._models[id(graph)][1]

    def _functional(self, graph: Graph) -> Any:
        inputs = [layer.output if layer is not None else tensor for layer, tensor in self._inputs(graph)]
        known = dict(zip([x.key for x in graph.flat_inputs], inputs, strict=True))
        for call in graph.calls:
            args, kwargs = self._arguments(call, known)
            results = tree.flatten(self._op(call)(*args, **kwargs))
            known.update(zip([x.key for x in call.outputs], results, strict=True))
        return self._family.constructor(graph.model)(
            inputs=tree.pack_sequence_as(graph.inputs, inputs),
            outputs=tree.map_structure(lambda x: known[x.key], graph.outputs),
            name=graph.model.name,
        )

    def _sequential(self, graph: Graph) -> Any:
        ((first, _),) = self._inputs(graph)
        layers = [first, *(self._op(call) for call in graph.calls)]
        return self._family.namespace().Sequential(layers, name=graph.model.name)

    def _inputs(self, graph: Graph) -> list[tuple[Any, Any]]:
        """(InputLayer, None) for each input, or (None, tensor) where the model has no such layer."""
        pairs: list[tuple[Any, Any]] = []
        labels = self._channels.input_labels[id(graph)]
        for tensor, op, vector in zip(graph.flat_inputs, graph.input_ops, labels, strict=True):
            shape = kept_shape(tensor.shape, vector, self._alive)
            if op is None:
                pairs.append((None, self._family.namespace().Input(batch_shape=shape, dtype=tensor.dtype)))
                continue
            config = op.get_config()
            key = "batch_shape" if "batch_shape" in config else "batch_input_shape"
            pairs.append((type(op).from_config({**config, key: shape}), None))
        return pairs

    def _arguments(self, call: Call, known: Mapping[int, Any]) -> tuple[Any, Any]:
        args, kwargs = list(call.args), dict(call.kwargs)
        for edit in self._argument_edits.get(id(call), ()):
            if isinstance(edit.key, int) and edit.key < len(args):
                args[edit.key] = resolve(edit.value, self._alive)
            else:
                kwargs[edit.key] = resolve(edit.value, self._alive)
        new: tuple[Any, Any] = tree.map_structure(lambda x: known[x.key] if isinstance(x, Tensor) else x, (tuple(args), kwargs))
        return new

    # --- operations ---

    def _rebuilt(self, call: Call) -> Any:
        override = {key: value for pattern, x in self._overrides.items() if matches(call, pattern) for key, value in x.items()}
        new, initialisers = rebuild(call, self._family, self._config_edits.get(id(call.op), ()), self._alive, override)
        self._initialisers.append((call.op, new, initialisers))
        return new

    def _op(self, call: Call) -> Any:
        if call.inner is None:
            return self._ops[id(call.op)][1]
        model = self._model(call.inner)
        if not call.over_time:
            return model
        if id(call.op) not in self._models:
            config = {key: value for key, value in call.op.get_config().items() if key != "layer"}
            self._models[id(call.op)] = (call.op, type(call.op)(model, **config))
        return self._models[id(call.op)][1]

    # --- state ---

    def _copy_weights(self) -> None:
        for op, new in self._ops.values():
            if not self._family.is_layer(op):
                continue
            sources, targets = self._family.weights(op), self._family.weights(new)
            if len(sources) != len(targets):
                raise UnsupportedModelError(
                    f"Layer '{op.name}' of type {type(op).__name__} has {len(sources)} weights, but {len(targets)} "
                    "once rebuilt from its configuration. Expected all weights to be made in its constructor or build()."
                )
            for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
                value = self._family.numpy(source)
                for axis, keep in self._cuts.get((id(op), index), {}).items():
                    value = np.compress(keep, value, axis=axis)
                if value.shape != tuple(target.shape):
                    raise UnsupportedModelError(
                        f"Layer '{op.name}' of type {type(op).__name__} has a weight of shape {tuple(target.shape)} once "
                        f"rebuilt from its configuration, instead of {value.shape}. "
                        "Expected get_config() to say what the weight's size follows from."
                    )
                self._family.give(target, value)

    def _finish(self) -> None:
        """What the new model takes over once its variables have values."""
        for op, new, initialisers in self._initialisers:
            for key, initialiser in initialisers.items():
                setattr(new, key, self._cut_initialiser(op, key, initialiser))
            if hasattr(new, "finalize_state") and self._family.weights(new):
                # Normalization computes with constants that it derives from its weights when they are loaded.
                new.finalize_state()
        # A model's flag reaches all its layers when set, so the models go first, the outermost last
        # built but first set, and the layers' own flags after them.
        for old, new in reversed(list(self._models.values())):
            if not old.trainable:
                new.trainable = False
        for op, layer in self._ops.values():
            if self._family.is_layer(op) and layer.trainable != op.trainable:
                layer.trainable = op.trainable

    def _cut_initialiser(self, op: Any, key: str, initialiser: Any) -> Any:
        variable = getattr(op, key.removesuffix("_initializer"), None)
        cuts = [self._cuts.get((id(op), i), {}) for i, weight in enumerate(self._family.weights(op)) if weight is variable]
        return cut_initialiser(initialiser, len(variable.shape), cuts[0]) if variable is not None and cuts else initialiser


def _can_wait(op: Any) -> bool:
    """Whether a layer makes its variables from initialisers: custom layers may not, and recurrent states are made from values."""
    return is_keras_class(type(op)) and not getattr(op, "stateful", False)


def _by_target(edits: Iterable[Edit]) -> dict[int, list[Edit]]:
    found: dict[int, list[Edit]] = {}
    for edit in edits:
        found.setdefault(id(edit.target), []).append(edit)
    return found


def _copy_compile_state(old: Any, new: Any) -> None:
    config = old.get_compile_config() if getattr(old, "compiled", getattr(old, "_is_compiled", False)) else None
    if not config:
        return
    try:
        new.compile_from_config(config)
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"The pruned model is not compiled: the compile arguments of '{old.name}' cannot be copied ({error}). "
            "Call compile() on it.",
            stacklevel=2,
        )
