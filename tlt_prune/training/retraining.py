"""Retraining after pruning, in Python: `tlt_prune.retrain`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import keras
import numpy as np
from keras import tree

from tlt_prune.config import is_count
from tlt_prune.config.train_sections import Distill
from tlt_prune.errors import TrainingError, first_line
from tlt_prune.graph import family_of
from tlt_prune.io import say
from tlt_prune.training.rate_test import enough_batches, find_peak_rate
from tlt_prune.training.retrain_callbacks import KeepBest, WarmUpCosine, data_arguments, is_arrays, settable_rate
from tlt_prune.training.student import Student
from tlt_prune.training.variables import make_variables


class RetrainArguments(TypedDict, total=False):
    """Further arguments of `retrain`."""

    loss: Any
    """As in `compile`; by default what the model, or else the teacher, is compiled with."""
    metrics: Any
    """The same; accuracy where there is none and the loss is named as a cross-entropy."""
    loss_weights: Any
    """The same."""
    batch_size: int
    """Of arrays; 64."""
    steps_per_epoch: int
    """Batches in an epoch, of data that does not say how many it has."""
    optimizer: keras.optimizers.Optimizer
    """In the place of SGD."""
    alpha: float
    """Weight of the teacher, 0 to 1; .5."""
    temperature: float
    """Softens the answers of both, where they are probabilities of classes; 4."""
    monitor: str
    """Score that says which epoch is best; see `tlt_prune.training.KeepBest`."""
    mode: Literal["auto", "max", "min"]
    """Whether it is the better the higher."""
    callbacks: Sequence[keras.callbacks.Callback]
    """Further ones, for `fit`."""
    verbose: int | str
    """As in `fit`; 0 prints nothing."""


class RetrainHistory(keras.callbacks.History):
    """What `fit` returns, and the recipe.

    Attributes:
        history: scores of every epoch, by name: see `keras.callbacks.History`.
        start: scores before the first epoch: "val_loss", "val_accuracy" and so on.
        best: scores of the best epoch, whose weights the model has.
        best_epoch: its number, from 1; 0 where none was better than the start.
        learning_rate: the highest rate.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.start: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.best_epoch = 0


def retrain(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    teacher: keras.Model | None = None,
    epochs: int = 2,
    learning_rate: float | None = None,
    **arguments: Unpack[RetrainArguments],
) -> RetrainHistory:
    """Retrains a pruned model, in place. It ends with the weights of its best epoch, or with those that it came with.

    SGD with Nesterov's momentum of .9. The rate rises over a tenth of the steps to a peak that a range test of 60 batches finds
    (`tlt_prune.training.find_peak_rate`), and falls as half a cosine to 0. The model learns from labels and, where there is a
    teacher, from its answers (`tlt_prune.training.Student`). How it is compiled stays as it is.

    Args:
        model: a Keras 3 model, such as `prune_model` returns.
        train: `(x, y)` or `(x, y, sample_weight)` arrays, which are shuffled, or batches as `fit` takes them: a
            `tf.data.Dataset`, a `PyDataset`, a `DataLoader`. Augmented, where the dense model was trained so.
        validation: the same, for the score after each epoch.
        teacher: the model before pruning.
        epochs: passes over the data.
        learning_rate: the peak; None measures it.
        **arguments: `RetrainArguments`.

    Returns:
        The history of `fit`, with `start`, `best`, `best_epoch` and `learning_rate`.

    Raises:
        TrainingError: no loss is known, an argument or the data does not fit, or the loss is not finite before any training.
    """
    _check(model, teacher, epochs, arguments)
    _check_data(validation, "validation data, which says which epoch is best")
    batch_size, verbose = arguments.get("batch_size", 64), arguments.get("verbose", "auto")
    train, steps = _counted(train, batch_size, arguments.get("steps_per_epoch"))
    student = _compiled_student(model, teacher, data_arguments(validation, batch_size), arguments)
    peak = _peak_rate(student, train, batch_size) if learning_rate is None else learning_rate
    rate = WarmUpCosine(peak, epochs * steps)
    history = RetrainHistory(peak)
    if verbose:
        say(f"Retraining '{model.name}' for {epochs} epochs; the learning rate rises to {history.learning_rate:.2g}.")
    keep = KeepBest(validation, monitor=arguments.get("monitor"), mode=arguments.get("mode", "auto"), batch_size=batch_size)
    try:
        _fit(student, train, validation, epochs, [rate, _StopAtNotFinite(), keep, history], arguments)
    finally:
        # Whatever broke it off.
        keep.restore()
        rate.restore()
    history.start, history.best, history.best_epoch = keep.start, keep.best, keep.best_epoch
    if verbose:
        say(_summary(history))
    return history


