"""The registry of criteria and what they are given.

A criterion is `f(producer, weights) -> (n_filters,)` scores, higher is more important, where `weights`
are the arrays of the producing layer in the order of `Family.weights(op)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph.channel_graph import Producer

Scores = NDArray[np.float64]
Criterion = Callable[[Producer, Sequence[NDArray[Any]]], Scores]

CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    def register(function: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ValueError(f"A criterion named {name!r} is already registered.")
        CRITERIA[name] = function
        return function

    return register


def magnitudes(producer: Producer, weights: Sequence[NDArray[Any]], power: int) -> Scores:
    """Sum of |w|^power over every kernel slice of each filter, shape `(n_filters,)`.

    Slices that carry the same label (the gates of an LSTM unit, the multiplier of a depthwise
    kernel) belong to one filter and are added up.
    """
    values, inverse = np.unique(producer.labels, return_inverse=True)
    total = np.zeros(len(values))
    for index, axes, labels in producer.slices:
        kernel = weights[index]
        others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
        # float64 from the first operation on: a filter's rank must not depend on summation order.
        sums = np.sum(np.abs(kernel.astype(np.float64)) ** power, axis=others).reshape(-1)
        np.add.at(total, np.searchsorted(values, labels), sums)
    return total[inverse]
