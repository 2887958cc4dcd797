"""KITTI's labels into the toolkit's records."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tlt_prune.detection import convert_kitti, messages
from tlt_prune.errors import SpecError

if TYPE_CHECKING:
    from tlt_prune.tasks.task import Task


def write_records(task: Task, output: pathlib.Path) -> list[str]:
    """See `Task.convert`."""
    experiment = task.spec.experiment
    sections = experiment.get("dataset_export_config")
    if not isinstance(sections, list) or len(sections) != 1:
        raise SpecError(
            f"{task.source}: expected dataset_export_config once, with kitti_config: where pictures and labels are and how they "
            "are divided; or the toolkit's own converter spec (-d)."
        )
    config = messages.from_dict(sections[0], f"{task.source}: dataset_export_config", "dataset_convert")
    tao = experiment.get("compatibility") == "tao"
    seed = int(experiment.get("random_seed") or 0)
    found = convert_kitti(config, output, seed=seed, validation_fold=task.spec.convert.validation_fold, tao=tao)
    folds = ", ".join(f"{count:,} in fold {i}" for i, count in enumerate(found.pictures))
    objects = ", ".join(f"{count:,} {name}" for name, count in sorted(found.objects.items()))
    kept = f" {found.kept} were there already and are whole." if found.kept else ""
    lines = [f"Wrote {found.files} record files, {output}-fold-...: pictures: {folds}; objects: {objects or 'none'}.{kept}"]
    if found.dropped:
        lines.append(f"Left out {found.dropped:,} boxes that do not reach from one pixel into a later one.")
    root = config.kitti_config.root_directory_path or "."
    return [*lines, f"Train on them with tfrecords_path: {output}-fold-*, image_directory_path: {root}, validation_fold: 0."]
