"""What the scripts do where the spec's task is detection."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np

from tlt_prune import model_info, training
from tlt_prune.cli import common
from tlt_prune.detection import dataset, experiment
from tlt_prune.detection.evaluation import Evaluation, Outputs, Postprocessing, evaluate, output_layout, outputs_of
from tlt_prune.detection.kitti import random_folds
from tlt_prune.detection.schedules import soft_start_annealing
from tlt_prune.detection.training import AutoWeighting, objective
from tlt_prune.errors import DataError, SpecError
from tlt_prune.export.runtime import Predictor, keras_runner, load_predictor
from tlt_prune.model_info import ModelInfo
from tlt_prune.specs import OptimConfig, RegConfig, Spec, Train


@dataclasses.dataclass(frozen=True, eq=False)
class Detection:
    """A spec of detection, read.

    Attributes:
        spec: as the scripts have it.
        message: the toolkit's sections.
        tao: whether results are to be the toolkit's own, defects included.
    """

    spec: Spec
    message: Any
    tao: bool

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return experiment.canvas(self.message).size

    @property
    def channels(self) -> int:
        return int(self.message.augmentation_config.preprocessing.output_image_channel or 3)

    def splits(self) -> tuple[dataset.BoxSplit, dataset.BoxSplit]:
        """(training, validation).

        Raises:
            DataError: the data is not as the spec says, or a part is empty.
        """
        config = self.message.dataset_config
        if len(config.data_sources) > 1:
            raise SpecError(f"dataset_config.data_sources: expected one. Received: {len(config.data_sources)}.")
        everything = self._source(config.data_sources[0])
        if config.HasField("validation_data_source"):
            parts = everything, self._source(config.validation_data_source)
        elif config.train_names_path or config.val_names_path:
            listed = (config.train_names_path, config.val_names_path)
            own, held_out = (everything.part(_names(path, key)) for path, key in zip(listed, ("train", "val"), strict=True))
            parts = own, held_out
        else:
            validation, training_names = random_folds(
                everything.names, config.val_split or 20, int(self.message.random_seed), tao=self.tao
            )
            parts = everything.part(training_names), everything.part(validation)
        for part, what in zip(parts, ("training", "validation"), strict=True):
            if not len(part):
                raise DataError(f"dataset_config: expected pictures for {what}. There are none.")
        return parts[0], parts[1]

    def _source(self, source: Any) -> dataset.BoxSplit:
        mapping, names = experiment.mapping(self.message), experiment.class_names(self.message)
        as_tao = "tf1" if self.message.augmentation_config.preprocessing.enable_auto_resize else "pad"
        options: dict[str, Any] = {"channels": self.channels, "classes": names, "resize": as_tao if self.tao else "smooth"}
        if source.coco_annotations_path:
            return dataset.load_coco(source.coco_annotations_path, source.image_directory_path, mapping, self.size, **options)
        if source.label_directory_path:
            return dataset.load_kitti(source.image_directory_path, source.label_directory_path, mapping, self.size, **options)
        raise SpecError(
            "dataset_config.data_sources: expected label_directory_path (KITTI's text files) or coco_annotations_path. The "
            "toolkit's records (tfrecords_path) are not read: they were made from such labels."
        )

    def postprocessing(self, columns: int, rows: int) -> Postprocessing:
        grid = experiment.grid(self.message, columns, rows)
        return Postprocessing(grid, experiment.clustering(self.message), "tao" if self.tao else "")

    def evaluated(self, outputs: Outputs, split: dataset.BoxSplit, output: tuple[int, int]) -> Evaluation:
        """Average precision of a model whose output has `output` (columns, rows)."""
        return evaluate(
            outputs,
            split,
            self.postprocessing(*output),
            experiment.evaluation_boxes(self.message),
            mode=experiment.average_precision_mode(self.message),
            compatible=self.tao,
            batch_size=self.spec.evaluate.batch_size,
        )


def read(spec: Spec) -> Detection:
    """Raises SpecError where the sections are not as they should be."""
    message = experiment.from_dict(spec.experiment, common.spec_name())
    if message.compatibility not in ("", "tao"):
        raise SpecError(f"compatibility: expected '' or 'tao'. Received: {message.compatibility!r}.")
    dataset.check_size(experiment.canvas(message).size)
    return Detection(spec, message, message.compatibility == "tao")


def _names(path: str, key: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text("utf-8").split()
    except OSError as error:
        raise DataError(f"dataset_config.{key}_names_path: cannot read {path!r}: {error.strerror}.") from error


def output_size(model: Any) -> tuple[int, int, bool]:
    """(columns, rows, channels first) of a detector's outputs `[output_bbox, output_cov]`.

    Raises:
        SpecError: it is none.
    """
    shapes = [tuple(x.shape) for x in model.outputs]
    found = output_layout(shapes)
    if found is None:
        raise SpecError(f"'{model.name}': expected a detector with outputs [output_bbox, output_cov]. Its outputs are {shapes}.")
    return found


def run_training(spec: Spec, folder: pathlib.Path, *, restart: bool) -> tuple[Spec, Any]:
    """Trains a detector into `folder`; for the rest see `cli.training_run.run_training`."""
    job = read(spec)
    message, config = job.message, job.message.training_config
    seed = int(message.random_seed)
    plan = _plan(job)
    keras.utils.set_random_seed(seed)
    train_split, validation = job.splits()
    start = _start(job)
    built = start.model if start is not None else _new(job)
    columns, rows, first = output_size(built)
    raster = experiment.rasterizer(message, experiment.grid(message, columns, rows))
    classes = experiment.target_classes(message)
    batch_size = int(config.batch_size_per_gpu)
    common.say(
        f"Training {start.path if start is not None else 'a new ' + built.name} for {config.num_epochs} epochs on "
        f"{len(train_split)} pictures with {int((train_split.numbers >= 0).sum())} objects of {len(classes)} classes; "
        f"{len(validation)} pictures are held out. Results: {folder}"
    )

    def make_batches(first_epoch: int) -> tuple[Any, int]:
        return dataset.training_batches(
            train_split,
            raster,
            experiment.augmentation(message, tao=job.tao),
            batch_size=batch_size,
            seed=seed,
            first_epoch=first_epoch,
            epochs=plan.num_epochs,
            channels_first=first,
        )

    def callbacks(history: Any) -> list[Any]:
        weighting = AutoWeighting(experiment.objective_weights(message), classes, history)
        return [weighting, _Validation(job, validation, (columns, rows), first)]

    result = training.train(
        lambda: built,
        make_batches,
        dataset.evaluation_batches(validation, raster, batch_size=batch_size, channels_first=first),
        plan,
        folder,
        identity={
            "experiment": experiment.to_dict(message),
            "pictures": [len(train_split), len(validation)],
            "contents": [train_split.checksum(), validation.checksum()],
        },
        info=info_of(job, start.info if start is not None else None),
        restart=restart,
        say=common.say,
        task=training.Task(
            lambda: objective(classes, first), lambda step, total: _rate(config, step, total), "val_map", callbacks
        ),
    )
    return spec, result


def _rate(config: Any, step: int, total: int) -> float:
    schedule = config.learning_rate.soft_start_annealing_schedule
    rates = (schedule.min_learning_rate, schedule.max_learning_rate)
    return soft_start_annealing(step / total, *rates, schedule.soft_start, schedule.annealing)


def _plan(job: Detection) -> Train:
    """The toolkit's training section in the terms of the loop that serves both tasks."""
    config = job.message.training_config
    if not config.learning_rate.HasField("soft_start_annealing_schedule"):
        raise SpecError("training_config.learning_rate: expected soft_start_annealing_schedule.")
    kind = config.regularizer.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[config.regularizer.type].name
    regularizer = RegConfig.model_validate(
        {"type": {"NO_REG": "none"}.get(kind, kind), "weight_decay": config.regularizer.weight, "scope": ("conv2d",)}
    )
    adam = config.optimizer.adam
    return Train.model_validate(
        {
            "num_epochs": config.num_epochs,
            "batch_size_per_gpu": config.batch_size_per_gpu,
            "random_seed": job.message.random_seed,
            "checkpoint_interval": config.checkpoint_interval or 10,
            "reg_config": regularizer,
            "optim_config": OptimConfig(optimizer="adam", beta_1=adam.beta1, beta_2=adam.beta2, epsilon=adam.epsilon),
        }
    )


