"""A detector's training as a spec describes it: what `tlt-train` does where the task is detection."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tlt_prune import training
from tlt_prune.cli import common
from tlt_prune.cli import models as model_files
from tlt_prune.cli.detecting import drawn
from tlt_prune.cli.detection import Detection, info_of, output_size, read
from tlt_prune.cli.training_run import quantization_aware, read_teacher
from tlt_prune.config.specs import OptimConfig, RegConfig, Spec, Train
from tlt_prune.detection import dataset, experiment
from tlt_prune.detection.clustering import boxes_of
from tlt_prune.detection.evaluation import Evaluation, outputs_of
from tlt_prune.detection.schedules import EarlyStoppingAnnealing, soft_start_annealing
from tlt_prune.detection.training import AutoWeighting, objective
from tlt_prune.errors import SpecError
from tlt_prune.onnx.predictor import Predictor, keras_runner, load_predictor


def run_training(spec: Spec, folder: pathlib.Path, *, restart: bool) -> tuple[Spec, Any]:
    """Trains a detector into `folder`; for the rest see `cli.training_run.run_training`."""
    job = read(spec)
    message, config = job.message, job.message.training_config
    seed = int(message.random_seed)
    plan = _plan(job)
    keras.utils.set_random_seed(seed)
    teacher = read_teacher(spec)
    known = experiment.class_names(message)
    if teacher is not None and teacher.info is not None and teacher.info.classes != known:
        raise SpecError(
            f"train.distill.teacher: {teacher.path} was trained on the classes {', '.join(teacher.info.classes[:10])}. Expected "
            f"those of this training, in the same order: {', '.join(known[:10])}."
        )
    train_split, validation = job.splits()
    start = _start(job)
    if config.enable_qat and start is None:
        raise SpecError(
            "training_config.enable_qat: expected a trained detector in model_config.pretrained_model_file (.keras), to be "
            "trained on in int8."
        )
    built = start.model if start is not None else _new(job)
    columns, rows, first = output_size(built)
    raster = experiment.rasterizer(message, experiment.grid(message, columns, rows))
    classes = experiment.target_classes(message)
    batch_size = int(config.batch_size_per_gpu)
    common.say(
        f"Training {start.path if start is not None else 'a new ' + built.name} for {config.num_epochs} epochs on "
        f"{len(train_split)} pictures with {int(train_split.is_object.sum())} objects of {len(classes)} classes; "
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
            uniform=_uniform(job),
        )

    pictures = _Pictures(job, folder, validation) if plan.tensorboard else None
    rates = _rates(config.learning_rate, steps=-(-len(train_split) // batch_size))

    def callbacks(history: Any) -> list[Any]:
        weighting = AutoWeighting(experiment.objective_weights(message), classes, history)
        # A resumed training has the rate of an uninterrupted one.
        rates.stopped(history)
        return [weighting, _Validation(job, validation, (columns, rows), first, pictures)]

    def make_model() -> Any:
        if not config.enable_qat:
            return built
        few = train_split.part(train_split.names[: plan.qat_config.samples])
        calibration = dataset.evaluation_batches(few, raster, batch_size=batch_size, channels_first=first)
        return quantization_aware(built, calibration, len(few), plan.qat_config)

    result = training.train(
        make_model,
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
        teacher=None if teacher is None else teacher.model,
        restart=restart,
        say=common.say,
        task=training.Task(
            lambda: objective(classes, first, plan.distill.alpha),
            rates.rate,
            "val_map",
            rates.stopped,
            callbacks,
            channel_axis=1 if first else -1,
        ),
    )
    # As of classification, for what comes next.
    return spec.model_copy(update={"train": spec.train.model_copy(update={"qat": config.enable_qat})}), result


def _uniform(job: Detection) -> bool:
    """Whether every source is drawn from equally often: as the spec says; what it leaves open, the toolkit does so."""
    mode = job.message.dataset_config.DESCRIPTOR.fields_by_name["sampling_mode"].enum_type.values_by_number
    name = mode[job.message.dataset_config.sampling_mode].name
    return name == "UNIFORM" or (name == "USER_DEFINED" and job.tao)


class _SoftStart:
    """The learning rate by the share of all steps that is done."""

    def __init__(self, schedule: Any) -> None:
        self._limits = (schedule.min_learning_rate, schedule.max_learning_rate)
        self._shares = (schedule.soft_start, schedule.annealing)

    def rate(self, step: int, total: int) -> float:
        return soft_start_annealing(step / total, *self._limits, *self._shares)

    def stopped(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        return False


class _EarlyStopping:
    """The learning rate by what validation comes to; where it stands follows from the logs, so that a resumption goes on."""

    def __init__(self, schedule: Any, steps: int) -> None:
        self._make: Callable[[], EarlyStoppingAnnealing] = lambda: EarlyStoppingAnnealing(
            schedule.min_learning_rate,
            schedule.max_learning_rate,
            soft_start_steps=schedule.soft_start_epochs * steps,
            annealing_steps=schedule.annealing_epochs * steps,
            patience=schedule.patience_steps,
        )
        self._steps, self._state = steps, self._make()

    def rate(self, step: int, total: int) -> float:
        return self._state.rate(step)

    def stopped(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        self._state = self._make()
        for done, row in enumerate(rows, 1):
            self._state.validated(row["val_loss"], done * self._steps)
        return self._state.stopped


def _rates(config: Any, steps: int) -> _SoftStart | _EarlyStopping:
    if config.HasField("early_stopping_annealing_schedule"):
        return _EarlyStopping(config.early_stopping_annealing_schedule, steps)
    if config.HasField("soft_start_annealing_schedule"):
        return _SoftStart(config.soft_start_annealing_schedule)
    raise SpecError("training_config.learning_rate: expected soft_start_annealing_schedule or early_stopping_annealing_schedule.")


def _plan(job: Detection) -> Train:
    """The toolkit's training section in the terms of the loop that serves both tasks."""
    config, ours = job.message.training_config, job.spec.train
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
            "keep_best": ours.keep_best or "keep_best" not in ours.model_fields_set,
            "tensorboard": ours.tensorboard,
            "distill": ours.distill,
            "qat_config": ours.qat_config,
            "reg_config": regularizer,
            "optim_config": OptimConfig(optimizer="adam", beta_1=adam.beta1, beta_2=adam.beta2, epsilon=adam.epsilon),
        }
    )


