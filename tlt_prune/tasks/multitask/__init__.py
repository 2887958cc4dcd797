"""Multitask classification: several classes per picture, one for each task."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlt_prune.io import files
from tlt_prune.tasks.registry import register
from tlt_prune.tasks.steps.data import has_examples
from tlt_prune.tasks.task import Examples, Inputs, Measure, Task

if TYPE_CHECKING:
    from tlt_prune.export import ExportMaterial
    from tlt_prune.onnx import Predictor
    from tlt_prune.training import TrainingJob, TrainResult

SECTION = "dataset_config"


@register
class MultitaskClassification(Task):
    """TLT's multitask classification: tables of pictures in `dataset_config`, and the sections of classification."""

    name = "multitask_classification"
    sections = (SECTION,)
    measure = Measure("val_accuracy", "Mean accuracy over the tasks", "mean accuracy")
    score_files = ("scores.csv", "per_class.csv", "confusion.csv", "confusion_matrix.png", "evaluation.json")

    @classmethod
    def sections_of_file(cls, path: pathlib.Path) -> Mapping[str, Any] | None:
        from tlt_prune.tasks.multitask.toolkit import read_multitask_spec

        return read_multitask_spec(path)

    @property
    def has_data(self) -> bool:
        return bool(self.optional_section(SECTION).get("train_csv_path"))

    def data_inputs(self) -> dict[str, str]:
        return {f"{SECTION}.{key}": value for key, value in self.optional_section(SECTION).items() if isinstance(value, str)}

    def training(self, folder: pathlib.Path) -> TrainingJob:
        from tlt_prune.tasks.multitask.training import training_job

        return training_job(self, folder)

    def finish_training(self, result: TrainResult, folder: pathlib.Path) -> None:
        from tlt_prune.io import model_info
        from tlt_prune.tasks.multitask.data import class_mapping

        info = model_info.read_info(result.path)
        if info is not None:
            files.write_json(folder / "class_mapping.json", class_mapping(info.tasks))

    def evaluate(self, path: str, folder: pathlib.Path) -> None:
        from tlt_prune.tasks.multitask.scoring import evaluate

        evaluate(self, path, folder)

    def infer(self, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
        from tlt_prune.tasks.multitask.inference import infer

        infer(self, path, folder, inputs, draw=draw)

    def examples(self, predictor: Predictor, *, required: bool) -> Examples | None:
        if not has_examples(self, required=required):
            return None
        from tlt_prune.tasks.multitask.training import examples

        return examples(self, predictor)

    def export_material(self, predictor: Predictor) -> ExportMaterial:
        from tlt_prune.tasks.multitask.export import MultitaskMaterial

        return MultitaskMaterial(self, predictor)
