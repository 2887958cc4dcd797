"""A spec of detection, read: the toolkit's sections as values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune.config import Spec
from tlt_prune.detection import (
    Evaluation,
    Outputs,
    Postprocessing,
    dataset,
    evaluate_detector,
    experiment,
    messages,
    objective,
    output_layout,
    read_splits,
    scored,
)
from tlt_prune.errors import SpecError
from tlt_prune.io import ModelInfo, model_info, say
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.steps.data import say_shared
from tlt_prune.tasks.task import Examples

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionJob:
    """A spec of detection, read.

    Attributes:
        spec: the whole spec.
        message: the toolkit's sections, as the protobuf message that they are there.
        tao: whether results are to be the toolkit's, defects included.
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
        return experiment.channels(self.message)

    @property
    def oriented(self) -> bool:
        return experiment.oriented(self.message, tao=self.tao)

    def splits(self) -> tuple[dataset.BoxSplit, dataset.BoxSplit]:
        """(training, validation): see `detection.splits`. What was left out of them is said."""
        parts = read_splits(self.message, tao=self.tao)
        for note in dict.fromkeys(note for part in parts for note in part.notes):
            say(note)
        say_shared(parts[0].pictures, parts[1].pictures)
        return parts

    def postprocessing(self, columns: int, rows: int) -> Postprocessing:
        grid = experiment.grid(self.message, columns, rows)
        return Postprocessing(grid, experiment.clustering(self.message), "tao" if self.tao else "")

    def evaluated(self, outputs: Outputs, split: dataset.BoxSplit, output: tuple[int, int]) -> Evaluation:
        """Average precision of a model whose output has `output` (columns, rows)."""
        return evaluate_detector(
            outputs,
            split,
            self.postprocessing(*output),
            experiment.evaluation_boxes(self.message),
            batch_size=self.spec.evaluate.batch_size,
            **self.scoring,
        )

    @property
    def scoring(self) -> dict[str, Any]:
        """Arguments of `detection.evaluation.evaluate_detector` that choose the variant of average precision."""
        return {"mode": experiment.average_precision_mode(self.message), "compatible": self.tao}


# What a detector's training takes from the section that classification is described by; the rest is `training_config`.
OF_TRAIN = {"keep_best", "tensorboard", "distill", "qat_config"}


def read_job(spec: Spec, source: str) -> DetectionJob:
    """Reads the toolkit's sections; `source` names their file in errors.

    Raises:
        SpecError: a key is unknown, a value is out of range, or a section of classification is given.
    """
    for section, settings in (("train", spec.train), ("dataset", spec.dataset), ("model", spec.model)):
        given = settings.model_fields_set - (OF_TRAIN if section == "train" else set())
        if given:
            raise SpecError(
                f"{section}.{min(given)}: this describes classification. Expected, with `task: detection`, the sections "
                "dataset_config, augmentation_config, model_config, training_config; of `train` only "
                f"{', '.join(sorted(OF_TRAIN))}."
            )
    message = messages.from_dict(spec.experiment, source)
    if message.compatibility not in ("", "tao"):
        raise SpecError(f"compatibility: expected '' or 'tao'. Received: {message.compatibility!r}.")
    experiment.check_canvas(message)
    dataset.check_size(experiment.canvas(message).size)
    return DetectionJob(spec, message, message.compatibility == "tao")


def output_size(model: keras.Model) -> tuple[int, int, bool]:
    """(columns, rows, channels first) of a detector's outputs `[output_bbox, output_cov]`.

    Raises:
        SpecError: it is none.
    """
    shapes = [tuple(x.shape) for x in model.outputs]
    found = output_layout(shapes)
    if found is None:
        raise SpecError(f"'{model.name}': expected a detector with outputs [output_bbox, output_cov]. Its outputs are {shapes}.")
    return found


def info_of(job: DetectionJob, start: ModelInfo | None) -> ModelInfo:
    """The record of classes and preprocessing that travels with a detector."""
    fields = {
        "classes": experiment.class_names(job.message),
        "preprocess_mode": "unit",
        "image_mean": (),
        "input_image_depth": 8,
        "enable_center_crop": False,
        "resize_interpolation_method": "bilinear",
        "ignore_exif_orientation": not job.oriented,
        "versions": model_info.versions(),
        **model_info.of_prunes(start),
    }
    return ModelInfo.model_validate(fields)


def examples(job: DetectionJob, predictor: Predictor) -> Examples:
    """See `Task.examples`; the metric is the mean average precision on these very pictures."""
    split, _ = job.splits()
    few = split.part(split.names[: job.spec.prune.samples])
    columns, rows, first = output_size(predictor.model)
    raster = experiment.rasterizer(job.message, experiment.grid(job.message, columns, rows))
    losses = objective(experiment.target_classes(job.message), first)["loss"]
    batches = list(dataset.evaluation_batches(few, raster, batch_size=16, channels_first=first))
    x = np.concatenate([np.asarray(x) for x, _ in batches])
    y = tuple(np.concatenate([np.asarray(y[i]) for _, y in batches]) for i in (0, 1))

    def loss(true: Sequence[NDArray[Any]], said: Sequence[tf.Tensor]) -> tf.Tensor:
        return losses[0](true[0], said[0]) + losses[1](true[1], said[1])

    def precision(true: Sequence[NDArray[Any]], said: Sequence[tf.Tensor]) -> float:
        bbox, cov = (np.asarray(z) if first else np.transpose(z, (0, 3, 1, 2)) for z in said)
        found = job.postprocessing(columns, rows)(bbox, cov)
        return scored(found, few, experiment.evaluation_boxes(job.message), **job.scoring).mean_average_precision

    return Examples(x, y, loss, precision)
