"""The objective of a segmentation: cross-entropy, dice or both over pixels, from logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops

from tlt_prune.config import Train
from tlt_prune.training.objective import Objective, classification

Tensor = Any
LossName = Literal["cross_entropy", "dice", "cross_dice_sum"]


@keras.saving.register_keras_serializable(package="tlt_prune")
class SegmentationLoss(keras.losses.Loss):
    """A loss over pixels. A pixel without a class does not count: it is zeros in the place of one-hot targets, and -1 where the
    output is one channel.

    Cross-entropy is the mean over pixels. Dice (Milletari et al., 2016, arXiv:1606.04797) is 1 - 2 sum(p t) / (sum p^2 + sum t^2)
    of each class over the pixels of a picture, and the mean over classes and pictures. With a teacher's logits beside the
    targets, alpha times T^2 times the KL divergence from the teacher at temperature T is added, and the rest has the weight
    1 - alpha.

    Args:
        kind: "cross_entropy", "dice", or "cross_dice_sum", their sum.
        one_channel: the output is one channel, the logit of the second of two classes.
        channels_first: whether channels come before height and width.
        class_weights: of the classes, in their order; None for 1 each.
        alpha, temperature: of the teacher.
        per_pixel: dice of each pixel over its classes and not of each class over pixels, as the toolkit has it.
    """

    def __init__(
        self,
        kind: LossName = "cross_entropy",
        *,
        one_channel: bool = False,
        channels_first: bool = False,
        class_weights: Sequence[float] | None = None,
        alpha: float = 0.0,
        temperature: float = 4.0,
        per_pixel: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "segmentation_loss", **kwargs})
        if kind not in ("cross_entropy", "dice", "cross_dice_sum"):
            raise ValueError(f"Expected kind to be cross_entropy, dice or cross_dice_sum. Received: {kind!r}.")
        self.kind, self.one_channel, self.channels_first, self.per_pixel = kind, one_channel, channels_first, per_pixel
        self.class_weights = None if class_weights is None else [float(x) for x in class_weights]
        self.alpha, self.temperature = alpha, temperature

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """One value for each picture."""
        targets, logits = (self._classes_last(ops.cast(y, "float32")) for y in (y_true, y_pred))
        channels = logits.shape[-1]
        teacher = None if targets.shape[-1] == channels else targets[..., channels:]
        targets = targets[..., :channels]
        if self.one_channel:
            counted = ops.cast(targets[..., 0] >= 0, "float32")
            targets = ops.maximum(targets, 0.0)
        else:
            counted = ops.cast(ops.any(targets > 0, axis=-1), "float32")
        hard: Tensor = 0.0
        if self.kind != "dice":
            hard += self._cross_entropy(targets, logits, counted)
        if self.kind != "cross_entropy":
            hard += self._dice(targets, logits, counted)
        return hard if teacher is None else (1 - self.alpha) * hard + self.alpha * self._soft(teacher, logits)

    def _classes_last(self, y: Tensor) -> Tensor:
        return ops.transpose(y, (0, 2, 3, 1)) if self.channels_first else y

    def _weights(self, targets: Tensor) -> Tensor:
        """Of each pixel."""
        if self.class_weights is None:
            return ops.ones_like(targets[..., 0])
        weights = ops.convert_to_tensor(self.class_weights, "float32")
        if self.one_channel:
            return weights[0] + (weights[1] - weights[0]) * targets[..., 0]
        return ops.sum(targets * weights, axis=-1)

    def _cross_entropy(self, targets: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
        if self.one_channel:
            values = keras.losses.binary_crossentropy(targets, logits, from_logits=True)
        else:
            values = -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)
        total = ops.maximum(ops.sum(counted, axis=(1, 2)), 1.0)
        return ops.sum(values * self._weights(targets) * counted, axis=(1, 2)) / total

    def _dice(self, targets: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
        said = ops.sigmoid(logits) if self.one_channel else ops.softmax(logits, axis=-1)
        axes: Any = -1 if self.per_pixel else (1, 2)
        said = said * counted[..., None]
        both = ops.sum(said * targets, axis=axes)
        squares = ops.sum(said**2 + targets**2, axis=axes)
        # A class that is neither there nor said is as it should be.
        tiny = keras.config.epsilon()
        values = 1 - (2 * both + tiny) / (squares + tiny)
        if not self.per_pixel and self.class_weights is not None and not self.one_channel:
            values = values * ops.convert_to_tensor(self.class_weights, "float32")
        return ops.mean(ops.reshape(values, (ops.shape(values)[0], -1)), axis=-1)

    def _soft(self, teacher: Tensor, logits: Tensor) -> Tensor:
        if self.one_channel:
            values = keras.losses.binary_crossentropy(ops.sigmoid(teacher), logits, from_logits=True)
        else:
            t, s = (ops.log_softmax(y / self.temperature, axis=-1) for y in (teacher, logits))
            values = self.temperature**2 * ops.sum(ops.exp(t) * (t - s), axis=-1)
        return ops.mean(values, axis=(1, 2))

    def get_config(self) -> dict[str, Any]:
        names = ("kind", "one_channel", "channels_first", "class_weights", "alpha", "temperature", "per_pixel")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def segmentation_objective(
    config: Train,
    loss: SegmentationLoss,
    scores: Callable[[keras.Model], Mapping[str, float]],
    callbacks: Callable[[], Sequence[keras.callbacks.Callback]],
) -> Objective:
    """The objective of a training; the best epoch has the best mean IoU.

    Args:
        config: the `train` section of a spec.
        loss: over pixels.
        scores: model -> "val_miou" and what else is logged of an epoch.
        callbacks: those that log it.
    """
    alone = classification(config)
    return Objective(
        lambda: {"loss": loss},
        alone.rate,
        "val_miou",
        "mIoU",
        callbacks=lambda rows: callbacks(),
        channel_axis=1 if loss.channels_first else -1,
        rate_for=alone.rate_for,
        scores=scores,
    )
