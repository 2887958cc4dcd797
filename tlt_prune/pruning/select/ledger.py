"""What a model costs while one group after the other changes its number of channels: the sums of `costs`, kept up to date.

A cost is a sum of terms; a term is a function of how many channels of some label vectors stay (a product, for parameters and
MACs). Removing the next channels of a group changes the terms that its channels are in, and no others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from tlt_prune.graph.channel_graph import ChannelGraph
from tlt_prune.graph.labels import Alive, Labels
from tlt_prune.pruning.cost.costs import all_weights, distinct_weights, item_size
from tlt_prune.pruning.select.groups import Grouping


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """`value(counts)`: counts[i] of `vectors[i]` stay."""

    vectors: tuple[Labels, ...]
    value: Callable[[Sequence[int]], float]


def param_terms(channels: ChannelGraph) -> list[Term]:
    """Parameters of the model."""
    return _weight_terms(channels, lambda weight: 1.0)


def byte_terms(channels: ChannelGraph) -> list[Term]:
    """Megabytes of the model's weights."""
    return _weight_terms(channels, lambda weight: item_size(weight) / 1e6)


def mac_terms(channels: ChannelGraph) -> list[Term]:
    """Multiply-accumulates of the model for one input."""
    weights, axes = all_weights(channels), _axes(channels)
    terms = []
    for work in channels.work:
        vectors, size = list(work.factors), 1.0
        if work.weight is not None:
            key = (id(work.op), work.weight)
            own, size = _weight(weights[key], axes.get(key, {}))
            vectors += own
        terms.append(Term(tuple(vectors), _product(work.positions * size)))
    return terms


def _weight_terms(channels: ChannelGraph, unit: Callable[[object], float]) -> list[Term]:
    axes = _axes(channels)
    terms = []
    for key, weight in distinct_weights(channels).items():
        vectors, size = _weight(weight, axes.get(key, {}))
        terms.append(Term(tuple(vectors), _product(size * unit(weight))))
    return terms


def _axes(channels: ChannelGraph) -> dict[tuple[int, int], dict[int, Labels]]:
    found: dict[tuple[int, int], dict[int, Labels]] = {}
    for axis in channels.axes:
        found.setdefault((id(axis.op), axis.index), {})[axis.axis] = axis.labels
    return found


def _weight(weight: object, labeled: dict[int, Labels]) -> tuple[list[Labels], float]:
    """The label vectors on a weight's axes, and the product of its other axes."""
    rest = math.prod(size for axis, size in enumerate(weight.shape) if axis not in labeled)  # type: ignore[attr-defined]
    return list(labeled.values()), float(rest)


def _product(factor: float) -> Callable[[Sequence[int]], float]:
    return lambda counts: factor * math.prod(counts)


def charged(terms: Sequence[Term], alive: Alive | None = None) -> float:
    """What a model that retains `alive` (`(n_labels,)`; everything by default) is charged."""
    return math.fsum(term.value([len(v) if alive is None else int(alive[v].sum()) for v in term.vectors]) for term in terms)


class Ledger:
    """The cost of a model whose groups keep the best `counts` of their bundles."""

    def __init__(self, channels: ChannelGraph, found: Grouping, terms: Sequence[Term]) -> None:
        root = channels.bundles.root
        self._terms = terms
        vectors: dict[int, int] = {}
        self._parts: list[tuple[int, ...]] = []
        unique: list[Labels] = []
        for term in terms:
            numbers = []
            for vector in term.vectors:
                if id(vector) not in vectors:
                    vectors[id(vector)] = len(unique)
                    unique.append(vector)
                numbers.append(vectors[id(vector)])
            self._parts.append(tuple(numbers))
        users: list[set[int]] = [set() for _ in unique]
        for i, part in enumerate(self._parts):
            for number in part:
                users[number].add(i)
        # (group, vector) -> how many entries of the vector stay with the best k bundles of the group, for every k.
        self._entries: list[dict[int, Labels]] = [{} for _ in found.groups]
        rank = np.full(len(root), -1)
        for group in found.groups:
            rank[group.members] = np.arange(group.depth)
        for number, vector in enumerate(unique):
            bundles = root[vector]
            owner = found.number[bundles]
            for g in np.unique(owner[owner >= 0]).tolist():
                sizes = np.bincount(rank[bundles[owner == g]], minlength=found.groups[g].depth)
                self._entries[g][number] = np.concatenate([[0], np.cumsum(sizes)])
        self._touched = [sorted({i for number in entries for i in users[number]}) for entries in self._entries]
        self._sizes = [len(vector) for vector in unique]
        self.counts = [group.depth for group in found.groups]
        self._values = [term.value([self._sizes[n] for n in part]) for term, part in zip(terms, self._parts, strict=True)]

    @property
    def total(self) -> float:
        return math.fsum(self._values)

    def change(self, group: int, count: int) -> float:
        """What the total grows by if a group keeps `count` bundles; nothing is changed."""
        sizes = self._sizes_with(group, count)
        return math.fsum(self._value(i, sizes) - self._values[i] for i in self._touched[group])

    def set(self, group: int, count: int) -> None:
        """Lets a group keep `count` bundles."""
        for number, size in self._sizes_with(group, count).items():
            self._sizes[number] = size
        self.counts[group] = count
        for i in self._touched[group]:
            self._values[i] = self._value(i, {})

    def set_all(self, counts: Sequence[int]) -> None:
        """Lets the groups keep `counts`."""
        for group, count in enumerate(counts):
            if count != self.counts[group]:
                self.set(group, count)

    def _sizes_with(self, group: int, count: int) -> dict[int, int]:
        before = self.counts[group]
        return {n: self._sizes[n] + int(kept[count] - kept[before]) for n, kept in self._entries[group].items()}

    def _value(self, term: int, sizes: dict[int, int]) -> float:
        return self._terms[term].value([sizes.get(n, self._sizes[n]) for n in self._parts[term]])