def _start(job: Detection) -> Predictor | None:
    """The model to go on with, where the spec names a whole one: not weights alone, which go into a new one by name."""
    config = job.message.model_config
    path = config.pretrained_model_file
    if not path or (path.endswith((".h5", ".hdf5")) and not config.load_graph):
        return None
    start = load_predictor(path)
    if start.model is None:
        raise SpecError(f"model_config.pretrained_model_file: expected a .keras, .h5 or .hdf5 file. Received: {path}.")
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
        model = models.build(
            f"detectnet_v2_{config.arch}{layers}",
            (height, width, job.channels),
            len(experiment.class_names(job.message)),
            **options,
        )
    except ValueError as error:
        raise SpecError(f"model_config: {error}") from error
    path = config.pretrained_model_file
    return model_files.with_weights(model, path, "model_config.pretrained_model_file") if path else model


class _Validation(keras.callbacks.Callback):
    """Average precision on the held-out pictures, where the spec wants it, and at the end; `shown` draws some of them."""

    def __init__(
        self, job: Detection, split: dataset.BoxSplit, output: tuple[int, int], channels_first: bool, shown: _Pictures | None
    ) -> None:
        super().__init__()
        self._job, self._split, self._output, self._first = job, split, output, channels_first
        self._shown = shown

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        config, done = self._job.message.evaluation_config, epoch + 1
        first, period = config.first_validation_epoch, config.validation_period_during_training
        last = done == self._job.message.training_config.num_epochs
        if last or (done >= first and (done - first) % period == 0):
            outputs = outputs_of(keras_runner(self.model), self._first)
            found = self._job.evaluated(outputs, self._split, self._output)
            logs["val_map"] = found.mean_average_precision
            if found.explained():
                common.say(f"Mean average precision 0 after epoch {done}: {found.explained()}")
            if self._shown is not None:
                self._shown.write(found, done)


class _Pictures:
    """Held-out pictures with the boxes that are found and, in white, those that are there: for TensorBoard."""

    def __init__(self, job: Detection, folder: pathlib.Path, split: dataset.BoxSplit) -> None:
        config = job.message.training_config
        wanted = config.visualizer.num_images or 3
        switched_off = config.HasField("visualizer") and not config.visualizer.enabled
        self._split, self._folder = split.part(split.names[: 0 if switched_off else wanted]), folder / "tensorboard"

    def write(self, found: Evaluation, epoch: int) -> None:
        if not len(self._split):
            return
        import tensorflow as tf

        classes = self._split.classes
        sheets = []
        for i, detections in enumerate(found.detections[: len(self._split)]):
            there = [(None, box, None) for box in self._split.boxes[i][self._split.is_object[i]]]
            sheets.append(np.asarray(drawn(self._split.pictures[i], [*there, *boxes_of(detections)], classes)))
        writer = tf.summary.create_file_writer(str(self._folder), filename_suffix=".pictures")
        with writer.as_default(step=epoch):
            tf.summary.image("detections", np.stack(sheets), max_outputs=len(sheets))
        writer.close()
