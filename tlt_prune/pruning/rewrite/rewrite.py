"""A model and what is retained of it -> a new model.

Every layer is rebuilt from its own configuration, with the entries that count channels replaced, and
called as the original graph calls it; its variables are made with their cut values. The model that was given
is only read.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import tree

from tlt_prune.errors import PlanError, UnsupportedModelError, first_line
from tlt_prune.graph import (
    Alive,
    Call,
    ChannelGraph,
    Edit,
    Execution,
    Family,
    Graph,
    Layer,
    PendingCall,
    Variable,
    all_layers,
    filled,
    initializers,
    is_keras_class,
    kept_shape,
    matches,
    nearest_name,
    producing_layer,
)
from tlt_prune.graph.channel_graph import edited_arguments, edits_by_target
from tlt_prune.graph.classes import patched
from tlt_prune.graph.copying import copy_of, describes
from tlt_prune.graph.rebuild import layer_pairs, rebuild
from tlt_prune.pruning.rewrite.compile_state import copy_compile_state
from tlt_prune.pruning.rewrite.gates import Gates, inlined_where_gated
from tlt_prune.pruning.rewrite.inlining import Inliner
from tlt_prune.pruning.rewrite.mirror import Mirror
from tlt_prune.pruning.rewrite.model_class import same_class
from tlt_prune.pruning.rewrite.transfer import Transfer

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
    return _Rewriter(channels, alive, overrides or {}).run()


def rewrite_with_graph(
    channels: ChannelGraph, alive: Alive, overrides: Overrides | None = None
) -> tuple[Any, Callable[[], Graph]]:
    """`rewrite`, and what makes the graph of the new model, call by call that of the original."""
    rewriter = _Rewriter(channels, alive, overrides or {})
    return rewriter.run(), rewriter.new_graph


def rewrite_with_variables(channels: ChannelGraph, alive: Alive) -> tuple[Any, dict[int, Variable]]:
    """`rewrite`, and the new variable of each old one, by the old one's `id`."""
    rewriter = _Rewriter(channels, alive, {})
    model = rewriter.run()
    return model, rewriter.new_variables()


def full_size(channels: ChannelGraph) -> tuple[Any, dict[int, Variable]]:
    """The model rebuilt with nothing removed, with gates where channels are summed over without a weight.

    Returns:
        The model, and the new variable of each old one, by the old one's `id`; those of gates by the `id` of the `Contraction`.
    """
    gates = Gates(channels.contractions, channels.graph.family)
    rewriter = _Rewriter(inlined_where_gated(channels), np.ones(channels.n_labels, dtype=bool), {}, gates)
    model = rewriter.run()
    return model, {**rewriter.new_variables(), **gates.variables}


