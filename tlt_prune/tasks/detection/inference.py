"""Objects detected in pictures: label files and annotated pictures."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from tlt_prune.data import by_name, open_picture, picture_files
from tlt_prune.detection import annotated, boxes_of, fitted, held_out_files, label_line, to_picture
from tlt_prune.io import files, places, say
from tlt_prune.onnx import load_predictor
from tlt_prune.tasks.detection.job import DetectionJob
from tlt_prune.tasks.detection.scoring import opened
from tlt_prune.tasks.steps.data import refuse_classmap
from tlt_prune.tasks.task import Inputs

# Of each picture: folder -> suffix.
_RESULTS = {"labels": ".txt", "images": ".png"}


def infer(job: DetectionJob, path: str, folder: pathlib.Path, inputs: Inputs) -> None:
    """Writes a label file in KITTI's format, with confidences, and an annotated picture for each picture."""
    refuse_classmap(job.spec)
    named = _pictures(job)
    results = [folder / f"{kind}/{name}{suffix}" for kind, suffix in _RESULTS.items() for name in named]
    places.check(inputs, [places.Output("The results (-o)", x) for x in results])
    with files.claimed([files.output_folder(folder) / "labels"], "detecting objects into"), files.together():
        _detect(job, path, folder, named)
    say(f"Wrote the folders {folder / 'labels'} and {folder / 'images'}")


def _pictures(job: DetectionJob) -> dict[str, pathlib.Path]:
    """Name -> file of the pictures to detect objects in."""
    source = job.spec.inference.image_dir
    if source:
        root = pathlib.Path(source)
        return by_name(((x.relative_to(root).as_posix() if root.is_dir() else x.name, x) for x in picture_files(source)), source)
    return held_out_files(job.message, tao=job.tao)


def _detect(job: DetectionJob, path: str, folder: pathlib.Path, named: Mapping[str, pathlib.Path]) -> None:
    """Detects objects in pictures: a label file in KITTI's format with confidences and an annotated picture for each."""
    outputs, output, _ = opened(job, load_predictor(path))
    postprocessing = job.postprocessing(*output)
    total = 0
    size, channels = job.size, job.channels
    items = list(named.items())
    for start in range(0, len(items), job.spec.inference.batch_size):
        some = items[start : start + job.spec.inference.batch_size]
        opened_ones = [open_picture(path, 3, oriented=job.oriented) for _, path in some]
        read_ones = [fitted(x.convert("RGB" if channels == 3 else "L"), size, channels, "smooth") for x in opened_ones]
        bbox, cov = outputs(np.stack([picture for picture, _ in read_ones]).astype(np.float32) / 255)
        for (name, _), picture, (_, factors), found in zip(some, opened_ones, read_ones, postprocessing(bbox, cov), strict=True):
            boxes = [
                (label, to_picture(box, postprocessing.grid, factors).tolist(), confidence)
                for label, box, confidence in boxes_of(found)
            ]
            total += len(boxes)
            files.write_text(folder / f"labels/{name}.txt", "".join(label_line(*x) for x in boxes))
            with files.whole_file(folder / f"images/{name}.png") as partial:
                annotated(np.asarray(picture), boxes, tuple(found)).save(partial)
    say(f"Found {total} objects in {len(named)} pictures.")
