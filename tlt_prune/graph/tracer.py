"""Tracing: which channel every slice of every weight carries.

`trace(model)` runs the model's calls once over label arrays (see `labels`). Each layer type says in
one rule (see `rules`) how it moves, combines or contracts labels, which weight axes they index,
and which entries of its configuration count them. The result, a `ChannelGraph`, is all that
selection and rewriting need: they know no layer types.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlt_prune.errors import PlanError, RuleError, UnsupportedModelError
from tlt_prune.graph import rules
from tlt_prune.graph.blocks import chosen_blocks, without_blocks
from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.channel_graph import ChannelGraph, TensorLabels, made_roots
from tlt_prune.graph.comparing import Comparison
from tlt_prune.graph.execute import Execution
from tlt_prune.graph.expressing import Expression
from tlt_prune.graph.facets import Carried, Facet, Facets, plain
from tlt_prune.graph.family import Family, family_of
from tlt_prune.graph.inner_graph import CannotOpenError
from tlt_prune.graph.inner_ops import INNER_OPS
from tlt_prune.graph.labels import Bundles, Labels, Shape, settle, varying_axes
from tlt_prune.graph.lookahead import Lookahead
from tlt_prune.graph.opening import open_model, why_not_inlined, with_opened_layers
from tlt_prune.graph.reader import Call, Graph, matches, nearest_name, read
from tlt_prune.graph.record import Record
from tlt_prune.graph.types import KerasModel

__all__ = ["ChannelGraph", "trace"]


def trace(
    model: KerasModel, channelwise_layers: Sequence[str] = (), *, inline: bool = False, without: Sequence[str] = ()
) -> ChannelGraph:
    """Traces channel labels through `model`.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model.
        channelwise_layers: names, paths or shell patterns of layers without a rule (Lambda, custom ones) that treat
            every channel by itself and have no weights a channel.
        inline: whether layers without a rule are replaced by what they do, and not rebuilt from their configurations.
        without: names, paths or shell patterns of the additions of residual blocks that are left out.

    Returns:
        The channel graph. The model is not touched.

    Raises:
        UnsupportedModelError: the model has no graph (subclassed, or not built).
        PlanError: one of `channelwise_layers` names no layer without a rule, or one of `without` no residual block.
        RuleError: a registered rule contradicts the call it describes.
    """
    read_graph = _read(model)
    if without:
        read_graph = without_blocks(read_graph, chosen_blocks(read_graph, without))
    is_closed = functools.partial(_is_closed, read_graph.family, channelwise_layers)
    graph, closed = with_opened_layers(read_graph, is_closed)
    why_not = _WhyNotInlined(graph.family)
    inlined = _inlined(graph, inline, why_not)
    tracer = _Tracer(graph, channelwise_layers, inlined)
    tracer.record.why_not_inlined = why_not
    tracer.record.closed, tracer.record.is_opened = closed, graph.opened
    outputs = tracer.run(graph, [tracer.record.frozen(len(x.shape), "model input") for x in graph.flat_inputs])
    for labels in outputs:
        tracer.record.table.freeze(labels, "model output", foremost=True)
    return tracer.result()


class _WhyNotInlined:
    """`why_not_inlined`, which opens a layer once more, asked once for each call."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._known: dict[int, tuple[Call, str | None]] = {}
        """`id` of a call -> itself, which keeps the `id` its own, and the answer."""

    def __call__(self, call: Call) -> str | None:
        if id(call) not in self._known:
            self._known[id(call)] = (call, why_not_inlined(call, self._family))
        return self._known[id(call)][1]


def _inlined(graph: Graph, inline: bool, why_not: Callable[[Call], str | None]) -> frozenset[int]:
    """`id` of each opened layer, or model, that is replaced by what it does.

    Raises:
        UnsupportedModelError: it is a subclassed model, and cannot be.
    """
    inlined: set[int] = set()
    pending = [graph]
    while inline and pending:
        for call in pending.pop().calls:
            if call.is_opened and why_not(call) is None:
                inlined.add(id(call.op))
            # What a layer that is rebuilt as a whole has inside comes with it.
            if call.inner is not None and (not call.inner.opened or id(call.op) in inlined):
                pending.append(call.inner)
    if graph.opened:
        whole = Call(graph.model, "", (graph.inputs,), {}, tuple(graph.flat_outputs), graph)
        why = why_not(whole)
        if why is not None:
            raise UnsupportedModelError(
                f"'{graph.model.name}' of the subclassed type {type(graph.model).__name__} cannot become a functional "
                f"model: {why}."
            )
        inlined.add(id(graph.model))
    return frozenset(inlined)


