"""Training of a detector in Keras: losses, their means as metrics, and weights that follow them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tlt_prune.detection.losses import OBJECTIVES, ObjectiveWeights, TargetClass, TensorLike, box_means, coverage_means


@keras.saving.register_keras_serializable(package="tlt_prune")
class ObjectiveLoss(keras.losses.Loss):
    """One objective of all classes, weighted: what one of a detector's two outputs is trained by.

    Args:
        objective: "cov" or "bbox".
        classes: `TargetClass`es, or their configurations.
        channels_first: of the model.
        alpha: share of the loss by what a teacher says, where that stands beside the targets (`training.with_teacher`): the same
            objective, with its coverage, or its boxes where the labels have objects, in the place of the labels'.

    Attributes:
        weights: `(c,)`, a variable: class weight times objective weight.
    """

    def __init__(
        self,
        objective: str,
        classes: Sequence[TargetClass | Mapping[str, Any]],
        channels_first: bool,
        alpha: float = 0.0,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name or f"{objective}_loss")
        self.objective, self.channels_first, self.alpha = objective, channels_first, alpha
        self.classes = [x if isinstance(x, TargetClass) else TargetClass(**x) for x in classes]
        start = ObjectiveWeights(self.classes).of(objective)
        self.weights = keras.Variable(start, dtype="float32", trainable=False, name="weights")

    def means(self, y_true: TensorLike, y_pred: TensorLike) -> TensorLike:
        """`(c,)`: the objective of every class, not weighted."""
        predicted, wanted, weights, _ = self._parts(y_true, y_pred)
        return self._means(predicted, wanted, weights)

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> TensorLike:
        predicted, wanted, weights, taught = self._parts(y_true, y_pred)
        means = self._means(predicted, wanted, weights)
        if taught is not None:
            means = (1 - self.alpha) * means + self.alpha * self._means(predicted, taught, weights)
        # As the one element of a vector: a number alone is not shared between replicas by Keras.
        return ops.sum(self.weights * means)[None]

    def _parts(self, y_true: TensorLike, y_pred: TensorLike) -> tuple[TensorLike, TensorLike, TensorLike, TensorLike | None]:
        """Channels first: what the model says; of the target, what labels want, the weights of cells, what a teacher wants."""
        if not self.channels_first:
            y_true, y_pred = (ops.transpose(x, (0, 3, 1, 2)) for x in (y_true, y_pred))
        own = y_pred.shape[1]
        behind = own + len(self.classes)
        taught = y_true[:, behind:] if y_true.shape[1] > behind else None
        return y_pred, y_true[:, :own], y_true[:, own:behind], taught

    def _means(self, predicted: TensorLike, wanted: TensorLike, weights: TensorLike) -> TensorLike:
        if self.objective == "cov":
            return coverage_means(wanted, predicted, [x.foreground_weight for x in self.classes], weights)
        return box_means(wanted, predicted, weights)

    def get_config(self) -> dict[str, Any]:
        classes = [dataclasses.asdict(x) for x in self.classes]
        return {
            "objective": self.objective,
            "classes": classes,
            "channels_first": self.channels_first,
            "alpha": self.alpha,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="tlt_prune")
class ObjectiveMean(keras.metrics.Mean):
    """The mean of one class' objective over an epoch, not weighted."""

    def __init__(self, loss: ObjectiveLoss | Mapping[str, Any], number: int, name: str | None = None, **kwargs: Any) -> None:
        found = loss if isinstance(loss, ObjectiveLoss) else keras.saving.deserialize_keras_object(dict(loss))
        super().__init__(name=name or f"{found.classes[number].name}_{found.objective}")
        self._loss, self._number = found, number

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> None:
        super().update_state(self._loss.means(y_true, y_pred)[self._number])

    def get_config(self) -> dict[str, Any]:
        loss = keras.saving.serialize_keras_object(self._loss)
        return {"loss": loss, "number": self._number, "name": self.name}


def objective(classes: Sequence[TargetClass], channels_first: bool, alpha: float = 0.0) -> dict[str, Any]:
    """Losses and metrics for `compile`, of a model with outputs `[output_bbox, output_cov]`; see `ObjectiveLoss`."""
    losses = [ObjectiveLoss(name, classes, channels_first, alpha) for name in ("bbox", "cov")]
    metrics = [[ObjectiveMean(loss, i) for i in range(len(classes))] for loss in losses]
    return {"loss": losses, "metrics": metrics}


class AutoWeighting(keras.callbacks.Callback):
    """Weighs the objectives after every epoch so that each contributes its target.

    The weights follow from the logs of the epoch before, so a resumed training has those of an uninterrupted one: give it the
    history so far.

    Args:
        weights: how.
        history: a row an epoch that is done: what the logs had.
    """

    def __init__(
        self, weights: ObjectiveWeights, classes: Sequence[TargetClass], history: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__()
        self._weights, self._names = weights, [x.name for x in classes]
        for row in history:
            self._weights.end_epoch(self._costs(row))

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._assign()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._weights.end_epoch(self._costs(logs or {}))
        self._assign()

    def _costs(self, logs: Mapping[str, float]) -> NDArray[np.float64]:
        plain = {self._plain(key): value for key, value in logs.items() if not key.startswith("val_")}
        return np.array([[float(plain[f"{name}_{objective}"]) for objective in OBJECTIVES] for name in self._names])

    @staticmethod
    def _plain(key: str) -> str:
        """Keras puts the output's name before a metric's."""
        for output in ("output_bbox_", "output_cov_"):
            key = key.removeprefix(output)
        return key

    def _assign(self) -> None:
        for loss in self.model.loss:
            loss.weights.assign(self._weights.of(loss.objective))
