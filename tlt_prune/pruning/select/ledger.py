"""The cost of a model while one group after the other changes its number of channels.

Removing the next channels of a group changes the terms that its channels are in, and no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tlt_prune.graph import Labels
from tlt_prune.pruning.cost.terms import Term
from tlt_prune.pruning.select.groups import Grouping


class Ledger:
    """The cost of a model whose groups keep the best `counts` of their bundles."""

    def __init__(self, grouping: Grouping, terms: Sequence[Term]) -> None:
        root = grouping.channels.bundles.root
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
        self._entries: list[dict[int, Labels]] = [{} for _ in grouping.groups]
        rank = np.full(len(root), -1)
        for group in grouping.groups:
            rank[group.members] = np.arange(group.depth)
        for number, vector in enumerate(unique):
            bundles = root[vector]
            owner = grouping.number[bundles]
            for g in np.unique(owner[owner >= 0]).tolist():
                sizes = np.bincount(rank[bundles[owner == g]], minlength=grouping.groups[g].depth)
                self._entries[g][number] = np.concatenate([[0], np.cumsum(sizes)])
        self._touched = [sorted({i for number in entries for i in users[number]}) for entries in self._entries]
        self._sizes = [len(vector) for vector in unique]
        self.counts = [group.depth for group in grouping.groups]
        self._values = [term.value([self._sizes[n] for n in part]) for term, part in zip(terms, self._parts, strict=True)]

    @property
    def total(self) -> float:
        return math.fsum(self._values)

    def change(self, group: int, count: int) -> float:
        """Growth of the total if a group keeps `count` bundles; nothing is changed."""
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
