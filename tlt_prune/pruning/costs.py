"""Parameters and multiply-accumulates (MACs) of a model, dense and pruned, from its channel graph.

MACs count one multiplication with one addition, for one input (batch 1); bias, normalisation and
activations are not counted.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tlt_prune.graph.channels import Alive, ChannelGraph


@dataclasses.dataclass(frozen=True)
class Costs:
    """Per layer (by `id`) and in total.

    Attributes:
        params: layer id -> number of parameters.
        macs: layer id -> MACs of all its calls, NaN where a size is unknown.
    """

    params: dict[int, int]
    macs: dict[int, float]

    @property
    def total_params(self) -> int:
        return sum(self.params.values())

    @property
    def total_macs(self) -> float:
        return math.fsum(self.macs.values())


def costs(channels: ChannelGraph, alive: Alive | None = None) -> Costs:
    """Costs of the model that retains `alive` (`(n_labels,)`; everything by default)."""
    if alive is None:
        alive = np.ones(channels.n_labels, dtype=bool)
    kept = {(id(a.op), a.index, a.axis): int(alive[a.labels].sum()) for a in channels.axes}
    params: dict[int, int] = {}
    for call in channels.graph.walk():
        if call.inner is not None or id(call.op) in params or not channels.graph.family.is_layer(call.op):
            continue
        params[id(call.op)] = sum(
            math.prod(kept.get((id(call.op), index, axis), size) for axis, size in enumerate(weight.shape))
            for index, weight in enumerate(channels.graph.family.weights(call.op))
        )
    macs: dict[int, float] = {}
    for work in channels.work:
        macs[id(work.op)] = macs.get(id(work.op), 0.0) + work.count(alive)
    return Costs(params, macs)
