"""A model that learns from its labels and from what a teacher answers, whatever its loss and its number of outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from tlt_prune.errors import TrainingError
from tlt_prune.graph import by_output, loss_function, output_names
from tlt_prune.training.distillation import Distillation, check_teacher

Tensor = Any
"""A tensor of Keras' backend."""

# Names of losses as functions and, in lower case without underscores, as classes. Of classes:
_OF_CLASSES = {"categoricalcrossentropy", "sparsecategoricalcrossentropy", "distillation"}
_OF_YES_OR_NO = {"binarycrossentropy", "binaryfocalcrossentropy"}
# Of outputs that are compared with values of their own kind.
_OF_VALUES = {
    *("meansquarederror", "meanabsoluteerror", "meanabsolutepercentageerror", "meansquaredlogarithmicerror"),
    *("huber", "logcosh", "kldivergence", "poisson", "cosinesimilarity"),
}


class Student(keras.Model):
    """A model under training. It shares its layers with the model, so that what it learns the model knows.

    In training its loss is `(1 - alpha) loss(y, p) + alpha soft(t, p)`, with the answers t of the teacher. Soft is, for classes,
    T^2 times the KL divergence at temperature T (see `Distillation`), else the loss itself. In evaluation it is the loss.

    Args:
        model: to be trained; a functional or Sequential model, or a subclassed one without a training step of its own.
        teacher: takes the same inputs and has outputs of the same shapes; None for labels alone.
        alpha: weight of the teacher.
        temperature: T.

    Raises:
        TrainingError: the model trains in its own way, or the teacher does not fit.
    """

    def __init__(self, model: keras.Model, teacher: keras.Model | None, alpha: float, temperature: float) -> None:
        # As a functional model: inputs stay as they are given, and "mixed_float16" has its losses scaled.
        super().__init__(name=f"{model.name}_in_training", dtype=model.dtype_policy, autocast=False)
        own = [x for x in ("train_step", "test_step", "compute_loss") if getattr(type(model), x) is not getattr(keras.Model, x)]
        if own:
            raise TrainingError(
                f"retrain: '{model.name}' has a {own[0]} of its own, a {type(model).__name__}. Expected a model that Keras "
                "trains; train it by its own fit, with tlt_prune.training.KeepBest among the callbacks."
            )
        self.model = model
        # Keras asks for it where losses and metrics are given by the names of outputs.
        self.output_names = output_names(model)
        self._answers: Callable[[Tensor], Tensor] | None = None
        self._soft: list[Callable[[Tensor, Tensor, Tensor], Tensor] | None] = []
        if teacher is not None:
            check_teacher(teacher, model, "retrain")
            # A function, so that Keras does not take the teacher's weights for this model's.
            self._answers = lambda x: tree.map_structure(ops.stop_gradient, teacher(x, training=False))
        self.alpha, self.temperature = alpha, temperature

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """The model's outputs."""
        return self.model(inputs, training=training)

    def save(self, filepath: Any, *arguments: Any, **named: Any) -> Any:
        """Saves the model under training, which is what a `ModelCheckpoint` is to keep."""
        return self.model.save(filepath, *arguments, **named)

    def save_weights(self, filepath: Any, *arguments: Any, **named: Any) -> Any:
        """The same, of its weights."""
        return self.model.save_weights(filepath, *arguments, **named)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, loss_weights: Any = None, **kwargs: Any) -> None:
        """Keras' own.

        Raises:
            TrainingError: there is a teacher, and its answers cannot stand where a loss takes labels.
        """
        if self._answers is not None:
            losses = by_output(loss, self.output_names, "retrain: losses", TrainingError)
            weights = by_output(loss_weights, self.output_names, "retrain: loss_weights", TrainingError)
            pairs = zip(losses, weights, strict=True)
            self._soft = [_soft_loss(x, 1.0 if weight is None else weight, self.temperature) for x, weight in pairs]
        super().compile(optimizer, loss=loss, loss_weights=loss_weights, **kwargs)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of a batch; the teacher has its say in training only."""
        hard = super().compute_loss(x, y, y_pred, sample_weight)
        if not training or self._answers is None:
            return hard
        penalties = sum((ops.sum(ops.cast(loss, hard.dtype)) for loss in self.losses), ops.zeros((), hard.dtype))
        soft = self._soft_loss(self._answers(x), y_pred, sample_weight)
        return penalties + (1 - self.alpha) * (hard - penalties) + self.alpha * ops.cast(soft, hard.dtype)

    def _soft_loss(self, answers: Tensor, outputs: Tensor, sample_weight: Tensor) -> Tensor:
        taught, said = tree.flatten(answers), tree.flatten(outputs)
        weights = tree.flatten(sample_weight) if sample_weight is not None else []
        shared = weights[0] if len(weights) == 1 else None
        total: Tensor = 0.0
        for i, (loss, t, p) in enumerate(zip(self._soft, taught, said, strict=True)):
            if loss is not None:
                total += loss(t, p, weights[i] if len(weights) == len(said) else shared)
        return total


def _reduced(values: Tensor, weight: Tensor, reduction: str | None) -> Tensor:
    """Over all examples, as Keras reduces losses: weighted, and divided by their number unless the loss says otherwise."""
    if weight is not None:
        weight = ops.cast(weight, values.dtype)
        weight = ops.reshape(weight, (*weight.shape, *([1] * (len(values.shape) - len(weight.shape)))))
        values = values * weight
    if reduction == "sum":
        return ops.sum(values)
    if reduction == "mean_with_sample_weight" and weight is not None:
        return ops.divide_no_nan(ops.sum(values), ops.sum(ops.broadcast_to(weight, ops.shape(values))))
    return ops.mean(values)


def _soft_loss(loss: object, factor: float, temperature: float) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """(the teacher's output, the student's, weights of examples) -> what the teacher adds to the loss."""
    function = loss_function(loss, "retrain", TrainingError)
    if function is None:
        return None
    values = _of_each(function, temperature)
    reduction = getattr(function, "reduction", None) if isinstance(function, keras.losses.Loss) else None
    return lambda t, p, weight: factor * _reduced(values(t, p), weight, reduction)


def _of_each(function: Any, temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """(the teacher's output, the student's) -> values, one for each example or pixel."""
    settings = function.get_config() if isinstance(function, keras.losses.Loss) else {}
    name, from_logits, axis = _name(function), bool(settings.get("from_logits", False)), settings.get("axis", -1)
    key = name.replace("_", "").lower()
    if key in _OF_CLASSES:
        cooled = Distillation(alpha=1.0, temperature=temperature)
        return lambda t, p: cooled.soft(*(_probabilities(ops.moveaxis(x, axis, -1), from_logits) for x in (t, p)))
    if key in _OF_YES_OR_NO:
        return lambda t, p: keras.losses.binary_crossentropy(ops.sigmoid(t) if from_logits else t, p, from_logits, axis=axis)
    if key in _OF_VALUES:
        return _unreduced(function)
    raise TrainingError(
        f"retrain: what the teacher answers cannot stand where the loss '{name}' takes labels. Expected teacher=None, or one of "
        "Keras' cross-entropies and regression losses."
    )


def _probabilities(values: Tensor, from_logits: bool) -> Tensor:
    values = ops.cast(values, "float32")
    return ops.softmax(values) if from_logits else values


def _unreduced(function: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss with one value for each example."""
    if not isinstance(function, keras.losses.Loss):
        return function  # type: ignore[no-any-return]
    return type(function).from_config({**function.get_config(), "reduction": None})  # type: ignore[no-any-return]


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
