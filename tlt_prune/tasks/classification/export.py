"""The model, pictures and preprocessing that a classifier's exported files are made of and checked with."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune import data
from tlt_prune.data import preprocess
from tlt_prune.errors import SpecError
from tlt_prune.export import ExportMaterial, PicturePreprocessing
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.classification.pictures import agreed_format, as_inputs
from tlt_prune.tasks.task import Task, stacked

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import NDArray


class ClassifierMaterial(ExportMaterial):
    """See `Task.export_material`."""

    def __init__(self, task: Task, predictor: Predictor) -> None:
        self.predictor = predictor
        self._task = task
        self.spec, self._form, self.channels_first = agreed_format(task.spec, predictor)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width, _ = self._form.size
        return height, width

    def samples(self) -> NDArray[Any]:
        """Held-out pictures as the model takes them, to compare files with Keras."""
        split = data.load_test_split(self.spec.dataset, self._form, self.spec.evaluate.dataset_path)
        return self._inputs(split.head(self.spec.export.parity_samples))

    def calibration(self) -> NDArray[Any]:
        """Pictures as the model takes them, to measure ranges on."""
        e = self.spec.export
        if e.cal_image_dir:
            few = data.picture_files(e.cal_image_dir)[: e.batches * e.batch_size]
            dataset, depth = self.spec.dataset, self._form.depth
            batches = data.picture_batches(few, self._form, e.batch_size)
            return np.concatenate([np.asarray(preprocess(x, dataset, self.channels_first, depth)) for x in batches])
        return self._inputs(self._training_split().sample(e.batches * e.batch_size, self.spec.train.random_seed))

    def _training_split(self) -> data.Split:
        return data.load_splits(self.spec.dataset, self._form)[0]

    def training(self, epochs: int) -> Mapping[str, Any]:
        """Arguments of the training of its tf_keras twin."""
        return self._task.twin_training(self.predictor, epochs, "export.litert_qat_epochs").arguments

    def write_decoded(self, onnx: pathlib.Path, path: pathlib.Path, samples: NDArray[Any]) -> str:
        raise SpecError("export.decoding: expected false for a classifier, which says no boxes.")

    def pictures(self) -> PicturePreprocessing:
        """The model's preprocessing, for the SavedModel's second signature."""
        import tensorflow as tf

        form, dataset = self._form, self.spec.dataset
        method = {"box": "area", "hamming": "gaussian", "lanczos": "lanczos3"}.get(form.resample, form.resample)

        def prepare(images: tf.Tensor) -> tf.Tensor:
            resized = tf.image.resize(tf.cast(images, tf.float32), form.size[:2], method, antialias=True)
            return preprocess(tf.ensure_shape(resized, (None, *form.size)), dataset, self.channels_first, form.depth)

        return PicturePreprocessing(form.size[2], np.dtype(form.dtype).name, prepare)

    def _inputs(self, split: data.Split) -> NDArray[Any]:
        return stacked(as_inputs(self.spec, split, self._form, channels_first=self.channels_first, batch_size=64))[0]
