"""The model, pictures and preprocessing that a detector's exported files are made of and checked with."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune.detection import as_input, experiment, with_decoding
from tlt_prune.errors import SpecError
from tlt_prune.export import ExportMaterial, PicturePreprocessing, export_onnx
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.detection.job import DetectionJob, output_size
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import NDArray


class DetectorMaterial(ExportMaterial):
    """See `Task.export_material`."""

    def __init__(self, task: Task, job: DetectionJob, predictor: Predictor) -> None:
        self._task, self.spec, self.predictor, self._job = task, job.spec, predictor, job
        self._output = output_size(predictor.model)
        self.channels_first = predictor.channels_first(self._job.channels)
        self._training, self._validation = self._job.splits()

    @property
    def size(self) -> tuple[int, int]:
        width, height = self._job.size
        return height, width

    def samples(self) -> NDArray[Any]:
        return self._inputs(self._validation.pictures[: self.spec.export.parity_samples])

    def calibration(self) -> NDArray[Any]:
        e = self.spec.export
        if e.cal_image_dir:
            raise SpecError("export.cal_image_dir: a detector is calibrated on the spec's training pictures. Expected none.")
        return self._inputs(self._training.pictures[: e.batches * e.batch_size])

    def training(self, epochs: int) -> Mapping[str, Any]:
        return self._task.twin_training(self.predictor, epochs, "export.litert_qat_epochs").arguments

    def write_decoded(self, onnx: pathlib.Path, path: pathlib.Path, samples: NDArray[Any]) -> str:
        columns, rows, first = self._output
        decoded = with_decoding(self.predictor.model, experiment.grid(self._job.message, columns, rows), first)
        e = self.spec.export
        export_onnx(decoded, path, samples, opset=e.opset, layout=e.onnx_layout, info=self.predictor.info)
        return "boxes (pictures, classes, cells, 4) in pixels, and scores (pictures, classes, cells)."

    def pictures(self) -> PicturePreprocessing:
        import tensorflow as tf

        def prepare(images: tf.Tensor) -> tf.Tensor:
            resized = tf.image.resize(tf.cast(images, tf.float32) / 255, self.size, antialias=True)
            resized = tf.ensure_shape(resized, (None, *self.size, self._job.channels))
            return tf.transpose(resized, (0, 3, 1, 2)) if self.channels_first else resized

        return PicturePreprocessing(self._job.channels, "uint8", prepare)

    def _inputs(self, pictures: NDArray[Any]) -> NDArray[Any]:
        return as_input(pictures.astype(np.float32) / 255, self.channels_first)
