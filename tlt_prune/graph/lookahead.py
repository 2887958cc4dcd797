"""Attention written by hand: which axis of a tensor carries channels, where several could.

A projection is cut up into heads and their width, and only one of these axes can be pruned. What happens to the tensor decides:
an axis over which two activations are contracted (the width of queries and keys) has to stay as it is, one that both carry on
(the heads) may lose entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.reader import Call, Graph, Tensor
from tlt_prune.graph.rules.products import product_terms

_MOST_CALLS = 64

Apply = Callable[[Call, Sequence[Labels]], Sequence[Labels]]
"""(call, label arrays of its inputs) -> label arrays of its outputs, by the call's rule, for the arrays alone."""


class Lookahead:
    """Follows the axes of tensors through the calls of a graph."""

    def __init__(self, graph: Graph, apply: Apply) -> None:
        self._readers = graph.readers_by_tensor()
        self._family, self._apply = graph.family, apply

    def best(self, tensor: Tensor, axes: Sequence[int]) -> int | None:
        """The axis of a tensor that products of activations leave alone; None where nothing tells the axes apart."""
        merits = {axis: self._merit(tensor, axis) for axis in axes}
        known = {axis: x for axis, x in merits.items() if x is not None}
        # An axis that is lost is worse than one that no product meets.
        if not known or len(set(merits.values())) == 1 or (len(known) < len(merits) and not any(known.values())):
            return None
        return max(known, key=lambda axis: (known[axis], axis))

    def _merit(self, tensor: Tensor, axis: int) -> int | None:
        """2 where products carry the axis on for both factors, 1 for one of them, 0 where it is contracted or lost.

        None if there is no product.
        """
        size = tensor.shape[axis]
        if size is None:
            return 0
        shape = [size if i == axis % len(tensor.shape) else 1 for i in range(len(tensor.shape))]
        merits = list(self._merits(tensor, np.arange(size, dtype=np.int64).reshape(shape)))
        return min(merits) if merits else None

    def _merits(self, tensor: Tensor, labels: Labels) -> Iterator[int]:
        pending, seen = [(tensor, labels)], 0
        while pending and seen < _MOST_CALLS:
            tensor, labels = pending.pop(0)
            for call in self._readers[tensor.key]:
                if call is None or call.inner is not None or getattr(call.op, "weights", None):
                    continue
                seen += 1
                found = list(_of_product(call, tensor, varying_axes(labels)[0]))
                yield from found
                if found:
                    continue
                given = [labels if x.key == tensor.key else np.zeros((1,) * len(x.shape), np.int64) for x in call.inputs]
                for output, moved in zip(call.outputs, self._apply(call, given), strict=False):
                    if varying_axes(moved):
                        pending.append((output, moved))
                    else:
                        yield 0


def _of_product(call: Call, tensor: Tensor, axis: int) -> Iterator[int]:
    """Merit of an axis in a product; nothing where the call is none."""
    if type(call.op).__name__ == "DotProductAttention":
        yield from (2 if axis == 2 else 0 for x in call.inputs if x.key == tensor.key)
        return
    if len(call.inputs) != 2:
        return
    letters = product_terms(call)
    if letters is None:
        return
    terms, output = letters
    for position, x in enumerate(call.inputs):
        if x.key == tensor.key:
            letter = terms[position][axis]
            yield 0 if letter not in output else 2 if letter in terms[1 - position] else 1
