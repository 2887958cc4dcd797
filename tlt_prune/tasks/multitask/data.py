"""The tables of pictures that a spec of multitask classification names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tlt_prune.config import Settings, checked
from tlt_prune.data import MultitaskSplit, PictureFormat, checked_size, load_table
from tlt_prune.errors import SpecError
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.multitask import SECTION
from tlt_prune.tasks.task import Task


class Tables(Settings):
    """The section `dataset_config`, by the toolkit's names.

    Attributes:
        train_csv_path: the training pictures: file names in the first column, and a column with classes for each task.
        val_csv_path: the same for held-out pictures.
        image_directory_path: the folder that the file names are in.
    """

    train_csv_path: str
    val_csv_path: str
    image_directory_path: str


def tables_of(task: Task) -> Tables:
    """The section `dataset_config`.

    Raises:
        SpecError: it is missing, or a key is.
    """
    section = task.required_section(SECTION, "train_csv_path, val_csv_path and image_directory_path")
    return checked(Tables, section, f"{task.source}: {SECTION}", SpecError)


def load_both(
    task: Task, form: PictureFormat, tasks: Mapping[str, tuple[str, ...]] | None
) -> tuple[MultitaskSplit, MultitaskSplit]:
    """Training and held-out pictures, with the classes of a trained model or, where `tasks` is None, of the training table."""
    tables = tables_of(task)
    train = checked_size(load_table(tables.train_csv_path, tables.image_directory_path, form, tasks))
    return train, load_table(tables.val_csv_path, tables.image_directory_path, form, train.tasks)


def tasks_of(predictor: Predictor) -> Mapping[str, tuple[str, ...]]:
    """Task -> classes of a model file, in the order of its outputs.

    Raises:
        SpecError: the file does not say.
    """
    tasks = predictor.info.tasks if predictor.info is not None else {}
    if not tasks:
        raise SpecError(
            f"{predictor.path} does not say which tasks its outputs are for. Expected a model that tlt-train wrote with "
            "`task: multitask_classification`, or one pruned or exported from it."
        )
    return tasks


def class_mapping(tasks: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The toolkit's class_mapping.json: tasks, and the name of each class by its index."""
    return {"tasks": list(tasks), "class_mapping": {task: dict(enumerate(names)) for task, names in tasks.items()}}
