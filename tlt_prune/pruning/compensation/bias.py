"""The mean of what is removed, given to the consumers as a constant.

A consumer that loses the rows W_c of removed channels c loses, on average, the sum over c of E[x_c] W_c (summed over the
window too). That constant goes into its bias, or is taken from the moving mean of the batch normalization behind it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tlt_prune.config import COMPENSATIONS
from tlt_prune.graph import Alive, Call, ChannelGraph, Family, KerasModel, as_array, is_convolution, is_dense
from tlt_prune.pruning.compensation.consumers import Home, homes, pairs, removed_inputs
from tlt_prune.pruning.compensation.moments import moments
from tlt_prune.pruning.running.batches import TakesData, UserData
from tlt_prune.pruning.running.walk import Walk, watched


@COMPENSATIONS.register("bias")
class Bias(TakesData):
    """Adds the removed channels' mean contribution to their consumers.

    Without data, the mean of a channel is what the batch normalization before it, and the activation in between, let expect:
    see `moments`. A channel that is constant goes without a trace, except that a convolution that pads with
    zeros saw less of it at the border: the constant is the one of the interior.

    Args:
        data: None, or inputs to measure the mean with: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        steps: batches to read; None for all.
        batch_size: of arrays.

    Attributes:
        used: after a call: how much data it was.
    """

    def __init__(self, data: UserData | None = None, *, steps: int | None = None, batch_size: int = 64) -> None:
        super().__init__(data, steps, batch_size)
        self._means: dict[int, NDArray[np.float64]] | None = None
        self._model: KerasModel | None = None

    def __call__(self, channels: ChannelGraph, alive: Alive, pruned: KerasModel) -> pd.DataFrame:
        graph = channels.graph
        family = graph.family
        gone = removed_inputs(channels, alive)
        outputs = {id(a.op): alive[a.labels] for a in channels.axes if a.role == "out"}
        pruned_graph = channels.graph_of(pruned)
        rooms = homes(pruned_graph)
        means = self._measured(channels) if self._data is not None else {k: x.mean for k, x in moments(graph).items()}
        calls = collections.Counter(id(call.op) for call in graph.walk())
        rows = []
        for old, new in pairs(graph, pruned_graph):
            op = old.op
            if id(op) not in gone or old.inner is not None:
                continue
            home = rooms.get(id(new.op))
            mean = means.get(old.inputs[0].key)
            reason = _reason_left_alone(family, old, calls[id(op)], home, mean)
            if home is not None and mean is not None and not reason:
                (index, removed), *_ = gone[id(op)].items()
                kernel = family.numpy(family.weights(op)[index]).astype(np.float64)
                rows_of = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
                lost = mean[removed] @ rows_of[removed]
                keep = outputs.get(id(op))
                home.add(family, lost if keep is None else lost[keep], f"Bias, behind '{old.path}'")
            padded = getattr(op, "padding", "valid") != "valid" and max(getattr(op, "kernel_size", (1,))) > 1
            note = reason or ("exact for constant channels but at the padded border" if padded else "")
            rows.append((old.path, not reason, note))
        return pd.DataFrame(rows, columns=["layer", "done", "note"])

    def _measured(self, channels: ChannelGraph) -> dict[int, NDArray[np.float64]]:
        """Mean of each channel of each convolution's and dense layer's input, by the key of the tensor."""
        graph = channels.graph
        if self._means is None or self._model is not graph.model:
            batches = self._read(graph, "Bias")
            means: dict[int, NDArray[np.float64]] = {}
            for step in watched(Walk(graph, batches), graph, f"Means of activations on {self.used}"):
                op = step.call.op
                if is_convolution(graph.family, op) or is_dense(graph.family, op):
                    first = getattr(op, "data_format", "") == "channels_first"
                    means[step.call.inputs[0].key] = _channel_means(step.input(), 1 if first else -1)
            self._means, self._model = means, graph.model
        return self._means


def _reason_left_alone(family: Family, call: Call, times: int, home: Home | None, mean: NDArray[np.float64] | None) -> str:
    if not (is_convolution(family, call.op) or is_dense(family, call.op)):
        return f"{type(call.op).__name__} is left alone: expected a convolution without groups or a dense layer"
    if times > 1:
        return "it is called several times"
    if home is None:
        return "it has no bias, and no batch normalization follows at once"
    return "" if mean is not None else "the mean of its inputs does not follow from a batch normalization: give Bias some data"


def _channel_means(values: Sequence[ArrayLike], axis: int) -> NDArray[np.float64]:
    arrays = [np.moveaxis(as_array(x), axis, -1) for x in values]
    total = sum(x.reshape(-1, x.shape[-1]).sum(axis=0, dtype=np.float64) for x in arrays)
    mean: NDArray[np.float64] = total / sum(x.size // x.shape[-1] for x in arrays)
    return mean
