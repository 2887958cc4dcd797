"""The highest learning rate of a retraining, measured: how fast may this network go before its loss rises?

A learning-rate range test (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, arXiv:1506.01186): some
batches are trained on with a rate that grows from step to step, and everything is put back. A pruned network that has kept what
it knew loses it at rates that one which has lost everything needs; both show in where the loss begins to rise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import TrainingError
from tlt_prune.io import workers
from tlt_prune.training import replicas

STEPS = 60
"""Of a test."""
_LOWEST, _HIGHEST = 1e-5, 1.0
# Of a number; and of all batches that are in memory at once.
_BYTES, _MOST_BYTES = 4, 2**29
# Losses of single batches say little.
_WINDOW = 6
# The loss has risen where it is by that share of the untouched model's above its lowest.
_RISEN = 0.05
# Nothing more is to be seen where it has risen by that many times its lowest.
_ENOUGH = 1.0
# The peak is the rate at which the loss rose, divided by that. Of two networks, straight after pruning and refitted, it lay
# within a factor of 2 of the best one of a sweep: see the manual, Retrain.
_MARGIN = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class RateTest:
    """Result of a range test.

    Attributes:
        peak: highest rate that a retraining should take.
        limit: rate at which the loss rose; the highest one that was tried where it never did.
        rates: `(n,)` rates of the steps.
        losses: `(n,)` running means of the losses there, as multiples of what the untouched model has on the same batches.
    """

    peak: float
    limit: float
    rates: NDArray[np.float64]
    losses: NDArray[np.float64]


def enough_batches(batches: Iterable[Any]) -> list[Any]:
    """The first batches, again and again until there are `STEPS`; fewer different ones where they are large.

    Raises:
        TrainingError: there is none.
    """
    kept: list[Any] = []
    size = 0
    for batch in itertools.islice(batches, STEPS):
        kept.append(batch)
        size += sum(_BYTES * math.prod(x.shape) for x in keras.tree.flatten(batch))
        if size > _MOST_BYTES:
            break
    if not kept:
        raise TrainingError("Retraining: expected training data. Received none.")
    return [kept[i % len(kept)] for i in range(STEPS)]


def find_peak_rate(model: keras.Model, batches: Sequence[Any]) -> RateTest:
    """Finds the peak rate for a compiled model; the model and its optimizer are as they were afterwards.

    Args:
        model: compiled, with an optimizer whose rate is a number.
        batches: `(x, y)` or `(x, y, weights)` as `train_on_batch` takes them, `STEPS` of them or fewer.

    Raises:
        TrainingError: the loss of the untouched model is not finite.
    """
    with unchanged(model):
        # With the rate at 0: the same sums, and batch statistics as in training. Few batches come again and again.
        once = {id(batch): batch for batch in batches}
        losses_before = {key: _loss(model, batch, 0.0) for key, batch in once.items()}
    before = np.array([losses_before[id(batch)] for batch in batches])
    if not np.isfinite(before).all():
        raise TrainingError(f"The loss is {before[~np.isfinite(before)][0]} before any training. Expected a finite number.")
    rates = np.geomspace(_LOWEST, _HIGHEST, len(batches))
    losses: list[float] = []
    means: list[float] = []
    with unchanged(model):
        for rate, batch in zip(rates, batches, strict=True):
            losses.append(_loss(model, batch, float(rate)))
            recent = slice(max(len(losses) - _WINDOW, 0), len(losses))
            scale = float(np.sum(np.abs(before[recent])))
            means.append(float(np.sum(losses[recent])) / scale if scale else math.nan)
            # A loss may be negative, and its lowest near 0.
            if not math.isfinite(means[-1]) or means[-1] - min(means) > max(_ENOUGH * abs(min(means)), _RISEN):
                break
    return _read(rates[: len(means)], np.array(means))


def _read(rates: NDArray[np.float64], means: NDArray[np.float64]) -> RateTest:
    finite = np.where(np.isfinite(means), means, np.inf)
    lowest = int(finite.argmin())
    risen = np.flatnonzero((finite > finite[lowest] + _RISEN) & (np.arange(len(finite)) > lowest))
    limit = float(rates[risen[0]] if len(risen) else rates[-1])
    return RateTest(limit / _MARGIN, limit, rates, means)


def _loss(model: keras.Model, batch: Any, rate: float) -> float:
    model.optimizer.learning_rate = rate
    # Else it is the mean of all batches so far.
    model.reset_metrics()
    if workers.replicas() > 1:
        return replicas.train_on_batch(model, *batch)["loss"]
    return float(model.train_on_batch(*batch, return_dict=True)["loss"])


@contextlib.contextmanager
def unchanged(model: keras.Model) -> Iterator[None]:
    """Puts back all variables of a compiled model and of its optimizer."""
    with workers.scope():
        model.optimizer.build(model.trainable_variables)
    before = [(v, keras.ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)
        model.reset_metrics()
