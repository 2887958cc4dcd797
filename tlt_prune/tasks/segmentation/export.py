"""The model, pictures and preprocessing that a segmentation's exported files are made of and checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune.data import preprocess
from tlt_prune.errors import SpecError
from tlt_prune.tasks.classification.export import ClassifierMaterial
from tlt_prune.tasks.segmentation.data import load_part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tlt_prune.data import MaskSplit


class SegmentationMaterial(ClassifierMaterial):
    """See `Task.export_material`; the pictures are those with masks."""

    def samples(self) -> NDArray[Any]:
        split = load_part(self._task, "val", self._form)
        return self._pictures(split.part(range(min(self.spec.export.parity_samples, len(split)))))

    def calibration(self) -> NDArray[Any]:
        e = self.spec.export
        if e.cal_image_dir:
            return super().calibration()
        return self._pictures(
            load_part(self._task, "train", self._form).sample(e.batches * e.batch_size, self.spec.train.random_seed)
        )

    def decoded(self) -> Any:
        raise SpecError("export.decoding: expected false for a segmentation: its largest channel is a pixel's class.")

    def _pictures(self, split: MaskSplit) -> NDArray[Any]:
        pictures = np.stack([split.example(i)[0] for i in range(len(split))])
        return np.asarray(preprocess(pictures, self.spec.dataset, self.channels_first, self._form.depth))
