"""Segmentation: a class for every pixel, by UNet."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlt_prune.tasks.registry import register
from tlt_prune.tasks.steps.data import has_examples
from tlt_prune.tasks.task import Examples, Inputs, Measure, Task

if TYPE_CHECKING:
    from tlt_prune.export import ExportMaterial
    from tlt_prune.onnx import Predictor
    from tlt_prune.training import TrainingJob

DATA, NETWORK, COMPATIBILITY = "dataset_config", "segmentation_config", "compatibility"


@register
class Segmentation(Task):
    """TLT's UNet: pictures and masks in `dataset_config`, loss and output in `segmentation_config`, `compatibility`, and the
    sections of classification."""

    name = "segmentation"
    sections = (DATA, NETWORK, COMPATIBILITY)
    measure = Measure("val_miou", "Mean IoU", "mIoU")
    score_files = ("per_class.csv", "confusion_matrix.csv", "confusion_matrix.png", "evaluation.json")

    @classmethod
    def sections_of_file(cls, path: pathlib.Path) -> Mapping[str, Any] | None:
        from tlt_prune.tasks.segmentation.toolkit import read_unet_spec

        return read_unet_spec(path)

    @property
    def has_data(self) -> bool:
        return bool(self.optional_section(DATA).get("train_images_path"))

    def data_inputs(self) -> dict[str, str]:
        found = {}
        for key, value in self.optional_section(DATA).items():
            if key.endswith("_path"):
                listed = list(value) if isinstance(value, (list, tuple)) else [value]
                found.update({f"{DATA}.{key}{f'[{i}]' if i else ''}": x for i, x in enumerate(listed) if isinstance(x, str)})
        return found

    def training(self, folder: pathlib.Path) -> TrainingJob:
        from tlt_prune.tasks.segmentation.training import training_job

        return training_job(self, folder)

    def evaluate(self, path: str, folder: pathlib.Path) -> None:
        from tlt_prune.tasks.segmentation.scoring import evaluate

        evaluate(self, path, folder)

    def infer(self, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
        from tlt_prune.tasks.segmentation.inference import infer

        # Pictures are tinted always: that is the result.
        infer(self, path, folder, inputs)

    def examples(self, predictor: Predictor, *, required: bool) -> Examples | None:
        if not has_examples(self, required=required):
            return None
        from tlt_prune.tasks.segmentation.training import examples

        return examples(self, predictor)

    def export_material(self, predictor: Predictor) -> ExportMaterial:
        from tlt_prune.tasks.segmentation.export import SegmentationMaterial

        return SegmentationMaterial(self, predictor)
