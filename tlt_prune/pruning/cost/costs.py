"""Parameters and multiply-accumulates (MACs) of a model, dense and pruned: pure functions of its channel graph.

MACs count one multiplication with one addition, for one input (batch 1); bias, normalization and
activations are not counted.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tlt_prune.graph import Alive, ChannelGraph, Labels, Producer, TensorLike, Variable

# Types that NumPy does not know.
_ITEM_SIZES = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}

Weight = tuple[int, int | None]
"""(`id` of a layer, position of a weight among its weights); None for work without a weight."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """By weight and in total.

    Attributes:
        params: number of parameters of each weight; of one that several layers share, under the first.
        macs: MACs of all calls that multiply it in, NaN where a size is unknown.
        bytes: size of each weight, as its type stores it.
    """

    params: dict[Weight, int]
    macs: dict[Weight, float]
    bytes: dict[Weight, int]

    @property
    def total_params(self) -> int:
        return sum(self.params.values())

    @property
    def total_macs(self) -> float:
        return math.fsum(self.macs.values())

    @property
    def size_mb(self) -> float:
        """Of all weights, in megabytes of 10^6 bytes."""
        return sum(self.bytes.values()) / 1e6


def costs(channels: ChannelGraph, alive: Alive | None = None) -> Costs:
    """Costs of the model that retains `alive` (`(n_labels,)`; everything by default)."""
    if alive is None:
        alive = np.ones(channels.n_labels, dtype=bool)
    kept = {(id(a.op), a.index, a.axis): _count(a.labels, alive) for a in channels.axes}
    params: dict[Weight, int] = {}
    sizes: dict[Weight, int] = {}
    counts = {
        (op, index): math.prod(kept.get((op, index, axis), size) for axis, size in enumerate(weight.shape))
        for (op, index), weight in all_weights(channels).items()
    }
    for place, weight in distinct_weights(channels).items():
        params[place], sizes[place] = counts[place], counts[place] * item_size(weight)
    macs: dict[Weight, float] = {}
    for work in channels.work:
        key = (id(work.op), work.weight)
        size = counts[id(work.op), work.weight] if work.weight is not None else 1
        count = work.positions * size * math.prod(_count(labels, alive) for labels in work.factors)
        macs[key] = macs.get(key, 0.0) + count
    return Costs(params, macs, sizes)


def all_weights(channels: ChannelGraph) -> dict[tuple[int, int], Variable]:
    """Every variable of the model, by the `id` of its layer and its position there."""
    return {(id(call.op), index): weight for call, index, weight in channels.graph.weights()}


def distinct_weights(channels: ChannelGraph) -> dict[tuple[int, int], Variable]:
    """The same without the second and further places of a variable that several layers share."""
    distinct: dict[int, tuple[tuple[int, int], Variable]] = {}
    for key, weight in all_weights(channels).items():
        distinct.setdefault(id(weight), (key, weight))
    return dict(distinct.values())


def item_size(weight: TensorLike) -> int:
    """Bytes that one entry of a variable takes."""
    name = weight.dtype if isinstance(weight.dtype, str) else weight.dtype.name
    return _ITEM_SIZES.get(name) or np.dtype(name).itemsize


def _count(labels: Labels, alive: Alive) -> int:
    return int(alive[labels].sum())


def by_row(channels: ChannelGraph, costs: Costs) -> dict[str, tuple[int, float]]:
    """(parameters, MACs) of each row of the plan; a layer's costs are stated once.

    Of several rows of one layer, a kernel belongs to the row that it scores, a bias to the row whose channels it follows,
    everything else to the first.
    """
    producers: dict[int, list[Producer]] = {}
    for producer in channels.producers:
        producers.setdefault(id(producer.call.op), []).append(producer)
    owner: dict[Weight, str] = {}
    for op, parts in producers.items():
        for part in parts if len(parts) > 1 else ():
            for index, _, _ in part.slices:
                owner.setdefault((op, index), part.name)
    for axis in channels.axes:
        for part in producers.get(id(axis.op), ()):
            if axis.role != "in" and np.isin(axis.labels, part.labels).any():
                owner.setdefault((id(axis.op), axis.index), part.name)
    rows: dict[str, tuple[int, float]] = {p.name: (0, 0.0) for p in channels.producers}
    for weight in {**costs.params, **costs.macs}:
        if weight[0] in producers:
            name = owner.get(weight, producers[weight[0]][0].name)
            params, macs = rows[name]
            rows[name] = (params + costs.params.get(weight, 0), macs + costs.macs.get(weight, 0.0))
    return rows
