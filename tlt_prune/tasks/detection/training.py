"""A detector's training as a spec describes it."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from tlt_prune import training
from tlt_prune.config import OptimConfig, RegConfig, Train
from tlt_prune.data import BatchOrder, Pipeline
from tlt_prune.detection import AutoWeighting, Rasterizer, dataset, experiment, messages, objective
from tlt_prune.errors import SpecError
from tlt_prune.io import model_info, say, workers
from tlt_prune.onnx import Predictor, load_predictor
from tlt_prune.tasks.detection import DetectionTask
from tlt_prune.tasks.detection.callbacks import DrawnDetections, Validation, validated
from tlt_prune.tasks.detection.job import DetectionJob, info_of, output_size
from tlt_prune.tasks.detection.rates import learning_rates
from tlt_prune.tasks.steps.starting import check_classes, is_pruned, read_teacher, seed, start_quantization_aware
from tlt_prune.tasks.steps.weights import with_weights

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, eq=False)
class _Data:
    """The pictures of a training, as a network of a given output size takes them.

    Attributes:
        job: the spec.
        training, validation: the pictures.
        output: (columns, rows) of the network's outputs.
        channels_first: of its inputs and outputs.
    """

    job: DetectionJob
    training: dataset.BoxSplit
    validation: dataset.BoxSplit
    output: tuple[int, int]
    channels_first: bool

    @property
    def _config(self) -> Any:
        return self.job.message.training_config

    @property
    def _raster(self) -> Rasterizer:
        return experiment.rasterizer(self.job.message, experiment.grid(self.job.message, *self.output))

    def batches(self, first_epoch: int) -> Pipeline:
        """Augmented batches from an epoch to the end."""
        order = BatchOrder(
            batch_size=int(self._config.batch_size_per_gpu),
            seed=int(self.job.message.random_seed),
            first_epoch=first_epoch,
            epochs=self._config.num_epochs,
        )
        return dataset.training_batches(
            self.training,
            self._raster,
            experiment.augmentation(self.job.message, tao=self.job.tao),
            order,
            channels_first=self.channels_first,
            uniform=_uniform(self.job),
        )

    def in_order(self, split: dataset.BoxSplit) -> Any:
        """Batches of a split, not augmented."""
        size = int(self._config.batch_size_per_gpu)
        return dataset.evaluation_batches(split, self._raster, batch_size=size, channels_first=self.channels_first)


def training_job(job: DetectionJob, folder: pathlib.Path) -> training.TrainingJob:
    """Reads the model and the data that the spec names.

    Raises:
        TltPruneError: something in the spec, the model or the data does not fit.
    """
    message, config = job.message, job.message.training_config
    plan = _plan(job)
    seed(int(message.random_seed))
    teacher = _teacher(job)
    splits = job.splits()
    start = _start(job)
    if config.enable_qat and start is None:
        raise SpecError(
            "training_config.enable_qat: expected a trained detector in model_config.pretrained_model_file (.keras), to be "
            "trained on in int8."
        )
    first_model = start.model if start is not None and start.model is not None else _new(job)
    columns, rows, channels_first = output_size(first_model)
    data = _Data(job, *splits, (columns, rows), channels_first)
    say(
        f"Training {start.path if start is not None else 'a new ' + first_model.name} for {config.num_epochs} epochs on "
        f"{len(splits[0])} pictures with {int(splits[0].is_object.sum())} objects of {len(experiment.class_names(message))} "
        f"classes; {len(splits[1])} pictures are held out. Results: {folder}"
    )

    def make_model() -> keras.Model:
        if not config.enable_qat:
            return first_model
        few = data.training.part(data.training.names[: plan.qat_config.samples])
        return start_quantization_aware(first_model, data.in_order(few), len(few), plan.qat_config)

    return training.TrainingJob(
        make_model,
        data.batches,
        data.in_order(data.validation),
        plan,
        _objective(data, plan, folder),
        identity={
            "experiment": messages.to_dict(message),
            "pictures": [len(x) for x in splits],
            "contents": [x.checksum() for x in splits],
        },
        info=info_of(job, start.info if start is not None else None),
        teacher=None if teacher is None else teacher.model,
        pruned=is_pruned(start),
    )


def _objective(data: _Data, plan: Train, folder: pathlib.Path) -> training.Objective:
    """DetectNet_v2's losses and learning rate, with validation by average precision."""
    job, first = data.job, data.channels_first
    config, classes = job.message.training_config, experiment.target_classes(job.message)
    each = int(config.batch_size_per_gpu)
    rates = learning_rates(config.learning_rate, lambda: -(-len(data.training) // workers.batch_size(each)))
    pictures = DrawnDetections(job, folder, data.validation) if plan.tensorboard else None

    def callbacks(rows: training.Rows) -> list[keras.callbacks.Callback]:
        weighting = AutoWeighting(experiment.objective_weights(job.message), classes, rows)
        # A resumed training has the rate of an uninterrupted one.
        rates.stopped(rows)
        return [weighting, Validation(job, data.validation, data.output, first, pictures)]

    return training.Objective(
        lambda: objective(classes, first, plan.distill.alpha),
        rates.rate,
        DetectionTask.measure.column,
        DetectionTask.measure.label,
        rates.stopped,
        callbacks,
        channel_axis=1 if first else -1,
        scores=lambda model: {
            DetectionTask.measure.column: validated(model, job, data.validation, data.output, first).mean_average_precision
        },
    )


def _teacher(job: DetectionJob) -> Predictor | None:
    teacher = read_teacher(job.spec.train.distill.teacher)
    if teacher is not None:
        model_info.agreed(job.spec, teacher.info, str(teacher.path))
        check_classes(teacher, experiment.class_names(job.message))
    return teacher


def _uniform(job: DetectionJob) -> bool:
    """Whether every source is drawn from equally often: as the spec says; what it leaves open, the toolkit does so."""
    mode = job.message.dataset_config.DESCRIPTOR.fields_by_name["sampling_mode"].enum_type.values_by_number
    name = mode[job.message.dataset_config.sampling_mode].name
    return name == "UNIFORM" or (name == "USER_DEFINED" and job.tao)


def _plan(job: DetectionJob) -> Train:
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
            "qat": config.enable_qat,
            "keep_best": ours.keep_best or "keep_best" not in ours.model_fields_set,
            "tensorboard": ours.tensorboard,
            "distill": ours.distill,
            "qat_config": ours.qat_config,
            "reg_config": regularizer,
            "optim_config": OptimConfig(optimizer="adam", beta_1=adam.beta1, beta_2=adam.beta2, epsilon=adam.epsilon),
        }
    )


def _start(job: DetectionJob) -> Predictor | None:
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


def _new(job: DetectionJob) -> keras.Model:
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
    return with_weights(model, path, "model_config.pretrained_model_file") if path else model