def _read(model: KerasModel) -> Graph:
    """The graph of a model; of a subclassed one, what its `call` does.

    Raises:
        UnsupportedModelError: it has no graph and cannot be opened.
    """
    family = family_of(model)
    if family.name != "keras" or family.is_sequential(model) or family.functional(model) is not None:
        return read(model)
    try:
        return open_model(model, family)  # type: ignore[arg-type]
    except CannotOpenError as error:
        raise UnsupportedModelError(
            f"'{model.name}' of the subclassed type {type(model).__name__} cannot be opened: {error}. Expected a model that is "
            "built and whose call() uses layers and keras.ops; or rebuild it with the functional API: call its layers on a "
            "keras.Input and wrap the result in keras.Model(inputs, outputs)."
        ) from error


def _is_closed(family: Family, channelwise_layers: Sequence[str], call: Call) -> bool:
    """Whether a layer's call has no rule, so that it has to be opened; or one that leaves the rest to such a layer."""
    is_own = not isinstance(call.op, INNER_OPS)
    declared = any(matches(call, pattern) for pattern in channelwise_layers)
    return is_own and not declared and hasattr(call.op, "weights") and _is_unknown(family, call.op)


def _is_unknown(family: Family, op: Any) -> bool:
    if rules.find(op, is_layer=True) is None:
        # The graph of a model in a wrapper was read.
        return not (family.is_model(op) and family.functional(op) is not None)
    return any(_is_unknown(family, x) for x in rules.wrapped(op))


