"""What the rules have stated while a model is traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from tlt_prune.graph.channel_graph import Contraction, Edit, Producer, Role, Template, WeightAxis, Work, labels_in
from tlt_prune.graph.facets import Facets, Source
from tlt_prune.graph.labels import Labels, LabelTable
from tlt_prune.graph.reader import Call, Graph, Tensor
from tlt_prune.graph.types import Layer


class Record:
    """All that the rules have stated so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.table = LabelTable()
        self.axes: dict[tuple[int, int, int], WeightAxis] = {}
        self.producers: dict[tuple[int, str], Producer] = {}
        self.config_edits: dict[Hashable, Edit] = {}
        self.argument_edits: dict[Hashable, Edit] = {}
        self.work: list[Work] = []
        self.unknown: dict[str, str] = {}
        self.facets: dict[int, Facets] = {}
        """Tensor key -> its labels, where it is made of variables alone."""
        self.closed: dict[int, str] = {}
        """`id` of a layer without a rule -> why it could not be opened."""
        self.best_axis: Callable[[Tensor, Sequence[int]], int | None] = lambda tensor, axes: None
        """(tensor, some of its axes) -> the one that can be pruned, where what follows tells: see `lookahead`."""
        self.why_not_inlined: Callable[[Call], str | None] = lambda call: None
        """(call of an opened layer) -> why the layer cannot be replaced by what it does; None if it can."""
        self.enclosing: tuple[Call, ...] = ()
        """The calls of opened layers, outermost first, that what is traced now is inside of."""
        self.is_opened = False
        """Whether what is traced now is inside of an opened layer or model."""
        self.contractions: dict[tuple[int, int], Contraction] = {}
        self.gated: set[int] = set()
        """`id` of each opened layer that contracts channels of activations."""
        self.facet_by_facet = False
        """Whether a rule is applied several times to one call, to the labels of one axis each time."""
        self._weight_index: dict[int, dict[int, int]] = {}

    def frozen(self, rank: int, reason: str) -> Labels:
        """The label array of a tensor of which nothing may be removed."""
        label = self.table.fresh(1)
        self.table.freeze(label, reason)
        return label.reshape((1,) * rank)

    def weight_index(self, op: Layer, variable: object) -> int | None:
        """Position of `variable` among the weights of `op`; None for a computed tensor (LoRA, quantized...)."""
        if id(op) not in self._weight_index:
            self._weight_index[id(op)] = {id(v): i for i, v in enumerate(self.graph.family.weights(op))}
        return self._weight_index[id(op)].get(id(variable))

    def tie_shared_weights(self) -> None:
        """A variable that several layers hold has one label for each index, whoever asks.

        Where one of them has said nothing about an axis, nobody knows what it does with it: nothing of it may be removed.
        """
        holders: dict[int, dict[int, tuple[Any, int]]] = {}
        for call, index, variable in self.graph.weights():
            holders.setdefault(id(variable), {})[id(call.op)] = (call.op, index)
        for places in holders.values():
            if len(places) > 1:
                self._tie([*places.values()])

    def _tie(self, places: Sequence[tuple[Any, int]]) -> None:
        op, index = places[0]
        for axis in range(len(self.graph.family.weights(op)[index].shape)):
            axes = [self.axes.get((id(op), index, axis)) for op, index in places]
            vectors = [x.labels for x in axes if x is not None]
            for vector in vectors[1:]:
                self.table.unify(vectors[0], vector)
            silent = [op.name for (op, _), x in zip(places, axes, strict=True) if x is None]
            for vector in vectors if silent else ():
                self.table.freeze(vector, f"shares weights with '{silent[0]}'")

    def edit(self, edits: dict[Hashable, Edit], key: Hashable, edit: Edit) -> None:
        # One configuration serves every call of a layer: what it depends on must be removed alike.
        first = edits.setdefault(key, edit)
        merged = _merged(first.value, edit.value) if self.facet_by_facet else None
        if merged is not None:
            edits[key] = dataclasses.replace(first, value=merged)
            return
        for a, b in zip(labels_in(first.value), labels_in(edit.value), strict=True):
            if a.shape == b.shape:
                self.table.unify(a, b)
            else:
                for labels in (a, b):
                    self.table.freeze(labels, f"'{getattr(edit.target, 'name', edit.key)}' is called with different shapes")

    def attach(self, source: Source, vector: Labels, role: Role) -> None:
        """Says that an axis of a variable is indexed by `vector`."""
        key = (id(source.op), source.index, source.axis)
        axis = self.axes.setdefault(key, WeightAxis(source.op, source.path, source.index, source.axis, vector, role))
        self.table.unify(axis.labels, vector)
        self.take_role(source, role)

    def take_role(self, source: Source, role: Role) -> WeightAxis:
        """Of several roles of an axis, one that reads or makes channels counts, and of these the one that reads."""
        key = (id(source.op), source.index, source.axis)
        if _ROLES.index(role) > _ROLES.index(self.axes[key].role):
            self.axes[key] = dataclasses.replace(self.axes[key], role=role)
        return self.axes[key]


_ROLES: tuple[Role, ...] = ("follow", "out", "in")


def _merged(a: Template, b: Template) -> Template | None:
    """One template of two that count channels in different places, such as (Count, 8) and (4, Count); None if there is none."""
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return None
    if any(labels_in(x) and labels_in(y) for x, y in zip(a, b, strict=True)):
        return None
    return tuple(x if labels_in(x) else y for x, y in zip(a, b, strict=True))
