"""Tracing: which channel every slice of every weight carries.

`trace(model)` runs the model's calls once over label arrays (see `labels`). Each layer type says in
one rule (see `rules`) how it moves, combines or contracts labels, which weight axes they index,
and which entries of its configuration count them. The result, a `ChannelGraph`, is all that
selection and rewriting need: they know no layer types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.errors import PlanError, RuleError
from tlt_prune.graph import rules
from tlt_prune.graph.call_trace import CallTrace, Record
from tlt_prune.graph.channel_graph import ChannelGraph, TensorLabels
from tlt_prune.graph.execute import Execution
from tlt_prune.graph.labels import Labels, Shape, settle, varying_axes
from tlt_prune.graph.reader import Graph, matches, nearest_name, read
from tlt_prune.graph.types import KerasModel

__all__ = ["ChannelGraph", "trace"]


def trace(model: KerasModel, channelwise_layers: Sequence[str] = ()) -> ChannelGraph:
    """Traces channel labels through `model`.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model.
        channelwise_layers: names, paths or shell patterns of layers without a rule (Lambda, custom ones) that treat
            every channel by itself and have no weights a channel.

    Returns:
        The channel graph. The model is not touched.

    Raises:
        UnsupportedModelError: the model has no graph (subclassed, or not built).
        PlanError: one of `channelwise_layers` names no layer without a rule.
        RuleError: a registered rule contradicts the call it describes.
    """
    graph = read(model)
    tracer = _Tracer(graph, channelwise_layers)
    outputs = tracer.run(graph, [tracer.record.frozen(len(x.shape), "model input") for x in graph.flat_inputs])
    for labels in outputs:
        tracer.record.table.freeze(labels, "model output", foremost=True)
    return tracer.result()


class _Tracer:
    def __init__(self, graph: Graph, channelwise_layers: Sequence[str]) -> None:
        self.record = Record(graph)
        self._channelwise = dict.fromkeys(channelwise_layers, False)
        self._input_labels: dict[int, tuple[Labels, ...]] = {}
        self._tensors: list[TensorLabels] = []
        self._labels_of: dict[int, Labels] = {}
        self._times = 1.0
        """Number of runs of the model that is being traced in one call of the outermost one, NaN where unknown."""

    def run(self, graph: Graph, inputs: Sequence[Labels]) -> list[Labels]:
        # A nested model has one input shape, so all its calls must bring the same channels.
        first = self._input_labels.setdefault(id(graph), tuple(inputs))
        for a, b in zip(first, inputs, strict=True):
            self.record.table.unify(a, b)
        # A nested model is a call with a rule: `_apply` runs it.
        execution = Execution(graph, inputs, opened=False)
        for pending in execution:
            call = pending.call
            view = CallTrace(self.record, self._apply, call, self._times)
            pending.results = self._apply(view, pending.inputs)
            self._tensors += [TensorLabels(call.op, call.path, labels) for labels in pending.results]
        (labels_of,) = execution.scopes
        self._labels_of |= labels_of
        return execution.outputs

    def _apply(self, view: CallTrace, arguments: Sequence[Labels]) -> list[Labels]:
        """The one way a rule is applied: to a call, to a layer in a wrapper, to a layer that is an activation."""
        inner = view.call.inner
        if inner is not None and view.op is inner.model:
            before, self._times = self._times, view.times
            results: Any = self.run(inner, arguments)
            self._times = before
        else:
            results = self._by_rule(view, arguments)
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        if len(results) != len(view.out_shapes):
            raise RuleError(
                f"The rule of {type(view.op).__name__} '{view.call.path}' returned {len(results)} label arrays. "
                f"Expected {len(view.out_shapes)}, one an output."
            )
        return [self._checked(view, shape, labels) for shape, labels in zip(view.out_shapes, results, strict=True)]

    def _by_rule(self, view: CallTrace, arguments: Sequence[Labels]) -> Any:
        op = view.op
        rule = rules.find(op, is_layer=self.record.graph.family.is_layer(op))
        mode = getattr(op, "quantization_mode", None)
        if rule is None:
            declared = [pattern for pattern in self._channelwise if matches(view.call, pattern)]
            self._channelwise |= dict.fromkeys(declared, True)
            return rules.channelwise(view, *arguments) if declared else view.freeze_unknown(arguments)
        if mode:
            # Scales a channel or a group of them, and packed kernels.
            return view.freeze_all(arguments, f"'{view.call.path}' is quantized to {mode}: prune first, then quantize")
        if not rules.accepts(rule, len(arguments)):
            return view.freeze_all(arguments, f"{type(op).__name__} '{view.call.path}' is called with further tensors")
        return rule(view, *arguments)

    def _checked(self, view: CallTrace, shape: Shape, labels: object) -> Labels:
        if not (
            isinstance(labels, np.ndarray)
            and labels.ndim == len(shape)
            and all(n in (1, size) for n, size in zip(labels.shape, shape, strict=True))
        ):
            raise RuleError(
                f"The rule of {type(view.op).__name__} '{view.call.path}' returned labels of shape "
                f"{getattr(labels, 'shape', labels)!r}. Expected a NumPy array broadcastable to the output "
                f"{shape}, with size 1 on every axis of unknown size."
            )
        if labels.size == 1:
            # A tensor of one channel (a slice, say) would be left with none.
            self.record.table.freeze(labels, "a single channel")
        return labels if len(varying_axes(labels)) < 2 else settle(labels, self.record.table)

    def result(self) -> ChannelGraph:
        record = self.record
        record.tie_shared_weights()
        for pattern, used in self._channelwise.items():
            if not used:
                raise PlanError(self._not_channelwise(pattern))
        return ChannelGraph(
            graph=record.graph,
            bundles=record.table.resolve(),
            axes=tuple(record.axes.values()),
            producers=tuple(record.producers.values()),
            config_edits=tuple(record.config_edits.values()),
            argument_edits=tuple(record.argument_edits.values()),
            input_labels=self._input_labels,
            tensors=tuple(x for x in self._tensors if x.labels.size > 1),
            work=tuple(record.work),
            labels_of=self._labels_of,
            unknown=tuple(record.unknown.items()),
        )

    def _not_channelwise(self, pattern: str) -> str:
        paths = sorted({call.path for call in self.record.graph.walk() if matches(call, pattern)})
        if paths:
            return (
                f"channelwise_layers: {pattern!r} names {', '.join(paths[:3])}, which have a rule of their own. "
                "Expected Lambda or custom layers without one."
            )
        unknown = sorted(self.record.unknown)
        names = unknown or sorted({call.path for call in self.record.graph.walk()})
        without = f"Without a rule: {', '.join(unknown)}." if unknown else "Every layer of this model has a rule."
        return f"channelwise_layers: no layer matches {pattern!r}.{nearest_name(pattern, names)} {without}"
