"""Training data of a multitask classifier: for `tlt-train`, for criteria and compensations."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlt_prune import training
from tlt_prune.config import Spec, shown
from tlt_prune.data import MultitaskSplit, Pipeline, class_titles, label_counts
from tlt_prune.errors import SpecError, TrainingError, first_line
from tlt_prune.io import model_info, say
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.classification.models import architecture_options, is_whole_model
from tlt_prune.tasks.classification.pictures import agreed_format, as_inputs
from tlt_prune.tasks.classification.training import begin, read_agreed_teacher, training_pictures
from tlt_prune.tasks.multitask.data import load_both, tasks_of
from tlt_prune.tasks.steps.data import say_shared
from tlt_prune.tasks.steps.starting import check_classes, is_pruned, start_quantization_aware
from tlt_prune.tasks.steps.weights import with_weights
from tlt_prune.tasks.task import Examples, Task, stacked

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def training_job(task: Task, folder: pathlib.Path) -> training.TrainingJob:
    """See `Task.training`."""
    begun = begin(task.spec)
    spec, start, form, first = begun.spec, begun.start, begun.form, begun.channels_first
    teacher = read_agreed_teacher(spec)
    train_split, held_out = load_both(task, form, tasks_of(start) if start is not None else None)
    tasks = dict(train_split.tasks)
    _describe(spec, train_split, held_out, folder)
    check_classes(teacher, class_titles(tasks))

    def make_batches(first_epoch: int) -> Pipeline:
        return training_pictures(spec, train_split, form, first, range(first_epoch, spec.train.num_epochs))

    def make_model() -> keras.Model:
        model = start.model if start is not None and start.model is not None else _new_model(spec, tasks)
        if not spec.train.qat:
            return model
        few = train_split.sample(spec.train.qat_config.samples, spec.train.random_seed)
        return start_quantization_aware(model, as_inputs(spec, few, form, channels_first=first), len(few), spec.train.qat_config)

    info = model_info.of_spec(spec, class_titles(tasks), start.info if start is not None else None)
    return training.TrainingJob(
        make_model,
        make_batches,
        as_inputs(spec, held_out, form, channels_first=first),
        spec.train,
        training.multitask_classification(spec.train, list(tasks)),
        identity={
            "model": spec.model.model_dump(),
            "dataset": spec.dataset.model_dump(),
            "tasks": tasks,
            "pictures": [len(train_split), len(held_out)],
            "contents": [train_split.checksum(), held_out.checksum()],
        },
        info=info.model_copy(update={"heads": tuple(model_info.Head(task=x, classes=y) for x, y in tasks.items())}),
        teacher=None if teacher is None else teacher.model,
        pruned=is_pruned(start),
    )


def _new_model(spec: Spec, tasks: Mapping[str, tuple[str, ...]]) -> keras.Model:
    from tlt_prune import models

    m, name = spec.model, f"multitask_{spec.model.backbone}"
    if m.retain_head:
        raise SpecError("model.retain_head: a multitask classifier has a branch for each task. Expected false.")
    size = (m.input_height, m.input_width, m.input_channels)
    counts = {task: len(names) for task, names in tasks.items()}
    try:
        model = models.build(name, size, counts, dropout=m.dropout, **architecture_options(spec, name))
    except ValueError as error:
        raise SpecError(f"model: {first_line(error)}") from error
    source = spec.train.pretrained_model_path
    return with_weights(model, source, "train.pretrained_model_path") if source and not is_whole_model(spec) else model


def _describe(spec: Spec, train_split: MultitaskSplit, held_out: MultitaskSplit, folder: pathlib.Path) -> None:
    say(
        f"Training {spec.train.pretrained_model_path or f'a new {spec.model.backbone}'} for {spec.train.num_epochs} epochs on "
        f"{len(train_split)} pictures; {len(held_out)} pictures are held out. Results: {folder}"
    )
    for name, split in (("Training", train_split), ("Held out", held_out)):
        told = [f"{shown(task)} {count}" for task, count in label_counts(split).items()]
        say(f"{name}: labels of {len(split.tasks)} tasks: {', '.join(told)}.")
    unscored = [task for task, count in label_counts(held_out).items() if not count]
    if unscored:
        raise TrainingError(
            f"No held-out picture has a label of the task {shown(unscored[0])}. Expected some in dataset_config.val_csv_path, to "
            "tell which epoch is best."
        )
    say_shared(train_split.images, held_out.images)


def examples(task: Task, predictor: Predictor) -> Examples:
    """See `Task.examples`; the loss is the sum over the tasks of what is known."""
    spec, form, first = agreed_format(task.spec, predictor)
    train_split, _ = load_both(task, form, tasks_of(predictor))
    few = train_split.sample(spec.prune.samples, spec.train.random_seed)
    return Examples(*stacked(as_inputs(spec, few, form, channels_first=first)), _loss, _loss)


def _loss(true: Sequence[Any], said: Sequence[tf.Tensor]) -> tf.Tensor:
    import keras

    # A label that is not known is all zeros, and has no loss.
    pairs = zip(keras.tree.flatten(true), keras.tree.flatten(said), strict=True)
    return sum(keras.ops.mean(keras.losses.categorical_crossentropy(t, p)) for t, p in pairs)
