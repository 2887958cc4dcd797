"""Criteria that look at what channels carry on data: at what each of their consumers is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.config import CRITERIA
from tlt_prune.errors import PlanError
from tlt_prune.graph import as_array
from tlt_prune.pruning.criteria.network import FilterScores, Network
from tlt_prune.pruning.running.batches import TakesData, UserData
from tlt_prune.pruning.running.walk import Walk, watched


class _Activations(TakesData):
    """Base class of Activation and APoZ.

    Attributes:
        used: after a call: how much data it was.
    """

    comparable = False

    def __init__(self, data: UserData, *, steps: int | None = None, batch_size: int = 64) -> None:
        super().__init__(data, steps, batch_size)

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        channels = network.channels
        name = type(self).__name__
        batches = self._read(channels.graph, f"criterion {name}")
        readers = channels.readers
        total, count = np.zeros(channels.n_labels), np.zeros(channels.n_labels)
        for step in watched(Walk(channels.graph, batches), channels.graph, f"{name} on {self.used}"):
            if id(step.call.op) not in readers:
                continue
            for tensor, axis, bundles in channels.read_by(step.call):
                for value in step.known[tensor.key]:
                    array = np.moveaxis(as_array(value), axis, -1)
                    rows = array.reshape(-1, array.shape[-1])
                    np.add.at(total, bundles, self._of(rows))
                    np.add.at(count, bundles, len(rows))
        if not np.isfinite(total).all():
            raise PlanError(f"criterion {name}: activations are not finite. Expected a model without NaN or infinity.")
        return network.of_bundles(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))

    def _of(self, rows: NDArray[Any]) -> Any:
        raise NotImplementedError


@CRITERIA.register("Activation", needs="inputs")
class Activation(_Activations):
    """Mean of |activation| over examples and positions, at the inputs of a channel's consumers.

    Molchanov et al., ICLR 2017, arXiv:1611.06440, section 2.2, "activation". A channel whose consumers are inside one
    layer (a head of attention) is not scored.

    Args:
        data: inputs, labeled or not: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        steps: batches to read; None for all.
        batch_size: of arrays.
    """

    def _of(self, rows: NDArray[Any]) -> Any:
        return np.abs(rows).sum(axis=0, dtype=np.float64)


@CRITERIA.register("APoZ", needs="inputs")
class APoZ(_Activations):
    """Share of activations that are not zero: one minus the average percentage of zeros.

    Hu et al., "Network Trimming", 2016, arXiv:1607.03250, equation 1. After an activation that is never zero it says nothing.

    Args:
        data, steps, batch_size: as for `Activation`.
    """

    def _of(self, rows: NDArray[Any]) -> Any:
        return np.count_nonzero(rows, axis=0)