class _Rewriter:
    def __init__(self, channels: ChannelGraph, alive: Alive, overrides: Overrides, gates: Gates | None = None) -> None:
        self._channels = channels
        self._gates = gates or Gates((), channels.graph.family)
        self._alive = alive
        self._family = channels.graph.family
        self._overrides = overrides
        self._ops: dict[int, tuple[Any, Any]] = {}
        self._overridden: dict[int, dict[str, Any]] = {}
        self._models: dict[int, tuple[Any, Any]] = {}
        self._config_edits = edits_by_target(channels.config_edits)
        self._argument_edits = edits_by_target(channels.argument_edits)
        self._transfer = Transfer(channels, alive)
        self._mirror = Mirror(self._family)
        self._inliner = Inliner(channels, self._transfer)
        calls = list(self._inliner.rebuilt_calls(channels.graph))
        self._calls = {id(call.op): call for call in reversed(calls)}
        self._shared = _held_and_elsewhere(self._calls, self._family)
        self._resized = _resized_operations(channels, alive, calls)
        self._variables = {id(v) for v in self._family.weights(channels.graph.model)}

    def new_graph(self) -> Graph:
        return self._mirror.finished(self._channels.graph, self._models)

    def new_variables(self) -> dict[int, Variable]:
        return self._transfer.new_variables()

    def run(self) -> Any:
        graph = self._channels.graph
        # What a layer has inside that keeps its class is made by its constructor.
        calls = list(self._inliner.visible_calls(graph))
        for pattern in self._overrides:
            if not any(matches(call, pattern) for call in calls):
                near = nearest_name(pattern, {call.path for call in calls})
                raise PlanError(f"layer_config_overrides: no layer matches {pattern!r}.{near}")
        for call in self._inliner.rebuilt_calls(graph):
            self._rebuilt(call)
        waiting = all(_can_wait(x) for op, _ in self._ops.values() for x in (op, *all_layers(op)))
        with self._family.construction() if waiting else contextlib.nullcontext():
            new = self._model(graph)
            self._transfer.begin(self._ops.values())
            self._inliner.give_variables()
        self._transfer.finish(graph, new, self._gates.variables.values())
        self._finish()
        copy_compile_state(graph.model, new, self._family)
        return new

    # --- structure ---

    def _model(self, graph: Graph) -> Any:
        if id(graph) not in self._models:
            sequential = self._family.is_sequential(graph.model) and not any(map(self._inliner.is_inlined, graph.calls))
            new = self._sequential(graph) if sequential else self._functional(graph)
            self._models[id(graph)] = (graph.model, new)
        return self._models[id(graph)][1]

    def _functional(self, graph: Graph) -> Any:
        inputs = [layer.output if layer is not None else tensor for layer, tensor in self._inputs(graph)]
        outputs = self._outputs(graph, inputs, inputs[0])
        if not graph.opened:
            outputs = [self._named(*pair) for pair in zip(outputs, graph.model.outputs, strict=True)]
        parts = {
            "inputs": tree.pack_sequence_as(graph.inputs, inputs),
            "outputs": tree.pack_sequence_as(graph.outputs, outputs),
            "name": graph.model.name,
        }
        if graph.opened:
            # What a subclassed model does, as a functional one.
            return self._family.namespace().Model(**parts)
        return same_class(graph.model, self._family, self._family.namespace().Model, parts)

    def _named(self, output: Any, original: Any) -> Any:
        """An output under the name of the layer that made it: losses and labels in dictionaries go by that."""
        name = producing_layer(original).name
        if producing_layer(output).name == name:
            return output
        return self._family.namespace().layers.Identity(name=name)(output)

    def _outputs(self, graph: Graph, inputs: Sequence[Any], like: Any) -> list[Any]:
        """The outputs of a graph that is called on symbolic tensors; `like` is any that has a batch axis."""
        execution: Execution[Any] = Execution(graph, inputs, opened=False)
        calls = []
        for pending in execution:
            call, inner = pending.call, None
            args, kwargs = self._arguments(pending)
            if self._inliner.is_inlined(call):
                assert call.inner is not None, "only an opened layer can be inlined"
                pending.results = self._outputs(call.inner, pending.inputs, like)
                op, inner = call.op, self._mirror.of(call.inner)
            elif self._inliner.is_own(call):
                op, pending.results = self._inliner.results(pending, like)
            else:
                op = self._op(call)
                pending.results = self._family.symbolic_call(op, args, kwargs)
            calls.append(self._mirror.call(call, op, (args, kwargs), pending.results, inner))
        self._mirror.graph(graph, inputs, execution.outputs, calls)
        return execution.outputs

    def _sequential(self, graph: Graph) -> Any:
        ((first, _),) = self._inputs(graph)
        layers = [first, *(self._op(call) for call in graph.calls)]
        parts = {"layers": layers, "name": graph.model.name}
        return same_class(graph.model, self._family, self._family.namespace().Sequential, parts)

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

    def _arguments(self, pending: PendingCall[Any]) -> tuple[Any, Any]:
        """Arguments of a call in the new model."""
        edited = edited_arguments(pending.call, self._argument_edits.get(id(pending.call), ()), self._alive)
        new: tuple[Any, Any] = self._gates.applied(pending.call, filled(edited, pending.values))
        return new

    # --- operations ---

    def _rebuilt(self, call: Call) -> Any:
        """The new operation of a call; layers that it holds and the model has elsewhere too are rebuilt first."""
        if id(call.op) not in self._ops:
            self._refuse_outside_references(call)
            held = {x: self._rebuilt(self._call_of(x, call)) for x in all_layers(call.op) if id(x) in self._shared}
            override = {
                key: value for pattern, x in self._overrides.items() if matches(call, pattern) for key, value in x.items()
            }
            edits = self._config_edits.get(id(call.op), ())
            self._overridden[id(call.op)] = override
            self._ops[id(call.op)] = (call.op, self._made(call, edits, override, held))
        return self._ops[id(call.op)][1]

    def _made(self, call: Call, edits: Sequence[Edit], override: Mapping[str, Any], held: Mapping[Layer, Layer]) -> Any:
        """A layer from its configuration; one that stays whole, and that its configuration does not describe, as a copy."""
        op, resized = call.op, id(call.op) in self._resized
        may_copy = (
            self._family.name == "keras"
            and not (resized or override or held)
            and self._family.is_layer(op)
            and (not is_keras_class(type(op)) or patched(op))
        )
        try:
            renamed = {**self._inliner.names.get(id(op), {}), **override}
            new = rebuild(call, self._family, edits, self._alive, renamed, held, resized=resized)
            if not may_copy or (id(op) not in self._channels.undescribed and describes(op, new)):
                return new
        except UnsupportedModelError:
            if not may_copy:
                raise
        try:
            new = copy_of(op)
            new.name = self._inliner.names.get(id(op), {}).get("name", op.name)
            return new
        # An attribute of somebody else's may raise anything.
        except Exception as error:
            raise UnsupportedModelError(
                f"Layer '{call.path}' of type {type(op).__name__} can neither be rebuilt from its configuration nor copied: "
                f"{first_line(error)} Expected get_config() to return every argument of the constructor."
            ) from error

    def _refuse_outside_references(self, call: Call) -> None:
        """A function that reads a layer of the model from outside of its arguments would go on reading the original's.

        Raises:
            UnsupportedModelError: the function of a Lambda layer, or an argument of an operation, holds such a layer or variable.
        """
        closure = getattr(getattr(call.op, "function", None), "__closure__", None) or ()
        inside = [*tree.flatten((call.args, call.kwargs)), *(_content(cell) for cell in closure)]
        for value in inside:
            if id(value) in self._calls or id(value) in self._variables:
                name = getattr(value, "path", getattr(value, "name", value))
                raise UnsupportedModelError(
                    f"'{call.path}' reads '{name}' of the model from outside of its inputs: a new model would still read "
                    "the original's. Expected a layer that holds the other one and says so in get_config()."
                )

    def _call_of(self, layer: Layer, holder: Call) -> Call:
        """A call of a layer that another one holds; it may never be called in the model itself."""
        return self._calls.get(id(layer)) or Call(layer, f"{holder.path}/{layer.name}", (), {}, (), None)

    def _op(self, call: Call) -> Any:
        if id(call.op) in self._ops:
            return self._ops[id(call.op)][1]
        assert call.inner is not None, "what is no model was rebuilt"
        model = self._model(call.inner)
        if not call.over_time:
            return model
        if id(call.op) not in self._models:
            config = {key: value for key, value in call.op.get_config().items() if key != "layer"}
            self._models[id(call.op)] = (call.op, type(call.op)(model, **config))
        return self._models[id(call.op)][1]

    # --- state ---

    def _finish(self) -> None:
        """Restores initializers and trainable flags, once the new variables have values."""
        for op, new in self._ops.values():
            if not self._family.is_layer(op):
                continue
            pairs = layer_pairs(op, new)
            initializers.restore(pairs, self._family, self._transfer.cuts_of, self._overridden[id(op)])
            for _, layer in pairs:
                if hasattr(layer, "finalize_state") and self._family.weights(layer):
                    # Normalization computes with constants that it derives from its weights when they are loaded.
                    layer.finalize_state()
                elif self._family.is_a(layer, "Normalization") and layer.built and layer.get_build_config():
                    # Of given statistics: built inside of another layer, its constants are of a graph that is gone.
                    layer.build_from_config(layer.get_build_config())
        # A flag reaches all layers inside when set, so the outer ones go first: models, the outermost last built but first set,
        # then layers, then the layers in them.
        for old, new in reversed(list(self._models.values())):
            if not old.trainable:
                new.trainable = False
        for op, new in self._ops.values():
            for old, layer in layer_pairs(op, new) if self._family.is_layer(op) else ():
                if layer.trainable != old.trainable:
                    layer.trainable = old.trainable


