"""Scores of a segmentation on held-out pictures, and pictures of it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune import training
from tlt_prune.config import Spec
from tlt_prune.data import MaskLayout, MaskSplit, classes_said, mask_evaluation_pipeline, preprocess
from tlt_prune.io import files, save_figure, say
from tlt_prune.onnx import latency_ms, load_predictor
from tlt_prune.tasks.classification.pictures import agreed_format
from tlt_prune.tasks.segmentation.data import classes_in, layout_of_predictor, load_part
from tlt_prune.tasks.segmentation.drawing import tinted
from tlt_prune.tasks.steps.data import refuse_dataset_path
from tlt_prune.tasks.steps.figures import draw_confusion
from tlt_prune.tasks.steps.reports import cost_line, model_facts
from tlt_prune.tasks.task import Task
from tlt_prune.training.callbacks import write_pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

Predict = Callable[[Any], Any]


def evaluate(task: Task, path: str, folder: pathlib.Path) -> None:
    """Writes precision, recall, F1 and IoU of each class, their means, and the confusion matrix over pixels."""
    refuse_dataset_path(task.spec, "dataset_config.val_images_path and val_masks_path")
    predictor = load_predictor(path)
    spec, form, first = agreed_format(task.spec, predictor)
    names = predictor.info.classes if predictor.info is not None else classes_in(task).names
    layout = layout_of_predictor(predictor, len(names), form, first=first)
    split = load_part(task, "val", form, layout, names)
    say(f"Scoring {path} on {split.counted} of {len(names)} classes.")
    one = np.asarray(preprocess(split.example(0)[0][None], spec.dataset, first, form.depth))
    batches = mask_evaluation_pipeline(split, spec.dataset, layout, spec.evaluate.batch_size).batches
    scores = training.scores_of_pixels(confusion_of(predictor, batches, layout, len(names)), names)
    report = {**model_facts(predictor, path), **scores.means, "pictures": len(split), "latency_ms": latency_ms(predictor, one)}
    scores.save(folder)
    save_figure(draw_confusion(scores.confusion), folder / "confusion_matrix.png")
    files.write_json(folder / "evaluation.json", report)
    say(scores.per_class.round(4).to_string())
    means = scores.means
    say(
        f"\nmean IoU {100 * means['mean_iou']:.2f} %   weighted IoU {100 * means['weighted_iou']:.2f} %   "
        f"pixels {100 * means['pixel_accuracy']:.2f} %   {cost_line(report)}"
    )


def confusion_of(predict: Predict, batches: Iterable[Any], layout: MaskLayout, classes: int) -> NDArray[np.int64]:
    """Pixels by true class (rows) and predicted class (columns)."""
    total = np.zeros((classes, classes), np.int64)
    for pictures, targets in batches:
        said = classes_said(np.asarray(predict(np.asarray(pictures))), layout)
        total += training.pixel_confusion(_true(np.asarray(targets), layout), said, classes)
    return total


def _true(targets: NDArray[Any], layout: MaskLayout) -> NDArray[np.int64]:
    """Classes of targets; -1 where there is none."""
    targets = np.moveaxis(targets, 1, -1) if layout.outputs_first else targets
    if layout.one_channel:
        return targets[..., 0].astype(np.int64)
    found: NDArray[np.int64] = np.where(targets.any(axis=-1), targets.argmax(axis=-1), -1)
    return found


class DrawnMasks:
    """Some held-out pictures with their masks, true and predicted: for TensorBoard."""

    def __init__(self, folder: pathlib.Path, split: MaskSplit, spec: Spec, layout: MaskLayout, count: int = 3) -> None:
        self._folder, self._split = folder / "tensorboard", split.part(range(min(count, len(split))))
        self._spec, self._layout = spec, layout

    def write(self, predict: Predict, epoch: int) -> None:
        """Picture, true mask and predicted mask, side by side."""
        sheets = []
        for i in range(len(self._split)):
            picture, mask = self._split.example(i)
            x = np.asarray(preprocess(picture[None], self._spec.dataset, self._layout.channels_first, self._split.form.depth))
            said = classes_said(np.asarray(predict(x)), self._layout)[0]
            top, left = ((a - b) // 2 for a, b in zip(mask.shape, said.shape, strict=True))
            part = (slice(top, top + said.shape[0]), slice(left, left + said.shape[1]))
            sheets.append(np.concatenate([tinted(picture[part], x) for x in (mask[part], said)], axis=1))
        write_pictures(self._folder, "masks", np.stack(sheets), epoch)
