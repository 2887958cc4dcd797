"""The result of tracing, as plain data: selection, costs and rewriting are pure functions of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph.labels import Alive, Bundles, Labels, varying_axes
from tlt_prune.graph.reader import Call, Graph, Tensor, read
from tlt_prune.graph.types import KerasModel

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
        slices: for each kernel, (index in `Family.weights(op)`, axes that count its filters, labels of its filters):
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
class Count:
    """In a template: how many of `labels` are retained."""

    labels: Labels


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """In a template: `values` (an array, or nested lists) without what is removed along `axis`."""

    values: Any
    axis: int
    labels: Labels


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """In a template: where the retained ones of `labels[chosen]` lie among the retained of `labels`."""

    chosen: Labels
    labels: Labels


Template = Any
"""A value in which `Count`, `Cut` and `Positions` stand for what depends on the retained channels, at any depth of tuples,
lists, dictionaries and slices: `(None, 1, Count(labels))`. See `resolve`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A configuration entry (`key` is its path) or an argument of a call that depends on the retained channels."""

    target: Any
    key: Any
    value: Template


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Multiply-accumulates of one call: `positions` times the retained of each of `factors` times the size of a weight.

    Attributes:
        positions: NaN where a size is unknown.
        factors: label vectors.
        weight: position in `Family.weights(op)` of what is multiplied in once a position, None for none.
    """

    op: Any
    path: str
    positions: float
    factors: tuple[Labels, ...] = ()
    weight: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction:
    """One input of a call that sums over its channels without a weight, as a product of activations does.

    A channel that is removed counts as zero there: the input is multiplied by zero, as the rows of a weight are set to zero.

    Attributes:
        position: of the input among those of the call, flat.
        axis: of that input.
        labels: `(size of the axis,)`.
    """

    op: Any
    path: str
    position: int
    axis: int
    labels: Labels


@dataclasses.dataclass(frozen=True, eq=False)
class TensorLabels:
    """One output of one call: `path` and `op` say whose."""

    op: Any
    path: str
    labels: Labels


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ChannelGraph:
    """Result of `trace`. All label vectors index into `bundles.root`.

    Attributes:
        input_labels: `id` of a graph -> labels of its flat inputs.
        tensors: every output of every call that carries more than one channel.
        labels_of: tensor key -> its label array, the inputs of the model included.
        unknown: (path, class name) of each layer without a rule.
        inlined: `id` of each layer that is to be replaced by what it does.
        undescribed: `id` of each opened layer that would do something else if it were made from its configuration.
        contractions: inputs whose channels are summed over without a weight.
        gated: `id` of each opened layer with such an input inside.
        whole: the model with all its residual blocks, where some were left out.
        left_out: names of those.
    """

    graph: Graph
    bundles: Bundles
    axes: tuple[WeightAxis, ...]
    producers: tuple[Producer, ...]
    config_edits: tuple[Edit, ...]
    argument_edits: tuple[Edit, ...]
    input_labels: dict[int, tuple[Labels, ...]]
    tensors: tuple[TensorLabels, ...]
    work: tuple[Work, ...]
    labels_of: dict[int, Labels]
    unknown: tuple[tuple[str, str], ...]
    inlined: frozenset[int] = frozenset()
    undescribed: frozenset[int] = frozenset()
    contractions: tuple[Contraction, ...] = ()
    gated: frozenset[int] = frozenset()
    whole: ChannelGraph | None = None
    left_out: tuple[str, ...] = ()
    _rewritten: dict[int, Callable[[], Graph]] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<ChannelGraph of '{self.graph.model.name}': {len(self.producers)} producing layers, {self.n_labels} labels>"

    @property
    def original(self) -> ChannelGraph:
        """The model with all its residual blocks: `whole`, or this one."""
        return self.whole or self

    @property
    def n_labels(self) -> int:
        return len(self.bundles.root)

    @property
    def readers(self) -> set[int]:
        """`id` of each layer or operation that reads channels: those that contract them, most often with a weight."""
        return {id(axis.op) for axis in self.axes if axis.role == "in"} | {id(x.op) for x in self.contractions}

    @contextlib.contextmanager
    def rewritten_as(self, model: KerasModel, new_graph: Callable[[], Graph]) -> Iterator[None]:
        """While what became of the model is worked on: `new_graph` makes its graph, call by call that of the original."""
        self._rewritten[id(model)] = new_graph
        try:
            yield
        finally:
            del self._rewritten[id(model)]

    def graph_of(self, model: KerasModel) -> Graph:
        """The graph of what became of the model: its calls are those of `graph`, one for one."""
        new_graph = self._rewritten.get(id(model))
        return read(model) if new_graph is None else new_graph()

    def read_by(self, call: Call) -> list[tuple[Tensor, int, Labels]]:
        """(tensor, its channel axis, bundle of each index there) for what a call is given that carries channels."""
        reads = []
        for tensor in call.inputs:
            labels = self.labels_of[tensor.key]
            for axis in varying_axes(labels):
                reads.append((tensor, axis, self.bundles.root[labels.reshape(-1)]))
        return reads

    def grouped(self, free: NDArray[np.bool_]) -> tuple[Labels, list[Labels]]:
        """Partition of bundles by the set of layers that make them, in the order of their first label.

        The sets of layers are compared by a Zobrist hash: the exclusive or of one random 64-bit word per layer.

        Args:
            free: `(n_labels,)`, True at the roots of the bundles to divide.

        Returns:
            `(n_labels,)`, the number of the group of each of those roots that a layer makes, -1 elsewhere; and the roots in each
            group, ascending.
        """
        root = self.bundles.root
        words = np.random.default_rng(0).integers(1, 2**63, size=len(self.producers), dtype=np.int64)
        signature = np.zeros(len(root), dtype=np.int64)
        for word, producer in zip(words, self.producers, strict=True):
            signature[np.unique(root[producer.labels])] ^= word
        bundles = np.flatnonzero(free & (signature != 0))
        _, first, inverse = np.unique(signature[bundles], return_index=True, return_inverse=True)
        number = np.full(len(root), -1, dtype=np.int64)
        number[bundles] = np.argsort(np.argsort(first))[inverse]
        order = np.argsort(number[bundles], kind="stable")
        ends = np.cumsum(np.bincount(number[bundles], minlength=len(first)))[:-1]
        return number, np.split(bundles[order], ends) if len(bundles) else []


