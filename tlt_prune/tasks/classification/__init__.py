"""Classification: one class per picture."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tlt_prune.io import files
from tlt_prune.tasks.registry import register
from tlt_prune.tasks.steps.data import has_examples
from tlt_prune.tasks.task import Examples, Inputs, Task, TwinTraining

if TYPE_CHECKING:
    from tlt_prune.export import ExportMaterial
    from tlt_prune.onnx import Predictor
    from tlt_prune.training import TrainingJob, TrainResult


@register
class Classification(Task):
    """TLT's image classification: the sections `dataset`, `model` and `train` of a spec."""

    name = "classification"
    score_files = ("scores.csv", "per_class.csv", "confusion_matrix.csv", "confusion_matrix.png", "evaluation.json")

    @property
    def has_data(self) -> bool:
        return "train_dataset_path" in self.spec.dataset.model_fields_set

    def data_inputs(self) -> dict[str, str]:
        return {f"dataset.{key}": getattr(self.spec.dataset, key) for key in ("train_dataset_path", "val_dataset_path")}

    def training(self, folder: pathlib.Path) -> TrainingJob:
        from tlt_prune.tasks.classification.training import training_job

        return training_job(self.spec, folder)

    def finish_training(self, result: TrainResult, folder: pathlib.Path) -> None:
        from tlt_prune.io import model_info
        from tlt_prune.tasks.classification.class_names import classmap

        info = model_info.read_info(result.path)
        if info is not None:
            files.write_text(folder / "classmap.json", classmap(info.classes))

    def evaluate(self, path: str, folder: pathlib.Path) -> None:
        from tlt_prune.tasks.classification.scoring import evaluate

        evaluate(self.spec, path, folder)

    def infer(self, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
        from tlt_prune.tasks.classification.inference import infer

        infer(self.spec, path, folder, inputs, draw=draw)

    def examples(self, predictor: Predictor, *, required: bool) -> Examples | None:
        if not has_examples(self, required=required):
            return None
        from tlt_prune.tasks.classification.training import examples

        return examples(self, predictor)

    def convert(self, output: pathlib.Path) -> list[str]:
        from tlt_prune.tasks.classification.converting import write_shards

        return write_shards(self.spec, output)

    def twin_training(self, predictor: Predictor, epochs: int, key: str) -> TwinTraining:
        from tlt_prune.tasks.classification.training import twin_training

        return twin_training(self, predictor, epochs, key)

    def export_material(self, predictor: Predictor) -> ExportMaterial:
        from tlt_prune.tasks.classification.export import ClassifierMaterial

        return ClassifierMaterial(self, predictor)
