"""A model's metric with some of its channels switched off, for many sets of channels.

Switched off means what the law says: the consumers are given zero in their place. Until the first consumer of a set, nothing is
different: sets that are first read by the same call share all that comes before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import ArrayLike, NDArray

from tlt_prune.errors import PlanError, first_line
from tlt_prune.graph import ChannelGraph, Graph, Labels, as_array
from tlt_prune.pruning.running.batches import Batches
from tlt_prune.pruning.running.walk import Values, Walk, calls_of

# Values of activations that are kept at a time, about.
_MOST_VALUES = 200_000_000

Metric = Callable[[Any, Any], float]
"""(labels, outputs) over all examples -> a number, the higher the better."""


@dataclasses.dataclass(frozen=True, eq=False)
class Consumers:
    """The calls that read each bundle through a tensor that can be seen.

    Attributes:
        order: `(n_labels,)`, for each bundle root the position in the walk of the first call that reads it; -1 for none.
        visible: `(n_labels,)`, False where some weight reads the bundle out of sight, inside one layer.
    """

    order: Labels
    visible: NDArray[np.bool_]


def consumers(channels: ChannelGraph) -> Consumers:
    """Consumers of each channel: see `Consumers`."""
    root = channels.bundles.root
    order = np.full(channels.n_labels, -1)
    seen = np.zeros(channels.n_labels, dtype=bool)
    readers = channels.readers
    covered: dict[int, set[int]] = {}
    for position, call in enumerate(calls_of(channels.graph)):
        if id(call.op) not in readers:
            continue
        bundles = np.unique(np.concatenate([np.zeros(0, np.int64), *(x for _, _, x in channels.read_by(call))]))
        covered.setdefault(id(call.op), set()).update(bundles.tolist())
        new = bundles[~seen[bundles]]
        order[new], seen[new] = position, True
    reading = [(axis.op, axis.labels) for axis in channels.axes if axis.role == "in"]
    for op, labels in (*reading, *((x.op, x.labels) for x in channels.contractions)):
        hidden = [b for b in np.unique(root[labels]).tolist() if b not in covered.get(id(op), ())]
        seen[hidden] = False
    return Consumers(order, seen)


def metrics_without(
    channels: ChannelGraph,
    sets: Sequence[Labels],
    batches: Batches,
    metric: Metric,
    done: Callable[[int, float], None] = lambda i, value: None,
) -> list[float]:
    """The metric with each of `sets` (bundle roots) switched off; an empty set is the whole model.

    Args:
        channels: the traced model.
        sets: of bundles whose consumers can all be seen: see `consumers`.
        batches: labeled examples.
        metric: of all examples together.
        done: told the position of a set and its metric as soon as it is known.
    """
    first = consumers(channels).order
    starts = [int(first[x].min()) if len(x) else -1 for x in sets]
    results = [float("nan")] * len(sets)
    for start in sorted(set(starts)):
        members = [i for i, s in enumerate(starts) if s == start]
        together = _how_many_together(channels, batches)
        for at in range(0, len(members), together):
            part = members[at : at + together]
            for i, value in zip(part, _metrics_of_sets(channels, [sets[i] for i in part], start, batches, metric), strict=True):
                results[i] = value
                done(i, value)
    return results


def _how_many_together(channels: ChannelGraph, batches: Batches) -> int:
    largest = max((np.prod([n or 64 for n in x.shape[1:]]) for call in channels.graph.walk() for x in call.outputs), default=1)
    return max(1, int(_MOST_VALUES // (4 * largest * batches.examples)))


def _metrics_of_sets(channels: ChannelGraph, sets: Sequence[Labels], start: int, batches: Batches, metric: Metric) -> list[float]:
    """The metric of each set, all in one walk; they are apart from the `start`-th call on."""
    walk = Walk(channels.graph, batches)
    readers = channels.readers
    keep = np.ones((len(sets), channels.n_labels), dtype=np.float32)
    for row, bundles in zip(keep, sets, strict=True):
        row[bundles] = 0
    count = len(batches)
    for position, step in enumerate(walk):
        if position == max(start, 0):
            walk.repeat(len(sets))
        if position < start or id(step.call.op) not in readers:
            continue
        for tensor, axis, bundles in channels.read_by(step.call):
            masks = keep[:, bundles]
            if masks.all():
                continue
            shape = [1] * len(tensor.shape)
            shape[axis] = len(bundles)
            step.replaced[tensor.key] = [
                x if masks[i // count].all() else _masked(x, masks[i // count].reshape(shape))
                for i, x in enumerate(step.known[tensor.key])
            ]
    columns = ([column[i * count : (i + 1) * count] for column in walk.outputs] for i in range(len(sets)))
    return [metric_of_outputs(channels.graph, batches, x, metric) for x in columns]


def metric_of_outputs(graph: Graph, batches: Batches, outputs: Sequence[Values], metric: Metric) -> float:
    """A metric over all batches; `outputs` are values of the model's flat outputs, one per batch.

    Raises:
        PlanError: the metric fails, or is no finite number.
    """
    flat = [concatenated([as_array(x) for x in column]) for column in outputs]
    labels = concatenated([y for _, y in batches])
    return _number(metric, labels, tree.pack_sequence_as(graph.outputs, flat))


def _masked(x: Any, mask: NDArray[np.float32]) -> Any:
    return x * keras.ops.cast(mask, x.dtype) if hasattr(x, "dtype") and not isinstance(x, np.ndarray) else x * mask


def concatenated(parts: Sequence[object]) -> Any:
    """Outputs of several batches joined along the batch axis; each may be a structure of arrays."""
    return tree.map_structure(lambda *x: np.concatenate(x), *parts)


def _number(metric: Metric, labels: object, outputs: object) -> float:
    try:
        value = float(metric(labels, outputs))
    # What a metric raises is its own: it does not fit the labels or the outputs.
    except Exception as error:
        shapes = ", ".join(str(np.shape(a)) for a in tree.flatten((labels, outputs)))
        raise PlanError(
            f"The metric does not fit: {first_line(error)} Received labels and outputs of shapes {shapes}."
        ) from error
    if not np.isfinite(value):
        raise PlanError(f"The metric is {value}. Expected a finite number.")
    return value


def accuracy(labels: ArrayLike, outputs: ArrayLike) -> float:
    """Share of examples (or pixels) whose most probable class is right; of a single output, the share on the right side of 0.5.

    Labels are class numbers or one-hot. Classes lie on the last axis, or on the second where the labels say so.
    """
    y, p = np.asarray(labels), np.asarray(outputs)
    if p.shape[-1] == 1 or p.ndim == 1:
        return float(np.mean((p > 0.5).reshape(-1) == (_fitting(y, (p.shape, p.shape[:-1])) > 0.5).reshape(-1)))
    one_hot = y.shape == p.shape
    first = p.ndim > 2 and (_is_one_hot(y, 1) and not _is_one_hot(y, -1) if one_hot else y.size != p[..., 0].size)
    axis = 1 if first else -1
    p = np.moveaxis(p, axis, -1)
    truth = np.moveaxis(y, axis, -1).argmax(-1) if one_hot else _fitting(y, (p.shape[:-1], (*p.shape[:-1], 1)))
    return float(np.mean(p.argmax(-1) == truth.reshape(p.shape[:-1])))


def _is_one_hot(labels: NDArray[Any], axis: int) -> bool:
    """Whether labels are probabilities along an axis."""
    return bool(np.allclose(labels.sum(axis), 1, atol=1e-3))


def _fitting(labels: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    if labels.shape not in shapes:
        raise ValueError(f"expected labels of shape {' or '.join(map(str, shapes))}.")
    return labels


def metric_of(metric: str | Metric) -> tuple[str, Metric]:
    """(name, metric) for "accuracy", a Keras loss or its name (its negative), a Keras metric (its negative if less is better), or
    a function `(labels, outputs) -> float`.

    Raises:
        PlanError: it is none of these.
    """
    if metric == "accuracy":
        return "accuracy", accuracy
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", getattr(metric, "name", type(metric).__name__))
    if isinstance(metric, str):
        try:
            metric = keras.losses.get(metric)
        except ValueError as error:
            raise PlanError(f"metric: expected 'accuracy', a Keras loss or a function. Received: {metric!r}.") from error
    if _is_loss(metric):
        loss: Any = metric
        return f"-{name}", lambda y, outputs: -float(np.mean(keras.ops.convert_to_numpy(loss(y, outputs))))
    if isinstance(metric, keras.metrics.Metric):
        return _of_keras(metric, str(name))
    if not callable(metric):
        raise PlanError(
            f"metric: expected 'accuracy', a Keras loss or a function (labels, outputs) -> number. Received: {metric!r}."
        )
    return str(name), metric


def _is_loss(metric: object) -> bool:
    """Whether something is one of Keras' losses: an object, or a function of the module."""
    return isinstance(metric, keras.losses.Loss) or any(metric is x for x in vars(keras.losses).values() if callable(x))


def _of_keras(metric: keras.metrics.Metric, name: str) -> tuple[str, Metric]:
    """A Keras metric, of all examples given and no others."""

    def value(y: object, outputs: object) -> float:
        metric.reset_state()
        metric.update_state(y, outputs)
        return float(keras.ops.convert_to_numpy(metric.result()))

    # What Keras says of itself; of a metric that says nothing, more is better.
    if getattr(metric, "_direction", None) == "down":
        return f"-{name}", lambda y, outputs: -value(y, outputs)
    return name, value