def _fit(
    student: Student,
    train: Any,
    validation: Any,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
    arguments: RetrainArguments,
) -> None:
    batch_size, others = arguments.get("batch_size", 64), arguments.get("callbacks", ())
    student.fit(
        **data_arguments(train, batch_size),
        # A dataset is in the order that it has.
        shuffle=not hasattr(train, "cardinality"),
        epochs=epochs,
        steps_per_epoch=arguments.get("steps_per_epoch"),
        validation_data=validation,
        validation_batch_size=batch_size if is_arrays(validation) else None,
        callbacks=[*callbacks, *([others] if isinstance(others, keras.callbacks.Callback) else others)],
        verbose=arguments.get("verbose", "auto"),
    )


class _StopAtNotFinite(keras.callbacks.Callback):
    """Ends a training whose loss is not a number: nothing that follows could be better than what was kept."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self.model.stop_training = True
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            warnings.warn(
                f"retrain: the loss is {loss} in step {batch + 1} of an epoch, at a learning rate of {rate:.2g}. The training "
                "ends, and the model has its best weights so far. Expected a finite number: look for NaN in the data, or "
                "give a lower learning_rate.",
                stacklevel=2,
            )


def _compiled_student(
    model: keras.Model, teacher: keras.Model | None, validation: Mapping[str, Any], arguments: RetrainArguments
) -> Student:
    default = Distill()
    student = Student(model, teacher, arguments.get("alpha", default.alpha), arguments.get("temperature", default.temperature))
    optimizer = arguments.get("optimizer") or keras.optimizers.SGD(momentum=0.9, nesterov=True)
    how = {"run_eagerly": model.run_eagerly, "jit_compile": model.jit_compile} if model.compiled else {}
    try:
        student.compile(optimizer=optimizer, **how, **_compile_arguments(model, teacher, arguments))
        settable_rate(student.optimizer)
        # Keras looks at metrics, and at what they are given, only now.
        make_variables(student, **validation)
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"retrain: the loss, the metrics, the model and the validation data do not fit together: {first_line(error)}"
        ) from error
    return student


def _peak_rate(student: Student, train: Any, batch_size: int) -> float:
    return find_peak_rate(student, enough_batches(_batches(train, batch_size))).peak


def _summary(history: RetrainHistory) -> str:
    scores = [f"{name} {history.start[name]:.4g} -> {history.best[name]:.4g}" for name in history.start]
    which = f"epoch {history.best_epoch} was best" if history.best_epoch else "no epoch was better than the start, which stays"
    return f"Retrained: {which}. {', '.join(scores)}"


def _check(model: Any, teacher: Any, epochs: int, arguments: RetrainArguments) -> None:
    if not isinstance(model, keras.Model):
        raise TrainingError(
            f"retrain: expected a Keras 3 model. Received: {type(model).__module__}.{type(model).__name__}. A tf_keras model is "
            "trained by its own fit."
        )
    if teacher is not None and not callable(teacher):
        raise TrainingError(f"retrain: expected a model as the teacher. Received: {teacher!r}.")
    optimizer = arguments.get("optimizer")
    if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TrainingError(f"retrain: expected an optimizer, such as keras.optimizers.SGD(). Received: {optimizer!r}.")
    unknown = sorted(set(arguments) - set(RetrainArguments.__annotations__))
    if unknown:
        names = ", ".join(RetrainArguments.__annotations__)
        raise TrainingError(f"retrain: there is no argument '{unknown[0]}'. Expected some of: {names}.")
    counts = {"batch_size": arguments.get("batch_size", 1), "steps_per_epoch": arguments.get("steps_per_epoch", 1)}
    for name, count in {"epochs": epochs, **counts}.items():
        if not is_count(count):
            raise TrainingError(f"retrain: {name} must be a whole number of at least 1. Received: {count!r}.")
    for name, lowest, highest in (("alpha", 0.0, 1.0), ("temperature", 1e-3, 1e3)):
        value = arguments.get(name, 1.0)
        if not isinstance(value, (int, float)) or not lowest <= value <= highest:
            raise TrainingError(f"retrain: {name} must be a number from {lowest:g} to {highest:g}. Received: {value!r}.")


def _compile_arguments(model: keras.Model, teacher: keras.Model | None, given: RetrainArguments) -> dict[str, Any]:
    """Loss, its weights and metrics: what is given, else what the model is compiled with, else the teacher."""
    compiled: dict[str, Any] = {}
    for source in (model, teacher):
        if source is not None and not compiled.get("loss"):
            compiled = family_of(source).compile_arguments(source)
    loss = given.get("loss", compiled.get("loss"))
    if loss is None:
        raise TrainingError(
            f"retrain: expected loss=, such as 'categorical_crossentropy', or a compiled model. '{model.name}' is not compiled."
        )
    names = ("loss_weights", "metrics", "weighted_metrics")
    chosen = {name: given.get(name, compiled.get(name)) for name in names}  # type: ignore[misc]
    if chosen["metrics"] is None and isinstance(loss, str) and loss.endswith("crossentropy"):
        chosen["metrics"] = ["accuracy"]
    return {"loss": loss, **{name: value for name, value in chosen.items() if value is not None}}


_INFINITE, _UNKNOWN = -1, -2
"""What `tf.data.Dataset.cardinality` says of data without an end, and of a number that is not known before it."""


_MOST_BATCHES = 100_000
"""Of a dataset that does not say how many it has: beyond it, it is taken for endless."""


def _counted(data: Any, batch_size: int, given: int | None) -> tuple[Any, int]:
    """(the data, batches in an epoch). A dataset that does not know their number, such as a filtered one, is read to the end."""
    _check_data(data, "training data", endless=given is not None)
    count = given
    if count is None and is_arrays(data):
        count = math.ceil(len(tree.flatten(data[0])[0]) / batch_size)
    elif count is None and hasattr(data, "cardinality"):
        count = int(data.cardinality())
        if count == _UNKNOWN:
            import tensorflow as tf

            count = sum(1 for _ in data.take(_MOST_BATCHES + 1))
            if count > _MOST_BATCHES:
                raise TrainingError(
                    f"retrain: the training data has more than {_MOST_BATCHES:,} batches, and may have no end. Expected "
                    "steps_per_epoch=."
                )
            data = data.apply(tf.data.experimental.assert_cardinality(count))
    elif count is None and hasattr(data, "__len__"):
        count = len(data)
    if count is None:
        raise TrainingError(f"retrain: the number of batches in {type(data).__name__} is not known. Expected steps_per_epoch=.")
    if not count:
        raise TrainingError("retrain: expected training data. Received none.")
    return data, count


def _check_data(data: Any, what: str, *, endless: bool = False) -> None:
    """Raises TrainingError where data is not what `fit` takes for every epoch again; whether it may be `endless`."""
    if data is None:
        raise TrainingError(f"retrain: expected {what}. Received: None.")
    if hasattr(data, "__next__"):
        raise TrainingError(
            f"retrain: expected {what}. Received: a {type(data).__name__}, which can be read once. Expected arrays, or what "
            "has batches for every epoch: a tf.data.Dataset, a PyDataset or a DataLoader."
        )
    if not is_arrays(data):
        if isinstance(data, (list, tuple, dict)) or hasattr(data, "shape"):
            raise TrainingError(
                f"retrain: expected {what}: a tuple (x, y) of arrays, or batches as `fit` takes them. Received: "
                f"{type(data).__name__}."
            )
        size = int(data.cardinality()) if hasattr(data, "cardinality") else None
        if size == _INFINITE and not endless:
            raise TrainingError(
                f"retrain: expected {what}. The number of batches is not known: the dataset has no end. Expected "
                "steps_per_epoch=, of training data, or a dataset without repeat()."
            )
        if size == 0:
            raise TrainingError(f"retrain: expected {what}. Received none.")
        return
    if data[1] is None:
        raise TrainingError(f"retrain: expected {what}, with labels: (x, y). Received: (x, None).")
    counts = [len(x) for part in data if part is not None for x in tree.flatten(part) if np.ndim(x)]
    if not counts or 0 in counts:
        raise TrainingError(f"retrain: expected {what}. Received none.")
    if len(set(counts)) > 1:
        raise TrainingError(f"retrain: {what}: x and y have different numbers of examples: {', '.join(map(str, counts))}.")


def _batches(data: Any, batch_size: int) -> Iterator[tuple[Any, ...]]:
    """Batches `(x, y)` or `(x, y, sample_weight)` of the data, in NumPy arrays; of arrays at random."""
    if is_arrays(data):
        order = np.random.default_rng(0).permutation(len(tree.flatten(data[0])[0]))
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            yield tuple(tree.map_structure(lambda a, some=some: np.asarray(a)[some], part) for part in data if part is not None)
        return
    iterable = data if hasattr(data, "__iter__") else (data[i] for i in range(len(data)))
    for batch in iterable:
        if not is_arrays(tuple(batch) if isinstance(batch, list) else batch):
            raise TrainingError("retrain: expected batches (x, y) or (x, y, sample_weight). Received inputs only.")
        yield tuple(tree.map_structure(np.asarray, part) for part in batch)
