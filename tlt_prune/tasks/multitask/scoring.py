"""Scores of a multitask classifier on held-out pictures, task by task."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tlt_prune import training
from tlt_prune.config import shown
from tlt_prune.data import load_table
from tlt_prune.errors import DataError
from tlt_prune.io import files, new_figure, save_figure, say
from tlt_prune.onnx import latency_ms, load_predictor
from tlt_prune.tasks.classification.pictures import agreed_format, as_inputs
from tlt_prune.tasks.multitask.data import tables_of, tasks_of
from tlt_prune.tasks.steps.figures import fill_confusion
from tlt_prune.tasks.steps.reports import cost_line, model_facts
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tlt_prune.training import ClassificationScores


def evaluate(task: Task, path: str, folder: pathlib.Path) -> None:
    """Writes accuracy, loss, precision, recall and the confusion matrix of each task."""
    predictor = load_predictor(path)
    spec, form, first = agreed_format(task.spec, predictor)
    tables, tasks = tables_of(task), tasks_of(predictor)
    split = load_table(spec.evaluate.dataset_path or tables.val_csv_path, tables.image_directory_path, form, tasks)
    say(f"Scoring {path} on {len(split)} pictures and {len(tasks)} tasks.")
    outputs: list[list[Any]] = [[] for _ in tasks]
    one: Any = None
    for pictures, _ in as_inputs(spec, split, form, channels_first=first):
        one = np.asarray(pictures)[:1] if one is None else one
        for kept, answer in zip(outputs, predictor.answers(np.asarray(pictures)), strict=True):
            kept.append(answer)
    scores = {}
    for i, (name, classes) in enumerate(tasks.items()):
        known = split.labels[:, i] >= 0
        if not known.any():
            say(f"No picture has a label of the task {shown(name)}: it is not scored.")
            continue
        answers, labels = np.concatenate(outputs[i])[known], np.eye(len(classes))[split.labels[known, i]]
        scores[name] = training.score(lambda x: x, [(answers, labels)], classes, spec.evaluate.top_k)
    if not scores:
        raise DataError(f"No picture of {tables.val_csv_path} has a label of any task. Expected some to score.")
    mean = float(np.mean([x.accuracy for x in scores.values()]))
    report = {
        **model_facts(predictor, path),
        "accuracy": mean,
        "tasks": {name: {"accuracy": x.accuracy, "loss": x.loss, "labels": len(x.predictions)} for name, x in scores.items()},
        "pictures": len(split),
        "latency_ms": latency_ms(predictor, one),
    }
    _save(scores, folder)
    files.write_json(folder / "evaluation.json", report)
    for name, x in scores.items():
        say(f"\n{name}: accuracy {100 * x.accuracy:.2f} %   loss {x.loss:.4f}   {len(x.predictions)} labels")
        say(x.per_class.round(4).to_string())
    say(f"\nmean accuracy {100 * mean:.2f} % over {len(scores)} tasks   {cost_line(report)}")


def _save(scores: Mapping[str, ClassificationScores], folder: pathlib.Path) -> None:
    rows = [{"task": name, "accuracy": x.accuracy, f"top_{x.top_k}_accuracy": x.top_k_accuracy, "loss": x.loss,
             "labels": len(x.predictions)} for name, x in scores.items()]  # fmt: skip
    files.write_text(folder / "scores.csv", pd.DataFrame(rows).to_csv(index=False))
    per_class = pd.concat({name: x.per_class for name, x in scores.items()}, names=["task", "class"])
    files.write_text(folder / "per_class.csv", per_class.to_csv())
    cells = {name: x.confusion.reset_index().melt("true", None, "predicted", "pictures") for name, x in scores.items()}
    confusion = pd.concat(cells, names=["task"]).reset_index("task")
    files.write_text(folder / "confusion.csv", confusion.to_csv(index=False))
    save_figure(_drawn(scores), folder / "confusion_matrix.png")


def _drawn(scores: Mapping[str, ClassificationScores]) -> Figure:
    """A confusion matrix for each task, side by side."""
    sides = [min(max(3.0, 0.42 * len(x.confusion)), 24) for x in scores.values()]
    figure, axis = new_figure("Drawing confusion matrices", (sum(sides) + 1, max(sides) + 0.5))
    axis.remove()
    axes = figure.subplots(1, len(scores), width_ratios=sides, squeeze=False)[0]
    for axis, (name, x) in zip(axes, scores.items(), strict=True):
        fill_confusion(axis, x.confusion)
        axis.set_title(name, fontsize=9, parse_math=False)
    figure.tight_layout()
    return figure
