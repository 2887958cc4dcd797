"""Tracing: which channel every slice of every weight carries.

`trace(model)` runs the model's calls once over label arrays (see `labels`). Each layer type says in
one rule (see `rules`) how it moves, combines or contracts labels, which weight axes they index,
and which entries of its configuration count them. The result, a `ChannelGraph`, is all that
selection and rewriting need: they know no layer types.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import RuleError
from tlt_prune.graph import rules
from tlt_prune.graph.labels import Bundles, Labels, LabelTable, Shape, settle, varying_axes
from tlt_prune.graph.reader import Call, Graph, Tensor, read

Alive = NDArray[np.bool_]
"""`(n_labels,)`: True where the channel is retained."""

Role = Literal["out", "in", "follow"]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightAxis:
    """One axis of one weight, and the label of each of its indices.

    Attributes:
        op, index: the layer, and the position of the weight in `Family.weights(op)`.
        axis: the axis, counted from 0.
        labels: `(size of the axis,)`.
        role: "out" issues the channels, "in" contracts them (its rows are what the law zeroes),
            "follow" has one parameter per channel passing by.
    """

    op: Any
    path: str
    index: int
    axis: int
    labels: Labels
    role: Role


@dataclasses.dataclass(frozen=True, eq=False)
class Producer:
    """A layer whose filters are scored: a row of the plan.

    Attributes:
        name: the layer's path, with ":part" when a layer has several kinds of channels.
        labels: `(n_filters,)`.
        slices: for each kernel, (index in `Family.weights(op)`, labels of its filters, axes that count them):
            the norm over the other axes, added up by label, is the filter's magnitude.
        unit: channels that one filter stands for (the width of an attention head): what the
            granularity counts.
    """

    name: str
    call: Call
    labels: Labels
    slices: tuple[tuple[int, tuple[int, ...], Labels], ...]
    unit: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A configuration entry or call argument that depends on what is retained."""

    target: Any
    key: Any
    labels: tuple[Labels, ...]
    value: Callable[[Alive], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Multiply-accumulates of one call: `count(alive)`, NaN where a size is unknown."""

    op: Any
    path: str
    count: Callable[[Alive], float]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGraph:
    """What `trace` found. All label vectors index into `bundles.root`."""

    graph: Graph
    bundles: Bundles
    axes: tuple[WeightAxis, ...]
    producers: tuple[Producer, ...]
    config_edits: tuple[Edit, ...]
    argument_edits: tuple[Edit, ...]
    input_labels: dict[int, tuple[Labels, ...]]
    tensors: tuple[Labels, ...]
    work: tuple[Work, ...]
    unknown: tuple[tuple[str, str], ...]

    @property
    def n_labels(self) -> int:
        return len(self.bundles.root)


def trace(model: Any, channelwise_layers: Sequence[str] = ()) -> ChannelGraph:
    """Traces channel labels through `model`.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model.
        channelwise_layers: names or shell patterns of layers without a rule (Lambda, custom ones) that treat every
            channel by itself and have no weights a channel.

    Returns:
        The channel graph. The model is not touched.

    Raises:
        UnsupportedModelError: the model has no graph (subclassed, or not built).
        RuleError: a registered rule contradicts the call it describes.
    """
    graph = read(model)
    tracer = _Tracer(graph, channelwise_layers)
    outputs = tracer.run(graph, [tracer.frozen(len(x.shape), "model input") for x in graph.flat_inputs])
    for labels in outputs:
        tracer.table.freeze(labels, "model output", foremost=True)
    return tracer.result()


def kept_shape(shape: Shape, labels: Labels, alive: Alive) -> Shape:
    """`shape` with its labelled axis reduced to what is retained."""
    new = list(shape)
    for axis in varying_axes(labels):
        new[axis] = int(alive[labels.reshape(-1)].sum())
    return tuple(new)


class _Tracer:
    def __init__(self, graph: Graph, channelwise_layers: Sequence[str]) -> None:
        self.graph = graph
        self.channelwise_layers = channelwise_layers
        self.table = LabelTable()
        self.axes: dict[tuple[int, int, int], WeightAxis] = {}
        self.producers: dict[tuple[int, str], Producer] = {}
        self.config_edits: dict[tuple[int, tuple[str, ...]], Edit] = {}
        self.argument_edits: dict[tuple[int, Any], Edit] = {}
        self.input_labels: dict[int, tuple[Labels, ...]] = {}
        self.tensors: dict[int, Labels] = {}
        self.work: list[Work] = []
        self.unknown: dict[str, str] = {}
        self.times = 1.0
        """How often the model that is being traced runs in one call of the outermost one, NaN where unknown."""
        self._weight_index: dict[int, dict[int, int]] = {}

    def frozen(self, rank: int, reason: str) -> Labels:
        label = self.table.fresh(1)
        self.table.freeze(label, reason)
        return label.reshape((1,) * rank)

    def run(self, graph: Graph, inputs: Sequence[Labels]) -> list[Labels]:
        inputs = self._same_every_call(graph, inputs)
        known = {x.key: labels for x, labels in zip(graph.flat_inputs, inputs, strict=True)}
        for call in graph.calls:
            arguments = [known[x.key] for x in call.inputs]
            for tensor, labels in zip(call.outputs, self._call(call, arguments), strict=True):
                known[tensor.key] = labels
                self.tensors.setdefault(id(labels), labels)
        return [known[x.key] for x in graph.flat_outputs]

    def _same_every_call(self, graph: Graph, inputs: Sequence[Labels]) -> Sequence[Labels]:
        """A nested model has one input shape, so all its calls must bring the same channels."""
        first = self.input_labels.setdefault(id(graph), tuple(inputs))
        for a, b in zip(first, inputs, strict=True):
            self.table.unify(a, b)
        return inputs

    def _call(self, call: Call, arguments: list[Labels]) -> list[Labels]:
        if call.inner is not None:
            return self._over_time(call, arguments) if call.over_time else self.run(call.inner, arguments)
        view = CallTrace(self, call)
        rule = rules.find(call.op, is_layer=self.graph.family.is_layer(call.op))
        if any(fnmatch.fnmatchcase(call.op.name, pattern) for pattern in self.channelwise_layers):
            rule = rules.channelwise
        quantised = getattr(call.op, "quantization_mode", None)
        if rule is None:
            results: Any = view.freeze_unknown(arguments, call.op)
        elif quantised:
            # Scales a channel or a group of them, and packed kernels.
            results = view.freeze_all(arguments, f"'{call.path}' is quantised to {quantised}: prune first, then quantise")
        else:
            results = rule(view, *arguments)
        if not isinstance(results, (list, tuple)):
            results = [results]
        return [self._checked(call, x, labels) for x, labels in self._pairs(call, results)]

    def _over_time(self, call: Call, arguments: list[Labels]) -> list[Labels]:
        """A model applied to every step: (batch, time, ...) -> (batch, time, ...)."""
        assert call.inner is not None
        x, *mask = arguments
        if 1 in varying_axes(x) or mask:
            for labels in arguments:
                self.table.freeze(labels, "channels over the steps of TimeDistributed, or a mask")
            x = self.frozen(x.ndim, "model over the steps of TimeDistributed")
        steps = call.inputs[0].shape[1]
        before, self.times = self.times, math.nan if steps is None else self.times * steps
        outputs = self.run(call.inner, [np.squeeze(x, 1)])
        self.times = before
        return [np.expand_dims(labels, 1) for labels in outputs]

    @staticmethod
    def _pairs(call: Call, results: Sequence[Any]) -> list[tuple[Tensor, Any]]:
        if len(results) != len(call.outputs):
            raise RuleError(
                f"The rule of {type(call.op).__name__} '{call.path}' returned {len(results)} label arrays. "
                f"Expected {len(call.outputs)}, one an output."
            )
        return list(zip(call.outputs, results, strict=True))

    def _checked(self, call: Call, tensor: Tensor, labels: Any) -> Labels:
        fits = (
            isinstance(labels, np.ndarray)
            and labels.ndim == len(tensor.shape)
            and all(n in (1, size) for n, size in zip(labels.shape, tensor.shape, strict=True))
        )
        if not fits:
            raise RuleError(
                f"The rule of {type(call.op).__name__} '{call.path}' returned labels of shape "
                f"{getattr(labels, 'shape', labels)!r}. Expected a NumPy array broadcastable to the output "
                f"{tensor.shape}, with size 1 on every axis of unknown size."
            )
        if labels.size == 1:
            # A tensor of one channel (a slice, say) would be left with none.
            self.table.freeze(labels, "a single channel")
        return labels if len(varying_axes(labels)) < 2 else settle(labels, self.table)

    def weight_index(self, op: Any, variable: Any) -> int | None:
        """Position of `variable` among the weights of `op`; None for a computed tensor (LoRA, quantised...)."""
        if id(op) not in self._weight_index:
            self._weight_index[id(op)] = {id(v): i for i, v in enumerate(self.graph.family.weights(op))}
        return self._weight_index[id(op)].get(id(variable))

    def result(self) -> ChannelGraph:
        return ChannelGraph(
            graph=self.graph,
            bundles=self.table.resolve(),
            axes=tuple(self.axes.values()),
            producers=tuple(self.producers.values()),
            config_edits=tuple(self.config_edits.values()),
            argument_edits=tuple(self.argument_edits.values()),
            input_labels=self.input_labels,
            tensors=tuple(x for x in self.tensors.values() if x.size > 1),
            work=tuple(self.work),
            unknown=tuple(self.unknown.items()),
        )


class CallTrace:
    """What a rule sees of the call it traces, and the verbs it has.

    A rule receives one label array an input tensor and returns one an output tensor. `x` below is
    such an array, `vector` the labels of one axis, shape `(size,)`.
    """

    def __init__(self, tracer: _Tracer, call: Call) -> None:
        self._tracer = tracer
        self._config_path: tuple[str, ...] = ()
        self._part = ""
        self._times = tracer.times
        self.call = call
        self.op = call.op
        self.table = tracer.table
        self.in_shapes = [x.shape for x in call.inputs]
        self.out_shapes = [x.shape for x in call.outputs]

    def wrapped(
        self,
        op: Any,
        config_path: tuple[str, ...],
        in_shapes: list[Shape],
        out_shapes: list[Shape],
        *,
        part: str = "",
        times: int | None = 1,
    ) -> CallTrace:
        """The view for a layer inside a wrapper layer.

        Args:
            op: the inner layer; its weights are among the wrapper's.
            config_path: where its configuration is in the wrapper's.
            in_shapes, out_shapes: what it sees.
            part: its name in the plan, where the wrapper has several.
            times: how often it runs a call, None where unknown.
        """
        view = CallTrace(self._tracer, self.call)
        view.op = op
        view._config_path = (*self._config_path, *config_path)
        view._part = part
        view._times = math.nan if times is None else self._times * times
        view.in_shapes, view.out_shapes = in_shapes, out_shapes
        return view

    def rule_of(self, op: Any) -> rules.Rule | None:
        return rules.find(op, is_layer=True)

    @property
    def channel_axis(self) -> int:
        """The channel axis of a layer with `data_format`."""
        return 1 if getattr(self.op, "data_format", None) == "channels_first" else -1

    # --- reading label arrays ---

    def vector(self, x: Labels, axis: int, tensor: int = 0) -> Labels:
        """Labels of `x` (the `tensor`-th input) along `axis`.

        Labels that vary along another axis cannot be told apart by this call: they are frozen.
        An axis of unknown size gets a single entry.
        """
        axis %= x.ndim
        if any(other != axis for other in varying_axes(x)):
            self.freeze(x, "its channels lie on an axis that the layer does not keep apart")
            x = x.reshape(-1)[:1].reshape((1,) * x.ndim)
        size = self.in_shapes[tensor][axis] or 1
        return np.broadcast_to(x.reshape(-1), (size,)).copy()

    def place(self, vector: Labels, axis: int, output: int = 0) -> Labels:
        """The label array of the `output`-th output whose `axis` carries `vector`."""
        rank = len(self.out_shapes[output])
        shape = [1] * rank
        shape[axis] = len(vector)
        return vector.reshape(shape)

    def materialise(self, x: Labels, axis: int, tensor: int = 0) -> Labels:
        """`x` with its full size on `axis`."""
        axis %= x.ndim
        size = self.in_shapes[tensor][axis]
        if size is None or x.shape[axis] == size:
            return x
        return np.repeat(x, size, axis=axis)

    # --- deciding what may go ---

    def freeze(self, x: Labels, reason: str) -> None:
        self.table.freeze(x, reason)

    def freeze_all(self, arguments: Sequence[Labels], reason: str) -> list[Labels]:
        """Freezes the inputs and returns frozen outputs."""
        for x in arguments:
            self.table.freeze(x, reason)
        return [self._tracer.frozen(len(shape), reason) for shape in self.out_shapes]

    def freeze_unknown(self, arguments: Sequence[Labels], op: Any) -> list[Labels]:
        """Freezes the inputs because of `op`, this call's layer or one inside it, and names it in the plan."""
        kind = type(op).__name__
        self._tracer.unknown[self.call.path] = kind
        return self.freeze_all(arguments, f"unknown layer {kind} '{self.call.path}'")

    def approximate(self, x: Labels, reason: str) -> None:
        self.table.mark_approximate(x, reason)

    # --- attaching labels to weights ---

    def fresh(self, count: int) -> Labels:
        """New labels for `count` channels; a single channel cannot be removed, so it is frozen."""
        labels = self.table.fresh(count)
        if count == 1:
            self.table.freeze(labels, "a single channel")
        return labels

    def attach(self, variable: Any, axis: int, vector: Labels, role: Role) -> None:
        """Says that `axis` of `variable` is indexed by `vector`. None is accepted and ignored."""
        if variable is None:
            return
        index = self._tracer.weight_index(self.call.op, variable)
        if index is None:
            self.freeze(vector, f"weights of '{self.call.path}' are not plain variables")
            return
        axis %= len(variable.shape)
        if variable.shape[axis] != len(vector):
            raise RuleError(
                f"The rule of {type(self.op).__name__} '{self.call.path}' attached {len(vector)} labels to axis "
                f"{axis} of a weight of shape {tuple(variable.shape)}."
            )
        found = self._tracer.axes.setdefault(
            (id(self.call.op), index, axis),
            WeightAxis(self.call.op, self.call.path, index, axis, vector, role),
        )
        self.table.unify(found.labels, vector)

    def follow(self, vector: Labels, *variables: Any) -> None:
        """One-dimensional parameters with one entry a channel (bias, gamma, moving mean...)."""
        for variable in variables:
            self.attach(variable, 0, vector, "follow")

    def produce(
        self,
        labels: Labels,
        *kernels: tuple[Any, tuple[int, ...], Labels],
        part: str = "",
        unit: int = 1,
    ) -> None:
        """Registers a row of the plan: filters `labels`, scored over `kernels`.

        Each kernel is (variable, axes that count filters, labels over those axes, flattened).
        """
        slices = []
        for variable, axes, vector in kernels:
            index = self._tracer.weight_index(self.call.op, variable)
            if index is not None:
                axes = tuple(axis % len(variable.shape) for axis in axes)
                slices.append((index, axes, vector))
        part = ":".join(x for x in (self._part, part) if x)
        name = f"{self.call.path}:{part}" if part else self.call.path
        self._tracer.producers.setdefault((id(self.call.op), part), Producer(name, self.call, labels, tuple(slices), unit))

    # --- what has to be rewritten ---

    def configure(self, key: str, value: Callable[[Alive], Any], *labels: Labels) -> None:
        """`value(alive)` replaces `key` in the layer's configuration; it depends on `labels` only."""
        path = (*self._config_path, key)
        edit = Edit(self.call.op, path, labels, value)
        self._edit(self._tracer.config_edits, (id(self.call.op), path), edit)

    def argument(self, key: int | str, value: Callable[[Alive], Any], *labels: Labels) -> None:
        """`value(alive)` replaces a positional or keyword argument of this call."""
        self._edit(self._tracer.argument_edits, (id(self.call), key), Edit(self.call, key, labels, value))

    def _edit(self, edits: dict[Any, Edit], key: Any, edit: Edit) -> None:
        # One configuration serves every call of a layer: what it depends on must be removed alike.
        first = edits.setdefault(key, edit)
        for a, b in zip(first.labels, edit.labels, strict=True):
            if a.shape != b.shape:
                self.freeze(a, f"'{self.call.path}' is called with different shapes")
                self.freeze(b, f"'{self.call.path}' is called with different shapes")
            else:
                self.table.unify(a, b)

    def count(self, key: str, vector: Labels) -> None:
        """The configuration entry `key` is the number of channels in `vector`."""
        self.configure(key, lambda alive: int(alive[vector].sum()), vector)

    # --- cost ---

    def positions(self, shape: Shape, axis: int) -> float:
        """Number of positions a kernel is applied at: all of `shape` but batch and `axis`."""
        axis %= len(shape)
        sizes = [size for i, size in enumerate(shape) if i not in (0, axis)]
        return math.nan if None in sizes else float(math.prod(sizes))  # type: ignore[arg-type]

    def macs(self, variable: Any, positions: float) -> None:
        """`variable` is multiplied in once at each of `positions`."""
        tracer, op = self._tracer, self.call.op
        index = tracer.weight_index(op, variable)
        shape, times = tuple(variable.shape), self._times

        def count(alive: Alive) -> float:
            size = positions * times
            for axis, n in enumerate(shape):
                found = tracer.axes.get((id(op), index, axis)) if index is not None else None
                size *= n if found is None else int(alive[found.labels].sum())
            return size

        self.work(count)

    def work(self, count: Callable[[Alive], float]) -> None:
        self._tracer.work.append(Work(self.call.op, self.call.path, count))
