"""A model as criteria see it: its filters, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune.errors import PlanError
from tlt_prune.graph import ChannelGraph, Layer, Producer

FilterScores = NDArray[np.float64]
Criterion = Callable[["Network"], Mapping[str, ArrayLike]]
"""Layer name -> scores `(n_filters,)`: the higher, the sooner a filter stays. NaN, or a layer left out: not scored, never
removed.

    def spread(network):
        return {x.name: x.matrix.std(axis=1) for x in network.layers}

    tlt_prune.prune_model(model, ratio=0.5, criterion=spread)
"""


class Filters:
    """The filters of one layer.

    Attributes:
        name: the layer's path ("submodel/conv"), with ":part" where it has several kinds of channels.
        layer: the Keras layer; to be read, never changed.
        count: number of filters.
        labels: `(count,)`, the label of each filter's channel.
    """

    def __init__(self, producer: Producer, weights: Sequence[NDArray[Any]]) -> None:
        self.name = producer.name
        self.layer = producer.call.op
        self.labels = producer.labels
        self.count = len(producer.labels)
        self._slices = producer.slices
        self._weights = weights

    def power_sums(self, power: float) -> FilterScores:
        """Sum of |w|^power over every kernel slice of each filter, shape `(count,)`.

        Slices that carry the same label (the gates of an LSTM unit, the multiplier of a depthwise
        kernel) belong to one filter and are added up.
        """
        values, inverse = np.unique(self.labels, return_inverse=True)
        total = np.zeros(len(values))
        for index, axes, labels in self._slices:
            kernel = self._weights[index]
            others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
            # float64 from the first operation on: a filter's rank must not depend on summation order.
            # In place: a kernel in float64 is twice as large as it is, and every copy counts.
            powers = kernel.astype(np.float64)
            np.abs(powers, out=powers)
            powers **= power
            sums = np.sum(powers, axis=others).reshape(-1)
            np.add.at(total, np.searchsorted(values, labels), sums)
        return self._finite(total[inverse])

    @property
    def matrix(self) -> FilterScores:
        """All kernel weights of each filter, one row a filter: `(count, n_weights)`. Filters of fewer weights end in zeros."""
        values, inverse = np.unique(self.labels, return_inverse=True)
        parts: list[list[FilterScores]] = [[] for _ in values]
        for index, axes, labels in self._slices:
            kernel = np.moveaxis(self._weights[index].astype(np.float64), axes, range(len(axes)))
            rows = kernel.reshape(len(labels), -1)
            for label, row in zip(np.searchsorted(values, labels).tolist(), rows, strict=True):
                parts[label].append(row)
        joined = [np.concatenate(x) if x else np.zeros(0) for x in parts]
        rows = np.zeros((len(values), max(map(len, joined), default=0)))
        for row, filled in zip(rows, joined, strict=True):
            row[: len(filled)] = filled
        self._finite(rows.sum(axis=1)[inverse])
        return rows[inverse]

    def _finite(self, scores: FilterScores) -> FilterScores:
        if not np.isfinite(scores).all():
            bad = np.flatnonzero(~np.isfinite(scores))[:5].tolist()
            raise PlanError(
                f"Layer '{self.name}' has weights that are too large to score (filters {bad}...). Expected a trained model; "
                "check its training log."
            )
        return scores


class Network:
    """A model, as a criterion sees it.

    Attributes:
        model: the Keras model; to be read, never changed.
        layers: its layers with filters, in topological order.
        channels: the traced model.
        removable: `(n_labels,)`, False where a channel is frozen whatever it scores.
    """

    def __init__(self, channels: ChannelGraph) -> None:
        self.channels = channels
        self.model = channels.graph.model
        self._kept: tuple[Layer, list[NDArray[Any]]] | None = None
        self.layers = tuple(Filters(p, _Lazy(self, p.call.op)) for p in channels.producers)
        self.removable = np.ones(channels.n_labels, dtype=bool)
        if channels.bundles.frozen:
            self.removable[list(channels.bundles.frozen)] = False
        self.removable = self.removable[channels.bundles.root]

    def weights(self, layer: Layer) -> list[NDArray[Any]]:
        """The weight arrays of a layer, in the order of `ChannelGraph`'s weight indices; one layer's are kept at a time."""
        if self._kept is None or self._kept[0] is not layer:
            # Gone before the next ones come.
            self._kept = None
            family = self.channels.graph.family
            self._kept = layer, [family.numpy(w) for w in family.weights(layer)]
        return self._kept[1]

    def of_bundles(self, scores: FilterScores) -> dict[str, FilterScores]:
        """Layer name -> scores of its filters, from scores of whole bundles: `(n_labels,)`, meaningful at roots."""
        root = self.channels.bundles.root
        return {x.name: scores[root[x.labels]] for x in self.layers}


class _Lazy(Sequence[NDArray[Any]]):
    """A layer's weights, read when first needed: a criterion may need none."""

    def __init__(self, network: Network, layer: Layer) -> None:
        self._network, self._layer = network, layer

    def __getitem__(self, index: int | slice) -> Any:
        return self._network.weights(self._layer)[index]

    def __len__(self) -> int:
        return len(self._network.weights(self._layer))
