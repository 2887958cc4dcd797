"""A model and what is retained of it -> a new model.

Every layer is rebuilt from its own configuration, with the entries that count channels replaced, and
called as the original graph calls it; then its weights are cut and copied. The model that was given
is only read.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.errors import PlanError, UnsupportedModelError
from tlt_prune.graph.channels import Alive, ChannelGraph, Edit, kept_shape
from tlt_prune.graph.reader import Call, Graph, Tensor

Overrides = Mapping[str, Mapping[str, Any]]


def rewrite(channels: ChannelGraph, alive: Alive, overrides: Overrides | None = None) -> Any:
    """Builds the pruned model.

    Args:
        channels: the traced model.
        alive: `(n_labels,)`, True where the channel is retained.
        overrides: layer name -> configuration entries that replace the layer's own.

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
        self._initialisers: list[tuple[Any, str, Any]] = []
        self._config_edits = _by_target(channels.config_edits)
        self._argument_edits = _by_target(channels.argument_edits)

    def new_layers(self) -> dict[int, Any]:
        return {key: new for key, (_, new) in self._ops.items()}

    def run(self) -> Any:
        _check_override_names(self._overrides, {call.op.name for call in self._channels.graph.walk()})
        graph = self._channels.graph
        new = self._model(graph)
        for layer, key, initialiser in self._initialisers:
            setattr(layer, key, initialiser)
        self._copy_weights()
        self._copy_trainable()
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
                args[edit.key] = edit.value(self._alive)
            else:
                kwargs[edit.key] = edit.value(self._alive)
        new: tuple[Any, Any] = tree.map_structure(lambda x: known[x.key] if isinstance(x, Tensor) else x, (tuple(args), kwargs))
        return new

    # --- operations ---

    def _op(self, call: Call) -> Any:
        if call.inner is not None:
            return self._wrapper(call, self._model(call.inner)) if call.over_time else self._model(call.inner)
        if id(call.op) not in self._ops:
            self._ops[id(call.op)] = (call.op, self._rebuild(call))
        return self._ops[id(call.op)][1]

    def _wrapper(self, call: Call, model: Any) -> Any:
        """TimeDistributed around a model."""
        if id(call.op) not in self._models:
            config = {key: value for key, value in call.op.get_config().items() if key != "layer"}
            self._models[id(call.op)] = (call.op, type(call.op)(model, **config))
        return self._models[id(call.op)][1]

    def _rebuild(self, call: Call) -> Any:
        op = call.op
        if type(op).__name__ == "Lambda":
            return self._family.rebuild_lambda(op)
        try:
            config = _copied(op.get_config())
        except NotImplementedError as error:
            raise _not_rebuilt(call, error) from error
        for edit in self._config_edits.get(id(op), ()):
            _set(config, edit.key, edit.value(self._alive))
        random = _silence_initialisers(op, config)
        _hand_over_functions(op, config)
        _apply_override(call, config, self._overrides.get(op.name, {}))
        try:
            # A custom layer in a wrapper need not be registered with Keras either.
            with self._family.namespace().utils.custom_object_scope(_classes_inside(op)):
                new = type(op).from_config(config)
        except (TypeError, ValueError) as error:
            raise _not_rebuilt(call, error) from error
        # Before it is called: some lookups know their output's width only with their vocabulary.
        _hand_over_assets(op, new)
        # The initial values are overwritten at once; the user's choice belongs in the configuration.
        overridden = self._overrides.get(op.name, {})
        self._initialisers += [(new, key, getattr(op, key)) for key in random if key not in overridden]
        return new

    # --- state ---

    def _copy_weights(self) -> None:
        cuts: dict[tuple[int, int], list[tuple[int, NDArray[np.bool_]]]] = {}
        for axis in self._channels.axes:
            keep = self._alive[axis.labels]
            if not keep.all():
                cuts.setdefault((id(axis.op), axis.index), []).append((axis.axis, keep))
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
                for number, keep in cuts.get((id(op), index), ()):
                    value = np.compress(keep, value, axis=number)
                target.assign(value)
            if targets and hasattr(new, "finalize_state"):
                # Normalization computes with constants that it derives from its weights when they are loaded.
                new.finalize_state()

    def _copy_trainable(self) -> None:
        # A model's flag reaches all its layers when set, so the models go first, the outermost last
        # built but first set, and the layers' own flags after them.
        for old, new in reversed(list(self._models.values())):
            if not old.trainable:
                new.trainable = False
        for op, layer in self._ops.values():
            if self._family.is_layer(op) and layer.trainable != op.trainable:
                layer.trainable = op.trainable


def _classes_inside(op: Any) -> dict[str, type]:
    layers = op._flatten_layers(include_self=False) if hasattr(op, "_flatten_layers") else ()
    return {type(x).__name__: type(x) for x in layers}


def _hand_over_assets(op: Any, new: Any) -> None:
    """What a layer keeps beside weights and configuration, such as an adapted vocabulary: through its saving interface."""
    if not hasattr(op, "save_assets"):
        return
    variables: dict[str, Any] = {}
    op.save_own_variables(variables)
    new.load_own_variables(variables)
    with tempfile.TemporaryDirectory() as folder:
        op.save_assets(folder)
        new.load_assets(folder)


def _not_rebuilt(call: Call, error: Exception) -> UnsupportedModelError:
    reason = " ".join(str(error).split())
    return UnsupportedModelError(
        f"Layer '{call.path}' of type {type(call.op).__name__} cannot be rebuilt from its configuration: {reason[:300]} "
        "Expected get_config() to return every argument of the constructor; add it to the class."
    )


def _by_target(edits: Iterable[Edit]) -> dict[int, list[Edit]]:
    found: dict[int, list[Edit]] = {}
    for edit in edits:
        found.setdefault(id(edit.target), []).append(edit)
    return found


def _copied(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that may be edited: its dictionaries copied, without the shapes inner layers were built for."""
    return {key: _copied(value) if type(value) is dict else value for key, value in config.items() if key != "build_config"}


def _set(config: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = value


def _silence_initialisers(op: Any, config: dict[str, Any]) -> list[str]:
    """Replaces the initialisers by zeros and returns their names: random values would be waste."""
    # Layers that hand initialisers on to inner ones have them as properties, which cannot be put back.
    keys = [key for key in config if key.endswith("_initializer") and vars(op).get(key) is not None]
    for key in keys:
        config[key] = "zeros"
    return keys


def _hand_over_functions(op: Any, config: dict[str, Any]) -> None:
    """Replaces what only a registered class could be restored from by the object itself.

    A user's activation function, regularizer or constraint need not be known to Keras' serialisation.
    """
    for key in config:
        value = vars(op).get(key)
        function = key.endswith("activation") and inspect.isfunction(value)
        if function or (key.endswith(("_regularizer", "_constraint")) and value is not None):
            config[key] = value


def _check_override_names(overrides: Overrides, names: set[str]) -> None:
    for name in overrides:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise PlanError(f"layer_config_overrides: the model has no layer {name!r}.{hint}")


def _apply_override(call: Call, config: dict[str, Any], override: Mapping[str, Any]) -> None:
    for key, value in override.items():
        if key not in config:
            raise PlanError(
                f"layer_config_overrides: layer '{call.path}' of type {type(call.op).__name__} has no "
                f"configuration entry {key!r}. Expected one of {', '.join(sorted(config))}."
            )
        config[key] = copy.deepcopy(value)


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