def resolve(template: Template, alive: Alive) -> Any:
    """The value of a template, for what is retained (`(n_labels,)`)."""
    match template:
        case Count(labels):
            return int(alive[labels].sum())
        case Cut(values, axis, labels):
            cut = np.compress(alive[labels], np.asarray(values), axis=axis)
            return cut.tolist() if isinstance(values, (list, tuple)) else cut
        case Positions(chosen, labels):
            rank = np.cumsum(alive[labels]) - 1
            return rank[chosen[alive[labels[chosen]]]].tolist()
        case slice(start=start, stop=stop, step=step):
            return slice(*(resolve(x, alive) for x in (start, stop, step)))
        case tuple() | list():
            return type(template)(resolve(x, alive) for x in template)
        case dict():
            return {key: resolve(value, alive) for key, value in template.items()}
        case _:
            return template


def made_roots(bundles: Bundles, producers: Iterable[Producer]) -> Labels:
    """Roots of the bundles that some layer makes, ascending: no others ever go."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(bundles.root[x.labels] for x in producers)]))


def edits_by_target(edits: Iterable[Edit]) -> dict[int, list[Edit]]:
    """`id` of a target -> its edits."""
    by_target: dict[int, list[Edit]] = {}
    for edit in edits:
        by_target.setdefault(id(edit.target), []).append(edit)
    return by_target


def edited_arguments(call: Call, edits: Iterable[Edit], alive: Alive) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, for what is retained (`(n_labels,)`).

    Args:
        call: of the original.
        edits: of its arguments.
    """
    args, kwargs = list(call.args), dict(call.kwargs)
    for edit in edits:
        if isinstance(edit.key, int) and edit.key < len(args):
            args[edit.key] = resolve(edit.value, alive)
        else:
            kwargs[edit.key] = resolve(edit.value, alive)
    return tuple(args), kwargs


def labels_in(template: Template) -> list[Labels]:
    """The label vectors that a template depends on."""
    match template:
        case Count(labels) | Cut(_, _, labels) | Positions(_, labels):
            return [labels]
        case slice(start=start, stop=stop, step=step):
            return labels_in((start, stop, step))
        case tuple() | list():
            return [labels for x in template for labels in labels_in(x)]
        case dict():
            return labels_in(list(template.values()))
        case _:
            return []