class _Tracer:
    def __init__(self, graph: Graph, channelwise_layers: Sequence[str], inlined: frozenset[int]) -> None:
        self.record = Record(graph)
        self.record.best_axis = Lookahead(graph, self._moved).best
        self._inlined = inlined
        self._undescribed: frozenset[int] = frozenset()
        self._opened: dict[int, list[Call]] = {}
        """The calls of each opened layer that is rebuilt as a whole, by the layer's `id`."""
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
        # What a layer has inside that is rebuilt as a whole comes with it.
        is_whole = graph.opened and id(graph.model) not in self._inlined
        execution: Execution[Carried] = Execution(graph, inputs, opened=False)
        for pending in execution:
            call = pending.call
            view = CallTrace(self.record, self._apply, call, self._times)
            pending.results = self._apply(view, pending.inputs)
            if call.is_opened and not is_whole and id(call.op) not in self._inlined:
                self._opened.setdefault(id(call.op), []).append(call)
            for carried in pending.results:
                arrays = [x.labels for x in carried.facets] if isinstance(carried, Facets) else [carried]
                self._tensors += [TensorLabels(call.op, call.path, labels) for labels in arrays]
        (carried_by,) = execution.scopes
        self._labels_of |= {key: plain(x) for key, x in carried_by.items()}
        self.record.facets |= {key: x for key, x in carried_by.items() if isinstance(x, Facets)}
        return [plain(x) for x in execution.outputs]

    def _apply(self, view: CallTrace, arguments: Sequence[Carried]) -> list[Carried]:
        """The one way a rule is applied: to a call, to a layer in a wrapper, to a layer that is an activation."""
        inner = view.call.inner
        if inner is not None and view.op is inner.model:
            before = self._times, self.record.is_opened, self.record.enclosing
            self._times, self.record.is_opened = view.times, self.record.is_opened or inner.opened
            self.record.enclosing += (view.call,) * inner.opened
            results: Any = self.run(inner, [plain(x) for x in arguments])
            self._times, self.record.is_opened, self.record.enclosing = before
        else:
            results = self._by_rule(view, arguments)
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        if len(results) != len(view.out_shapes):
            raise RuleError(
                f"The rule of {type(view.op).__name__} '{view.call.path}' returned {len(results)} label arrays. "
                f"Expected {len(view.out_shapes)}, one an output."
            )
        return [self._checked(view, shape, labels) for shape, labels in zip(view.out_shapes, results, strict=True)]

    def _by_rule(self, view: CallTrace, arguments: Sequence[Carried]) -> Any:
        op = view.op
        rule = rules.find(op, is_layer=self.record.graph.family.is_layer(op))
        mode = getattr(op, "quantization_mode", None)
        labels = [plain(x) for x in arguments]
        if rule is None:
            declared = [pattern for pattern in self._channelwise if matches(view.call, pattern)]
            self._channelwise |= dict.fromkeys(declared, True)
            return rules.channelwise(view, *labels) if declared else view.freeze_unknown(labels)
        if mode:
            # Scales a channel or a group of them, and packed kernels.
            return view.freeze_all(labels, f"'{view.call.path}' is quantized to {mode}: prune first, then quantize")
        if not rules.accepts(rule, len(arguments)):
            return view.freeze_all(labels, f"{type(op).__name__} '{view.call.path}' is called with further tensors")
        if rules.is_given_facets(rule) or not any(isinstance(x, Facets) for x in arguments):
            return rule(view, *arguments)
        if all(isinstance(x, Facets) for x in arguments):
            return self._facet_by_facet(view, rule, arguments)  # type: ignore[arg-type]
        return rule(view, *self._collapsed(view, arguments))

    def _moved(self, call: Call, arguments: Sequence[Labels]) -> list[Labels]:
        """What a rule does to label arrays, for the arrays alone: nothing of it is recorded."""
        record = Record(self.record.graph)
        record.table.fresh(max((int(x.max()) for x in arguments), default=0) + 1)
        rule = rules.find(call.op, is_layer=self.record.graph.family.is_layer(call.op))
        if rule is None or not rules.accepts(rule, len(arguments)):
            return []
        try:
            results = rule(CallTrace(record, self._apply, call, 1.0), *arguments)
        # Label arrays that are no tensor's may be more than a rule expects.
        except (IndexError, ValueError, RuleError):
            return []
        return list(results) if isinstance(results, (list, tuple)) else [results]

    def _facet_by_facet(self, view: CallTrace, rule: rules.Rule, arguments: Sequence[Facets]) -> Any:
        """A rule for tensors that are made of variables: it is applied to the labels of each axis by themselves."""
        results: list[list[Facet]] = [[] for _ in view.out_shapes]
        rows: list[Any] = [None for _ in view.out_shapes]
        for axis in sorted({x.axis for argument in arguments for x in argument.facets}):
            at = [argument.at(axis) for argument in arguments]
            given = [
                self.record.frozen(argument.ndim, "a variable without channels there") if x is None else x.labels
                for argument, x in zip(arguments, at, strict=True)
            ]
            sources = tuple(source for x in at if x is not None for source in x.sources)
            self.record.facet_by_facet = True
            try:
                made = rule(view, *given)
            finally:
                self.record.facet_by_facet = False
            for i, labels in enumerate(made if isinstance(made, (list, tuple)) else [made]):
                rows[i] = labels
                if varying_axes(labels):
                    results[i].append(Facet(labels, sources))
        return [Facets(tuple(x)) if x else row for x, row in zip(results, rows, strict=True)]

    def _collapsed(self, view: CallTrace, arguments: Sequence[Carried]) -> list[Labels]:
        """One label array each, for a rule that meets variables and activations: a variable's labels on the axis where the
        activations have theirs. On its other axes nothing of a variable may be removed."""
        axes = {axis - x.ndim for x in arguments if isinstance(x, np.ndarray) for axis in varying_axes(x)}
        labels = []
        for x in arguments:
            if isinstance(x, Facets):
                chosen = next((facet for facet in x.facets if facet.axis in axes), None) if axes else x.last
                view.freeze_other_facets(x, chosen)
                x = self.record.frozen(x.ndim, "a variable without channels there") if chosen is None else chosen.labels
            labels.append(x)
        return labels

    def _checked(self, view: CallTrace, shape: Shape, carried: object) -> Carried:
        if isinstance(carried, Facets):
            facets = [Facet(self._checked_labels(view, shape, x.labels), x.sources) for x in carried.facets]
            return Facets(tuple(facets))
        return self._checked_labels(view, shape, carried)

    def _checked_labels(self, view: CallTrace, shape: Shape, labels: object) -> Labels:
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
        bundles = self._expressed()
        for pattern, used in self._channelwise.items():
            if not used:
                raise PlanError(self._not_channelwise(pattern))
        return ChannelGraph(
            graph=record.graph,
            bundles=bundles,
            axes=tuple(record.axes.values()),
            producers=tuple(record.producers.values()),
            config_edits=tuple(record.config_edits.values()),
            argument_edits=tuple(record.argument_edits.values()),
            input_labels=self._input_labels,
            tensors=tuple(x for x in self._tensors if x.labels.size > 1),
            work=tuple(record.work),
            labels_of=self._labels_of,
            unknown=tuple(record.unknown.items()),
            inlined=self._inlined,
            undescribed=self._undescribed,
            contractions=tuple(record.contractions.values()),
            gated=frozenset(record.gated),
        )

    def _expressed(self) -> Bundles:
        """The bundles, once all that opened layers cannot be made smaller by is frozen."""
        scopes = [x for x in self.record.graph.scopes() if not x.opened or id(x.model) in self._inlined]
        elsewhere = {id(call.op): call for scope in scopes for call in scope.calls if call.inner is None}
        compared = Comparison(self.record, self._labels_of)
        expressions = [Expression(self.record, compared, calls, self._labels_of, elsewhere) for calls in self._opened.values()]
        for expression in expressions:
            expression.couple()
        while True:
            bundles = self.record.table.resolve()
            made = made_roots(bundles, self.record.producers.values())
            failed = [(x, why) for x in expressions if (why := x.try_out(bundles, made)) is not None]
            if not failed:
                break
            for expression, why in failed:
                expression.freeze(why)
        self._undescribed = frozenset(id(x.op) for x in expressions if not x.is_described)
        self.record.config_edits |= {(id(x.target), x.key): x for expression in expressions for x in expression.edits}
        return bundles

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
