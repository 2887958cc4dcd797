"""The model, pictures and preprocessing that a segmentation's exported files are made of and checked with."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune.data import preprocess
from tlt_prune.errors import SpecError
from tlt_prune.io import files
from tlt_prune.onnx import Predictor, write_classes
from tlt_prune.tasks.classification.export import ClassifierMaterial
from tlt_prune.tasks.segmentation.data import classes_in, layout_of_model, load_part
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tlt_prune.data import MaskSplit


class SegmentationMaterial(ClassifierMaterial):
    """See `Task.export_material`; the pictures are those with masks."""

    def __init__(self, task: Task, predictor: Predictor) -> None:
        super().__init__(task, predictor)
        assert predictor.model is not None
        self._classes = len(classes_in(task).names)
        self._layout = layout_of_model(predictor.model, self._classes, self._form)

    def samples(self) -> NDArray[Any]:
        split = load_part(self._task, "val", self._form, self._layout)
        return self._pictures(split.part(range(min(self.spec.export.parity_samples, len(split)))))

    def calibration(self) -> NDArray[Any]:
        e = self.spec.export
        if e.cal_image_dir:
            return super().calibration()
        split = load_part(self._task, "train", self._form, self._layout)
        return self._pictures(split.sample(e.batches * e.batch_size, self.spec.train.random_seed))

    def write_decoded(self, onnx: pathlib.Path, path: pathlib.Path, samples: NDArray[Any]) -> str:
        if "onnx" not in self.spec.export.formats:
            raise SpecError("export.decoding: the classes are computed from the ONNX file. Expected onnx in export.formats.")
        # They are the same in float and in int8 then, as the file says.
        write_classes(files.written(onnx), path, axis=1 if self._layout.outputs_first else 3, one=self._layout.one_channel)
        height, width = self._layout.size
        return f"the class of every pixel, int32 (pictures, {height}, {width}), as {onnx.name} has it."

    def _pictures(self, split: MaskSplit) -> NDArray[Any]:
        pictures = np.stack([split.example(i)[0] for i in range(len(split))])
        return np.asarray(preprocess(pictures, self.spec.dataset, self.channels_first, self._form.depth))