def _start(job: Detection) -> Predictor | None:
    """The model to go on with, where the spec names a whole one."""
    path = job.message.model_config.pretrained_model_file
    if not path:
        return None
    start = load_predictor(path)
    if start.model is None:
        raise SpecError(f"model_config.pretrained_model_file: expected a .keras file. Received: {path}.")
    names = experiment.class_names(job.message)
    if start.info is not None and start.info.classes != names:
        raise SpecError(
            f"cost_function_config.target_classes: {path} was trained on {', '.join(start.info.classes)}, in that order. "
            f"Received: {', '.join(names)}."
        )
    return start


def _new(job: Detection) -> Any:
    from tlt_prune import models

    config, (width, height) = job.message.model_config, job.size
    layers = f"{config.num_layers or 18}" if config.arch in ("resnet", "vgg", "darknet") else ""
    options: dict[str, Any] = {
        "use_batch_norm": config.use_batch_norm,
        "freeze_bn": config.freeze_bn,
        "freeze_blocks": tuple(int(x) for x in config.freeze_blocks),
        "width": config.width or 1.0,
        # Convolutions with channels first do not run on a CPU.
        "data_format": config.data_format or "channels_last",
        "padding": config.padding or "tao",
    }
    if config.arch == "resnet":
        options |= {"all_projections": config.all_projections, "use_pooling": config.use_pooling}
    if config.arch == "vgg":
        options |= {"use_pooling": config.use_pooling}
    try:
        return models.build(
            f"detectnet_v2_{config.arch}{layers}",
            (height, width, job.channels),
            len(experiment.class_names(job.message)),
            **options,
        )
    except ValueError as error:
        raise SpecError(f"model_config: {error}") from error


