"""The cost of a model as a sum of terms, each a function of how many channels of some label vectors stay.

The sums are those of `costs`. For parameters and multiply-accumulates a term is a product of counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from tlt_prune.graph import Alive, ChannelGraph, Labels, TensorLike
from tlt_prune.pruning.cost.costs import all_weights, distinct_weights, item_size


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
    weights, axes = all_weights(channels), _labeled_axes(channels)
    terms = []
    for work in channels.work:
        vectors, size = list(work.factors), 1.0
        if work.weight is not None:
            key = (id(work.op), work.weight)
            of_weight, size = _weight(weights[key], axes.get(key, {}))
            vectors += of_weight
        terms.append(Term(tuple(vectors), _product_of_counts(work.positions * size)))
    return terms


def _weight_terms(channels: ChannelGraph, unit: Callable[[TensorLike], float]) -> list[Term]:
    axes = _labeled_axes(channels)
    terms = []
    for key, weight in distinct_weights(channels).items():
        vectors, size = _weight(weight, axes.get(key, {}))
        terms.append(Term(tuple(vectors), _product_of_counts(size * unit(weight))))
    return terms


def _labeled_axes(channels: ChannelGraph) -> dict[tuple[int, int], dict[int, Labels]]:
    labeled: dict[tuple[int, int], dict[int, Labels]] = {}
    for axis in channels.axes:
        labeled.setdefault((id(axis.op), axis.index), {})[axis.axis] = axis.labels
    return labeled


def _weight(weight: TensorLike, labeled: dict[int, Labels]) -> tuple[list[Labels], float]:
    """The label vectors on a weight's axes, and the product of its other axes."""
    rest = math.prod(size for axis, size in enumerate(weight.shape) if axis not in labeled)
    return list(labeled.values()), float(rest)


def _product_of_counts(factor: float) -> Callable[[Sequence[int]], float]:
    return lambda counts: factor * math.prod(counts)


def charged(terms: Sequence[Term], alive: Alive | None = None) -> float:
    """Cost of the model that retains `alive` (`(n_labels,)`; everything by default)."""
    return math.fsum(term.value([len(v) if alive is None else int(alive[v].sum()) for v in term.vectors]) for term in terms)
