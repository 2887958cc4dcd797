"""Criteria that look at what channels carry on data: at what each of their consumers is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlt_prune.errors import PlanError
from tlt_prune.graph.labels import varying_axes
from tlt_prune.pruning.batches import Batches, progress
from tlt_prune.pruning.importance.network import Network, Scores
from tlt_prune.pruning.walk import Walk


class _Activations:
    """What Activation and APoZ share.

    Attributes:
        used: after a call: how much data it was.
    """

    comparable = False

    def __init__(self, data: Any, *, steps: int | None = None, batch_size: int = 64) -> None:
        self._data, self._steps, self._batch_size = data, steps, batch_size
        self.used = ""

    def __call__(self, network: Network) -> dict[str, Scores]:
        channels = network.channels
        name = type(self).__name__
        batches = Batches(self._data, channels.graph, steps=self._steps, batch_size=self._batch_size, what=f"criterion {name}")
        self.used = str(batches)
        root = channels.bundles.root
        readers = {id(axis.op) for axis in channels.axes if axis.role == "in"}
        total, count = np.zeros(channels.n_labels), np.zeros(channels.n_labels)
        with progress(sum(1 for _ in channels.graph.walk()), f"{name} on {self.used}") as advance:
            for step in Walk(channels.graph, batches):
                advance()
                if id(step.call.op) not in readers:
                    continue
                for tensor in step.call.inputs:
                    labels = channels.labels_of.get(tensor.key)
                    if labels is None or not varying_axes(labels):
                        continue
                    (axis,) = varying_axes(labels)
                    vector = root[labels.reshape(-1)]
                    for value in step.known[tensor.key]:
                        array = np.moveaxis(np.asarray(value), axis, -1)
                        rows = array.reshape(-1, array.shape[-1])
                        np.add.at(total, vector, self._of(rows))
                        np.add.at(count, vector, len(rows))
        if not np.isfinite(total).all():
            raise PlanError(f"criterion {name}: activations are not finite. Expected a model without NaN or infinity.")
        return network.of_bundles(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))

    def _of(self, rows: Any) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.used})"


class Activation(_Activations):
    """Mean of |activation| over examples and positions, at the inputs of a channel's consumers.

    Molchanov et al., ICLR 2017, arXiv:1611.06440, section 2.2, "activation". A channel whose consumers are inside one
    layer (a head of attention) has no vote.

    Args:
        data: inputs, labelled or not: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        steps: batches to read; None for all.
        batch_size: of arrays.
    """

    def _of(self, rows: Any) -> Any:
        return np.abs(rows).sum(axis=0, dtype=np.float64)


class APoZ(_Activations):
    """Share of activations that are not zero: one minus the average percentage of zeros.

    Hu et al., "Network Trimming", 2016, arXiv:1607.03250, equation 1. After an activation that is never zero it says nothing.

    Args:
        data, steps, batch_size: as for `Activation`.
    """

    def _of(self, rows: Any) -> Any:
        return np.count_nonzero(rows, axis=0)