def _content(cell: types.CellType) -> object:
    """Content of a variable of a function's surroundings; None where it is empty yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _resized_operations(channels: ChannelGraph, alive: Alive, calls: Iterable[Call]) -> set[int]:
    """`id` of each operation of which a weight, an input or a configuration entry changes."""
    cut = {id(axis.op) for axis in channels.axes if not alive[axis.labels].all()}
    edited = {id(edit.target) for edit in channels.config_edits}
    resized = cut | edited
    for call in calls:
        inside = {id(x) for x in all_layers(call.op)} if call.inner is not None else set()
        if inside & cut or not all(alive[channels.labels_of[x.key]].all() for x in call.inputs):
            resized.add(id(call.op))
    return resized


def _held_and_elsewhere(calls: Mapping[int, Call], family: Family) -> set[int]:
    """`id` of each layer inside a layer of the model that is a layer of the model itself, or inside another one too."""
    holders: dict[int, int] = {}
    for call in calls.values():
        for layer in all_layers(call.op) if family.is_layer(call.op) else ():
            holders[id(layer)] = holders.get(id(layer), 0) + 1
    return {key for key, count in holders.items() if count > 1 or key in calls}


def _can_wait(op: object) -> bool:
    """Whether a layer makes its variables from initializers: custom layers may not, and recurrent states are made from values."""
    return is_keras_class(type(op)) and not getattr(op, "stateful", False)
