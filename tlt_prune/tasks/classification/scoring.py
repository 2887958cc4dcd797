"""Scores of a classifier on held-out pictures."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from tlt_prune import data, training
from tlt_prune.config import Spec
from tlt_prune.io import files, model_info, save_figure, say
from tlt_prune.onnx import latency_ms, load_predictor
from tlt_prune.tasks.classification.pictures import agreed_format, as_inputs
from tlt_prune.tasks.steps.figures import draw_confusion
from tlt_prune.tasks.steps.reports import cost_line, model_facts


def evaluate(spec: Spec, path: str, folder: pathlib.Path) -> None:
    """Writes top-1 and top-k accuracy, loss, precision and recall per class, and the confusion matrix."""
    predictor = load_predictor(path)
    spec, form, first = agreed_format(spec, predictor)
    split = data.load_test_split(spec.dataset, form, spec.evaluate.dataset_path)
    say(f"Scoring {path} on {len(split)} pictures of {len(split.classes)} classes.")

    def batches_of(pictures: data.Split) -> Any:
        return as_inputs(spec, pictures, form, channels_first=first)

    one = np.concatenate([np.asarray(images) for images, _ in batches_of(split.head(1))])
    outputs = int(predictor(one).shape[-1])
    split = data.matched(split, model_info.classes_of(predictor.info, split.classes, outputs, path), "The dataset")
    missing = data.missing_classes(split)
    if missing:
        say(f"There are no pictures of {len(missing)} of the model's classes: {', '.join(missing[:5])}.")
    scores = training.score(predictor, batches_of(split), split.classes, spec.evaluate.top_k)
    report = {
        **model_facts(predictor, path),
        "accuracy": scores.accuracy,
        f"top_{scores.top_k}_accuracy": scores.top_k_accuracy,
        "loss": scores.loss,
        "pictures": len(split),
        "latency_ms": latency_ms(predictor, one),
    }
    scores.save(folder)
    save_figure(draw_confusion(scores.confusion), folder / "confusion_matrix.png")
    files.write_json(folder / "evaluation.json", report)
    say(scores.per_class.round(4).to_string())
    say(
        f"\naccuracy {100 * scores.accuracy:.2f} %   top-{scores.top_k} {100 * scores.top_k_accuracy:.2f} %   "
        f"loss {scores.loss:.4f}   {cost_line(report)}"
    )
