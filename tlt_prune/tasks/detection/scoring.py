"""Scores of a detector on held-out pictures."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from tlt_prune.detection import Outputs, as_input, coco_scores, experiment, output_layout, outputs_of
from tlt_prune.errors import ExportError, MissingPackageError
from tlt_prune.io import files, say
from tlt_prune.onnx import Predictor, latency_ms, load_predictor
from tlt_prune.tasks.detection.job import DetectionJob
from tlt_prune.tasks.steps.data import refuse_dataset_path
from tlt_prune.tasks.steps.reports import cost_line, model_facts


def opened(job: DetectionJob, predictor: Predictor) -> tuple[Outputs, tuple[int, int], Any]:
    """A model file as evaluation takes it, whatever its layouts.

    Returns:
        Pictures `(n, height, width, channels)` -> (output_bbox, output_cov), channels first; (columns, rows) of these; and one
        picture as the file takes it.

    Raises:
        ExportError: it is no detector for pictures of the spec's size and classes.
    """
    (width, height), count = job.size, len(experiment.class_names(job.message))
    if predictor.picture_size(job.channels, (height, width)) != (height, width, job.channels):
        raise ExportError(
            f"{predictor.path}: expected a model for pictures of {width} x {height} with {job.channels} channels, as "
            f"augmentation_config.preprocessing has them. Its input is {predictor.input_shape}."
        )
    first = predictor.channels_first(job.channels)
    one = as_input(np.zeros((1, height, width, job.channels), np.float32), first)
    shapes = [x.shape for x in predictor.run(one)]
    layout = output_layout(shapes)
    if layout is None or shapes[1][1 if layout[2] else 3] != count:
        raise ExportError(
            f"{predictor.path}: expected a detector of {count} classes, with outputs of {4 * count} and {count} channels. Its "
            f"outputs are {shapes}."
        )
    columns, rows, outputs_first = layout
    return outputs_of(predictor.answers, first, outputs_first), (columns, rows), one


def evaluate(job: DetectionJob, path: str, folder: pathlib.Path) -> None:
    """Scores a detector on the held-out pictures, and writes its tables and curves."""
    refuse_dataset_path(job.spec, "dataset_config.validation_data_source")
    predictor = load_predictor(path)
    outputs, output, one = opened(job, predictor)
    _, validation = job.splits()
    say(f"Scoring {path} on {len(validation)} pictures with {int(validation.is_object.sum())} objects.")
    found = job.evaluated(outputs, validation, output)
    frame = found.to_frame()
    report = {
        **model_facts(predictor, path),
        "mean_average_precision": found.mean_average_precision,
        "mode": found.mode,
        "pictures": len(validation),
        "latency_ms": latency_ms(predictor, one),
    }
    try:
        report["coco"], by_class = coco_scores(validation, found.detections)
        frame = frame.join(by_class.add_prefix("COCO "))
    except MissingPackageError as error:
        say(f"{error} Without: the toolkit's average precision alone.")
    files.write_text(folder / "per_class.csv", frame.to_csv())
    files.write_json(folder / "evaluation.json", report)
    found.plot(folder / "precision_recall.png")
    say(frame.round(4).to_string())
    say(f"\nmean average precision ({found.mode}) {100 * found.mean_average_precision:.2f} %   {cost_line(report)}")
    if found.explained():
        say(found.explained())
    if "coco" in report:
        said = {name: report["coco"][name] for name in ("AP", "AP50", "AP75")}
        # Without an object there is nothing to be found.
        say("   ".join(f"COCO {name} {'-' if x is None else f'{100 * x:.2f} %'}" for name, x in said.items()))