def info_of(job: Detection, start: ModelInfo | None) -> ModelInfo:
    """What a detector knows of itself."""
    fields = {
        "classes": experiment.class_names(job.message),
        "preprocess_mode": "unit",
        "image_mean": (),
        "input_image_depth": 8,
        "enable_center_crop": False,
        "resize_interpolation_method": "bilinear",
        "pruning": start.pruning if start is not None else (),
        "versions": model_info.versions(),
    }
    return ModelInfo.model_validate(fields)


class _Validation(keras.callbacks.Callback):
    """Average precision on the held-out pictures, where the spec wants it, and at the end."""

    def __init__(self, job: Detection, split: dataset.BoxSplit, output: tuple[int, int], channels_first: bool) -> None:
        super().__init__()
        self._job, self._split, self._output, self._first = job, split, output, channels_first

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        config, done = self._job.message.evaluation_config, epoch + 1
        first, period = config.first_validation_epoch, config.validation_period_during_training
        last = done == self._job.message.training_config.num_epochs
        if last or (done >= first and (done - first) % period == 0):
            outputs = outputs_of(keras_runner(self.model), self._first)
            found = self._job.evaluated(outputs, self._split, self._output)
            logs["val_map"] = found.mean_average_precision
            common.say(f"Mean average precision after epoch {done}: {100 * found.mean_average_precision:.2f} %")


def examples(job: Detection, predictor: Any) -> tuple[Any, Any, Any]:
    """(pictures as the model takes them, targets of its two outputs, loss) for criteria and compensations."""
    split, _ = job.splits()
    few = split.part(split.names[: job.spec.prune.samples])
    columns, rows, first = output_size(predictor.model)
    raster = experiment.rasterizer(job.message, experiment.grid(job.message, columns, rows))
    losses = objective(experiment.target_classes(job.message), first)["loss"]
    batches = list(dataset.evaluation_batches(few, raster, batch_size=16, channels_first=first))
    x = np.concatenate([np.asarray(x) for x, _ in batches])
    y = tuple(np.concatenate([np.asarray(y[i]) for _, y in batches]) for i in (0, 1))

    def loss(true: Any, said: Any) -> Any:
        return losses[0](true[0], said[0]) + losses[1](true[1], said[1])

    return x, y, loss
