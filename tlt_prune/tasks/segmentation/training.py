"""Training data of a segmentation: for `tlt-train`, for criteria and compensations."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tlt_prune import training
from tlt_prune.config import Spec
from tlt_prune.data import BatchOrder, MaskLayout, MaskSplit, Pipeline, mask_evaluation_pipeline, mask_training_pipeline
from tlt_prune.errors import SpecError, first_line
from tlt_prune.io import model_info, say
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.classification.models import architecture_options, is_whole_model
from tlt_prune.tasks.classification.pictures import agreed_format
from tlt_prune.tasks.classification.training import begin, read_agreed_teacher
from tlt_prune.tasks.segmentation.data import (
    NetworkSettings,
    augmentation_of,
    classes_in,
    layout_of_model,
    like_toolkit,
    load_part,
    network_of,
)
from tlt_prune.tasks.segmentation.scoring import DrawnMasks, confusion_of
from tlt_prune.tasks.steps.starting import check_classes, is_pruned
from tlt_prune.tasks.steps.weights import with_weights
from tlt_prune.tasks.task import Examples, Task, stacked
from tlt_prune.training.replicas import batch_predictor


def training_job(task: Task, folder: pathlib.Path) -> training.TrainingJob:
    """See `Task.training`."""
    begun = begin(task.spec)
    spec, start, form = begun.spec, begun.start, begun.form
    if spec.train.qat:
        raise SpecError("train.qat: expected false for a segmentation; its files are exported in int8 after training.")
    teacher, network = read_agreed_teacher(spec), network_of(task)
    known = start.info.classes if start is not None and start.info is not None else None
    names = known or classes_in(task).names
    check_classes(teacher, names)
    model = start.model if start is not None and start.model is not None else _new_model(spec, len(names), network)
    layout = layout_of_model(model, len(names), form)
    train_split, held_out = (load_part(task, part, form, layout, names) for part in ("train", "val"))  # type: ignore[arg-type]
    what = spec.train.pretrained_model_path or f"a new UNet on {spec.model.backbone}"
    say(
        f"Training {what} for {spec.train.num_epochs} epochs on {train_split.counted} of {len(names)} classes; "
        f"{held_out.counted} are held out. Results: {folder}"
    )
    augmentation = augmentation_of(task)

    def make_batches(first_epoch: int) -> Pipeline:
        order = BatchOrder(spec.train.batch_size_per_gpu, spec.train.random_seed, first_epoch, spec.train.num_epochs)
        return mask_training_pipeline(train_split, spec.dataset, layout, order, augmentation)

    validation = mask_evaluation_pipeline(held_out, spec.dataset, layout, spec.evaluate.batch_size).batches

    def scores(trained: keras.Model) -> Mapping[str, float]:
        means = training.scores_of_pixels(confusion_of(batch_predictor(trained), validation, layout, len(names)), names).means
        return {"val_miou": means["mean_iou"], "val_pixel_accuracy": means["pixel_accuracy"]}

    drawn = DrawnMasks(folder, held_out, spec, layout) if spec.train.tensorboard else None
    return training.TrainingJob(
        lambda: model,
        make_batches,
        validation,
        spec.train,
        training.segmentation_objective(
            spec.train, loss_of(task, spec, layout, names), scores, lambda: [LoggedScores(scores, drawn)]
        ),
        identity={
            "model": spec.model.model_dump(),
            "dataset": spec.dataset.model_dump(),
            "experiment": dict(task.spec.experiment),
            "contents": [train_split.checksum(), held_out.checksum()],
        },
        info=model_info.of_spec(spec, names, start.info if start is not None else None),
        teacher=None if teacher is None else teacher.model,
        pruned=is_pruned(start),
    )


class LoggedScores(keras.callbacks.Callback):
    """Logs the scores of an epoch; draws some held-out pictures for TensorBoard."""

    def __init__(self, scores: Any, drawn: DrawnMasks | None) -> None:
        super().__init__()
        self._scores, self._drawn = scores, drawn

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        logs.update(self._scores(self.model))
        if self._drawn is not None:
            self._drawn.write(batch_predictor(self.model), epoch + 1)


def loss_of(task: Task, spec: Spec, layout: MaskLayout, names: tuple[str, ...]) -> training.SegmentationLoss:
    """The loss that the spec describes.

    Raises:
        SpecError: it weighs a class that there is not.
    """
    network = network_of(task)
    strange = sorted(set(network.class_weights) - set(names))
    if strange:
        raise SpecError(
            f"segmentation_config.class_weights: there is no class {strange[0]!r}. Expected some of {', '.join(names)}."
        )
    # In the toolkit they are in specs and read nowhere.
    weighed = bool(network.class_weights) and not like_toolkit(task)
    weights = [network.class_weights.get(name, 1.0) for name in names] if weighed else None
    return training.SegmentationLoss(
        network.loss,
        one_channel=layout.one_channel,
        channels_first=layout.outputs_first,
        class_weights=weights,
        alpha=spec.train.distill.alpha,
        temperature=spec.train.distill.temperature,
        per_pixel=like_toolkit(task),
    )


def _new_model(spec: Spec, classes: int, network: NetworkSettings) -> keras.Model:
    from tlt_prune import models

    m = spec.model
    name = f"unet_{m.backbone.replace('vanilla_unet', 'vanilla')}"
    options: dict[str, Any] = {"output": network.activation, "kernel_initializer": network.initializer}
    try:
        shared = architecture_options(spec, name)
        size = (m.input_height, m.input_width, m.input_channels)
        model = models.build(name, size, classes, **shared, **options)
    except ValueError as error:
        raise SpecError(f"model: {first_line(error)}") from error
    source = spec.train.pretrained_model_path
    return with_weights(model, source, "train.pretrained_model_path") if source and not is_whole_model(spec) else model


def examples(task: Task, predictor: Predictor) -> Examples:
    """See `Task.examples`."""
    spec, form, _ = agreed_format(task.spec, predictor)
    assert predictor.model is not None
    names = predictor.info.classes if predictor.info is not None else classes_in(task).names
    layout = layout_of_model(predictor.model, len(names), form)
    few = load_part(task, "train", form, layout, names).sample(spec.prune.samples, spec.train.random_seed)
    loss = loss_of(task, spec, layout, names)

    def of_all(true: Any, said: Any) -> Any:
        return loss(true, said)

    return Examples(*stacked(batches_of(few, spec, layout)), of_all, of_all)


def batches_of(split: MaskSplit, spec: Spec, layout: MaskLayout) -> Any:
    """Batches (pictures, targets) as arrays."""
    pipeline = mask_evaluation_pipeline(split, spec.dataset, layout, spec.evaluate.batch_size)
    return [(np.asarray(x), np.asarray(y)) for x, y in pipeline.batches]
