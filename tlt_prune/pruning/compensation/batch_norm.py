"""Batch normalizations of a pruned model see other means and variances than those they were trained with: measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tlt_prune.config import COMPENSATIONS
from tlt_prune.errors import PlanError
from tlt_prune.graph import (
    Alive,
    BatchNormalization,
    ChannelGraph,
    Graph,
    KerasModel,
    Variable,
    as_array,
    assign_finite,
    is_batch_norm,
    read,
)
from tlt_prune.pruning.running.batches import Batches, TakesData, UserData
from tlt_prune.pruning.running.walk import Walk, watched


@COMPENSATIONS.register("batch_norm", needs="inputs")
class RecalibrateBatchNorm(TakesData):
    """Sets every moving mean and variance to those of the data, one layer after the other.

    A layer is measured when all before it have been set, over the whole of the data at once: the result depends neither on a
    momentum nor on the size of the batches.

    Args:
        data: inputs, labeled or not: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        steps: batches to read; None for all.
        batch_size: of arrays.

    Attributes:
        used: after a call: how much data it was.
    """

    def __init__(self, data: UserData, *, steps: int | None = None, batch_size: int = 64) -> None:
        super().__init__(data, steps, batch_size)

    def __call__(self, channels: ChannelGraph | None, alive: Alive | None, pruned: KerasModel) -> pd.DataFrame:
        graph = read(pruned)
        family = graph.family
        batches = self._read(graph, "recalibrate_batch_norm")
        before = [(v, family.numpy(v)) for call in graph.walk() if is_batch_norm(family, call.op) for v in _statistics(call.op)]
        try:
            return self._recalibrated(graph, batches)
        except BaseException:
            # All of them or none: the model is the user's, and some would be measured behind others that were not.
            for variable, value in before:
                variable.assign(value)
            raise

    def _recalibrated(self, graph: Graph, batches: Batches) -> pd.DataFrame:
        family = graph.family
        rows = []
        for step in watched(Walk(graph, batches), graph, f"Recalibrating batch normalization on {self.used}"):
            op = step.call.op
            if not is_batch_norm(family, op):
                continue
            if not step.only_call:
                rows.append((step.call.path, False, "it is called several times"))
                continue
            axes = (op.axis,) if isinstance(op.axis, int) else tuple(op.axis)
            for variable, value in zip(_statistics(op), _moments(step.input(), axes, step.call.path), strict=True):
                assign_finite(family, variable, value, f"recalibrate_batch_norm, at '{step.call.path}'")
            rows.append((step.call.path, True, ""))
        return pd.DataFrame(rows, columns=["layer", "done", "note"])


def recalibrate_batch_norm(model: KerasModel, data: UserData, *, steps: int | None = None, batch_size: int = 64) -> pd.DataFrame:
    """Sets the moving means and variances of `model`, in place, to those of the data: see `RecalibrateBatchNorm`.

    Args:
        model: a functional or Sequential Keras model; its batch normalizations are changed, nothing else.
        data, steps, batch_size: as for `RecalibrateBatchNorm`.

    Returns:
        A row a batch normalization: "layer", "done" and, where it was not, why ("note").

    Raises:
        PlanError: the data is empty, of the wrong shape or not finite.
    """
    return RecalibrateBatchNorm(data, steps=steps, batch_size=batch_size)(None, None, model)


def _statistics(op: BatchNormalization) -> tuple[Variable, Variable]:
    return op.moving_mean, op.moving_variance


def _moments(values: Sequence[ArrayLike], axes: tuple[int, ...], path: str) -> tuple[Any, Any]:
    """Mean and (biased) variance over all batches and all axes but `axes`, float64; two passes, so that nothing cancels."""
    arrays = [as_array(x) for x in values]
    others = tuple(i for i in range(arrays[0].ndim) if i not in {a % arrays[0].ndim for a in axes})
    count = sum(x.size for x in arrays) // int(np.prod([arrays[0].shape[a] for a in axes]))
    mean = sum(x.sum(axis=others, dtype=np.float64) for x in arrays) / count
    shape = [1 if i in others else n for i, n in enumerate(arrays[0].shape)]
    variance = sum(np.square(x - mean.reshape(shape)).sum(axis=others) for x in arrays) / count
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise PlanError(
            f"recalibrate_batch_norm: what '{path}' is given is not finite. Expected a model without NaN or infinity."
        )
    return mean, variance
