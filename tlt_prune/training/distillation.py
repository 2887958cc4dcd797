"""Knowledge distillation: the pruned network learns from the labels and from what the unpruned one says.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531, section 2.1:

    (1 - alpha) CE(y, p) + alpha T^2 KL(teacher_T || student_T)

where a network's probabilities at temperature T are softmax(log p / T). What the teacher says travels beside the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
from keras import ops

from tlt_prune.errors import TrainingError

if TYPE_CHECKING:
    import tensorflow as tf

_PACKAGE = "tlt_prune"
# Inputs or labels of a model: one tensor, or one for each.
_Tensors: TypeAlias = "tf.Tensor | tuple[tf.Tensor, ...]"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Distillation(keras.losses.Loss):
    """The loss, for labels `(n, classes)` or, with the teacher's probabilities beside them, `(n, 2 classes)`.

    An example whose label is not known has zeros in its place; what the teacher says of it counts nevertheless.
    """

    def __init__(
        self, alpha: float, temperature: float, label_smoothing: float = 0.0, name: str = "distillation", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.alpha, self.temperature, self.label_smoothing = alpha, temperature, label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels, teacher = _parts(y_true, y_pred)
        hard = keras.losses.categorical_crossentropy(labels, y_pred, label_smoothing=self.label_smoothing)
        # Smoothed, the label of an example that has none would be every class.
        hard = hard * _labeled(labels, hard.dtype)
        if teacher is None:
            return hard
        return (1 - self.alpha) * hard + self.alpha * self.soft(teacher, y_pred)

    def soft(self, teacher: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """T^2 times the KL divergence of probabilities from the teacher's, at temperature T; one value for each example."""
        return self.temperature**2 * keras.losses.kl_divergence(self._cooled(teacher), self._cooled(y_pred))

    def _cooled(self, probabilities: tf.Tensor) -> tf.Tensor:
        return ops.softmax(ops.log(ops.clip(probabilities, 1e-7, 1.0)) / self.temperature)

    def get_config(self) -> dict[str, Any]:
        entries = {"alpha": self.alpha, "temperature": self.temperature, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **entries}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class LabelAccuracy(keras.metrics.CategoricalAccuracy):
    """Top-1 accuracy over the examples that have a label, whatever stands beside it."""

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> Any:
        labels, _ = _parts(y_true, y_pred)
        labeled = _labeled(labels, y_pred.dtype)
        weight = labeled if sample_weight is None else labeled * ops.cast(sample_weight, labeled.dtype)
        return super().update_state(labels, y_pred, weight)


def _parts(y_true: tf.Tensor, y_pred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
    """(labels, the teacher's probabilities or None)."""
    classes = y_pred.shape[-1]
    return (y_true, None) if y_true.shape[-1] == classes else (y_true[..., :classes], y_true[..., classes:])


def _labeled(labels: tf.Tensor, dtype: str) -> tf.Tensor:
    """1 for examples with a label, 0 for others."""
    return ops.cast(ops.any(labels > 0, axis=-1), dtype)


def check_teacher(teacher: keras.Model, student: keras.Model, what: str) -> None:
    """Raises TrainingError where a teacher's inputs or outputs have other shapes than the student's; `what` begins it."""
    for verb, shape in (("takes inputs", "input_shape"), ("has outputs", "output_shape")):
        # A subclassed model has no shapes.
        teachers, students = getattr(teacher, shape, None), getattr(student, shape, None)
        if teachers is not None and teachers != students:
            raise TrainingError(
                f"{what}: the teacher {verb} of shape {teachers}. Expected {students}, as the model that is trained."
            )


def with_teacher(batches: tf.data.Dataset, teacher: keras.Model, student: keras.Model, axis: int = -1) -> tf.data.Dataset:
    """Batches whose targets have the teacher's probabilities beside the labels, for `Distillation`.

    Args:
        batches: a `tf.data.Dataset` of `(x, y)`, labels one-hot, of one output or several.
        teacher: takes the same inputs and has outputs of the same shapes as the student; its weights are frozen.
        student: the model that is to be trained with them.
        axis: of labels and outputs, along which classes lie.

    Returns:
        A `tf.data.Dataset` of `(x, y)` with `y` twice as long along `axis`.

    Raises:
        TrainingError: the teacher's inputs or outputs have other shapes than the student's.
    """
    import tensorflow as tf

    return batches.map(tf.autograph.experimental.do_not_convert(beside(teacher, student, axis))).prefetch(tf.data.AUTOTUNE)


def beside(
    teacher: keras.Model, student: keras.Model, axis: int = -1
) -> Callable[[_Tensors, _Tensors], tuple[_Tensors, _Tensors]]:
    """(x, y) -> the same, as `with_teacher` has it.

    Raises:
        TrainingError: the teacher's inputs or outputs have other shapes than the student's.
    """
    check_teacher(teacher, student, "train.distill")
    import tensorflow as tf

    teacher.trainable = False

    def both(x: _Tensors, y: _Tensors) -> tuple[_Tensors, _Tensors]:
        taught = keras.tree.flatten(teacher(x, training=False))
        pairs = [tf.concat([tf.cast(a, b.dtype), b], axis=axis) for a, b in zip(keras.tree.flatten(y), taught, strict=True)]
        return x, keras.tree.pack_sequence_as(y, pairs)

    return both
