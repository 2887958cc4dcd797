"""Detection: boxes around objects, by DetectNet_v2."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from tlt_prune.tasks.registry import register
from tlt_prune.tasks.task import Examples, Inputs, Measure, Task

if TYPE_CHECKING:
    from tlt_prune.export import ExportMaterial
    from tlt_prune.onnx import Predictor
    from tlt_prune.tasks.detection.job import DetectionJob
    from tlt_prune.training import TrainingJob


@register
class DetectionTask(Task):
    """TLT's DetectNet_v2: its own sections of a spec, as YAML or as protobuf text."""

    name = "detection"
    sections = (
        "random_seed",
        "dataset_config",
        "augmentation_config",
        "postprocessing_config",
        "model_config",
        "evaluation_config",
        "cost_function_config",
        "training_config",
        "bbox_rasterizer_config",
        "loss_mask_label_filter",
        "dataset_export_config",
        "compatibility",
    )
    takes_any_file = True
    pretrained_key = "model_config.pretrained_model_file"
    measure = Measure("val_map", "Mean average precision", "mAP")
    score_files = ("per_class.csv", "evaluation.json", "precision_recall.png")

    @classmethod
    def sections_of_file(cls, path: pathlib.Path) -> Mapping[str, Any] | None:
        from tlt_prune.detection import messages

        if messages.is_of_converter(path):
            return {"dataset_export_config": [messages.to_dict(messages.from_file(path, "dataset_convert"))]}
        return messages.to_dict(messages.from_file(path))

    def explained(self) -> str:
        from tlt_prune.config import Train, explained
        from tlt_prune.detection.explained import explained_sections
        from tlt_prune.tasks.detection.job import OF_TRAIN

        unused = [f"train.{key}" for key in Train.model_fields if key not in OF_TRAIN]
        shared = explained(self.spec, without=("experiment", "dataset", "model", *unused))
        return f"{shared}{explained_sections(self.spec.experiment)}"

    @property
    def has_data(self) -> bool:
        return bool(self._section("dataset_config"))

    def data_inputs(self) -> dict[str, str]:
        named: dict[str, str] = {}
        exported = self.spec.experiment.get("dataset_export_config")
        for i, each in enumerate(exported if isinstance(exported, list) else []):
            kitti = each.get("kitti_config") if isinstance(each, dict) else None
            if isinstance(kitti, dict):
                root = pathlib.Path(str(kitti.get("root_directory_path", "")))
                for key in ("image_dir_name", "label_dir_name"):
                    named[f"dataset_export_config.{i}.kitti_config.{key}"] = str(root / str(kitti.get(key, "")))
        for key, value in self._section("dataset_config").items():
            for i, source in enumerate(value if isinstance(value, list) else [value]):
                for field, path in source.items() if isinstance(source, dict) else ():
                    if field.endswith("_path") and isinstance(path, str):
                        named[f"dataset_config.{key}.{i}.{field}"] = path
            if key.endswith("_path") and isinstance(value, str):
                named[f"dataset_config.{key}"] = value
        return named

    def start_inputs(self) -> dict[str, str]:
        start = self._section("model_config").get("pretrained_model_file")
        return {self.pretrained_key: str(start or ""), "train.distill.teacher": self.spec.train.distill.teacher}

    def starting_from(self, path: str, epochs: int) -> Self:
        changed = {
            "model_config": {**self._section("model_config"), "pretrained_model_file": path},
            "training_config": {**self._section("training_config"), "num_epochs": epochs},
        }
        return type(self)(self.spec.model_copy(update={"experiment": {**self.spec.experiment, **changed}}), self.source)

    def training(self, folder: pathlib.Path) -> TrainingJob:
        from tlt_prune.tasks.detection.training import training_job

        return training_job(self._job(), folder)

    def evaluate(self, path: str, folder: pathlib.Path) -> None:
        from tlt_prune.tasks.detection.scoring import evaluate

        evaluate(self._job(), path, folder)

    def infer(self, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
        from tlt_prune.tasks.detection.inference import infer

        # Pictures are annotated always: that is the result.
        infer(self._job(), path, folder, inputs)

    def examples(self, predictor: Predictor, *, required: bool) -> Examples | None:
        from tlt_prune.tasks.detection.job import examples

        return examples(self._job(), predictor)

    def convert(self, output: pathlib.Path) -> list[str]:
        from tlt_prune.tasks.detection.converting import write_records

        return write_records(self, output)

    def export_material(self, predictor: Predictor) -> ExportMaterial:
        from tlt_prune.tasks.detection.export import DetectorMaterial

        return DetectorMaterial(self, self._job(), predictor)

    def _job(self) -> DetectionJob:
        from tlt_prune.tasks.detection.job import read_job

        return read_job(self.spec, self.source)

    def _section(self, name: str) -> dict[str, Any]:
        """A section as it is written; empty where there is none, or something else in its place."""
        section = self.spec.experiment.get(name)
        return section if isinstance(section, dict) else {}
