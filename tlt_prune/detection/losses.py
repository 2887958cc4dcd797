"""Losses of DetectNet_v2: coverage and boxes, weighted by class and objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from tlt_prune.errors import SpecError

if TYPE_CHECKING:
    import tensorflow as tf

TensorLike: TypeAlias = "tf.Tensor | NDArray[Any]"
"""What Keras' operations take: tensors while a network trains, arrays elsewhere."""

_EPSILON = 1e-5
OBJECTIVES = ("cov", "bbox")


def coverage_costs(target: TensorLike, predicted: TensorLike, foreground_weight: TensorLike | float) -> TensorLike:
    """Weighted cross entropy of every cell.

    `w(t) (-t log(p + 1e-5) - (1 - t) log(1 - p + 1e-5))`, where `w` is `foreground_weight` if t > .5, else 1 - that.

    Args:
        target, predicted: of any shape, 0 to 1.
        foreground_weight: 0 to 1, or one a class that broadcasts.
    """
    cross = -target * ops.log(predicted + _EPSILON) - (1 - target) * ops.log(1 - predicted + _EPSILON)
    return ops.where(target > 0.5, foreground_weight, 1 - foreground_weight) * cross


def box_costs(target: TensorLike, predicted: TensorLike, cov_norm: TensorLike) -> TensorLike:
    """`cov_norm |p - t|` of every cell and side; cells that no box owns cost nothing."""
    return cov_norm * ops.abs(predicted - target)


def coverage_means(
    target: TensorLike,
    predicted: TensorLike,
    foreground_weights: TensorLike | Sequence[float],
    cell_weights: TensorLike | float = 1.0,
) -> TensorLike:
    """`(c,)`: the coverage objective of every class; arguments as for `objective_means`."""
    weights = ops.reshape(ops.convert_to_tensor(foreground_weights, "float32"), (1, -1, 1, 1))
    return ops.mean(coverage_costs(target, predicted, weights) * cell_weights, axis=(0, 2, 3))


def box_means(
    target: TensorLike, predicted: TensorLike, cov_norm: TensorLike, cell_weights: TensorLike | float = 1.0
) -> TensorLike:
    """`(c,)`: the box objective of every class; arguments as for `objective_means`."""
    costs = box_costs(target, predicted, ops.repeat(cov_norm * cell_weights, 4, axis=1))
    sides = ops.mean(costs, axis=(0, 2, 3))
    return ops.mean(ops.reshape(sides, (-1, 4)), axis=1)


def objective_means(
    targets: Mapping[str, TensorLike],
    bbox: TensorLike,
    cov: TensorLike,
    foreground_weights: TensorLike | Sequence[float],
    cell_weights: TensorLike | float = 1.0,
) -> TensorLike:
    """The two objectives of every class.

    Args:
        targets: what `targets.Rasterizer` gives: "cov", "cov_norm" `(n, c, h, w)`, "bbox" `(n, 4 c, h, w)`.
        bbox, cov: what the network says, of those shapes.
        foreground_weights: `(c,)`.
        cell_weights: one for all, or what broadcasts to `(n, c, h, w)`: the weight of the source that a picture is from, say.

    Returns:
        `(c, 2)`: means over pictures and cells (and sides), empty cells included: coverage, box.
    """
    coverage = coverage_means(targets["cov"], cov, foreground_weights, cell_weights)
    return ops.stack([coverage, box_means(targets["bbox"], bbox, targets["cov_norm"], cell_weights)], axis=1)


@dataclasses.dataclass(frozen=True)
class TargetClass:
    """Weights of a class in the loss.

    Attributes:
        name: of the class.
        class_weight: against the others, above 0.
        foreground_weight: of covered cells against empty ones, between 0 and 1.
        initial_weights: objective -> its weight against the other one.
        weight_targets: objective -> the share of the loss that autoweighting brings it to.
    """

    name: str
    class_weight: float = 1.0
    foreground_weight: float = 0.05
    initial_weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"cov": 1.0, "bbox": 10.0})
    weight_targets: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"cov": 1.0, "bbox": 10.0})

    def __post_init__(self) -> None:
        where = f"target class '{self.name}'"
        if not self.class_weight > 0:
            raise SpecError(f"{where}: expected a class_weight above 0. Received: {self.class_weight!r}.")
        if not 0 < self.foreground_weight < 1:
            raise SpecError(
                f"{where}: expected a coverage_foreground_weight between 0 and 1. Received: {self.foreground_weight!r}."
            )
        for name, values in (("initial_weight", self.initial_weights), ("weight_target", self.weight_targets)):
            if set(values) != set(OBJECTIVES) or not sum(values.values()) > 0 or min(values.values()) < 0:
                raise SpecError(
                    f"{where}: expected {name} of {' and '.join(OBJECTIVES)}, none below 0, with a sum above 0. Received: "
                    f"{dict(values)!r}."
                )


class ObjectiveWeights:
    """The weights of classes and objectives, and how these follow the costs.

    Args:
        classes: in the order of the network's channels.
        automatic: after every epoch, weight objectives so that each contributes its target.
        minimum, maximum: between which automatic weights are kept.

    Attributes:
        class_weights: `(c,)`, with a sum of 1.
        objective_weights: `(c, 2)`, with a sum of 1 a class at the start.
    """

    def __init__(
        self, classes: Sequence[TargetClass], *, automatic: bool = True, minimum: float = 1e-4, maximum: float = 0.9999
    ) -> None:
        self._automatic, self._limits = automatic, (minimum, maximum)
        weights = np.array([x.class_weight for x in classes])
        self.class_weights: NDArray[np.float64] = weights / weights.sum()
        self.objective_weights = _shares(np.array([[x.initial_weights[name] for name in OBJECTIVES] for x in classes]))
        self._targets = np.array([[x.weight_targets[name] for name in OBJECTIVES] for x in classes])

    def of(self, objective: str) -> NDArray[np.float64]:
        """`(c,)`: what an objective of each class counts in the loss."""
        return self.class_weights * self.objective_weights[:, OBJECTIVES.index(objective)]

    def total(self, means: TensorLike) -> TensorLike:
        """The loss of objectives `(c, 2)`."""
        weights = np.stack([self.of(name) for name in OBJECTIVES], axis=1)
        return ops.sum(ops.convert_to_tensor(weights, "float32") * means)

    def end_epoch(self, sums: ArrayLike) -> None:
        """Takes the sums of objectives `(c, 2)` over an epoch; where all of a class are 0, its weights stay."""
        if not self._automatic:
            return
        sums = np.asarray(sums, np.float64)
        wanted = np.divide(self._targets, sums, out=np.zeros_like(sums), where=sums > 0)
        known = wanted.sum(axis=1) > 0
        self.objective_weights[known] = np.clip(_shares(wanted[known]), *self._limits)


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = values / values.sum(axis=1, keepdims=True)
    return shares
