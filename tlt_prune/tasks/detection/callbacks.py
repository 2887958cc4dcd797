"""Validation of a detector while it trains: average precision, and pictures for TensorBoard."""

from __future__ import annotations

import pathlib

import keras
import numpy as np

from tlt_prune.detection import Evaluation, annotated, boxes_of, dataset, outputs_of
from tlt_prune.io import say
from tlt_prune.onnx import keras_runner, spread
from tlt_prune.tasks.detection.job import DetectionJob
from tlt_prune.training.callbacks import write_pictures


def validated(
    model: keras.Model, job: DetectionJob, split: dataset.BoxSplit, output: tuple[int, int], channels_first: bool
) -> Evaluation:
    """Average precision of a detector whose output has `output` (columns, rows)."""
    return job.evaluated(outputs_of(spread(keras_runner(model)), channels_first), split, output)


class Validation(keras.callbacks.Callback):
    """Average precision on the held-out pictures, where the spec wants it, and at the end; `shown` draws some of them."""

    def __init__(
        self,
        job: DetectionJob,
        split: dataset.BoxSplit,
        output: tuple[int, int],
        channels_first: bool,
        shown: DrawnDetections | None,
    ) -> None:
        super().__init__()
        self._job, self._split, self._output, self._first = job, split, output, channels_first
        self._shown = shown

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        config, done = self._job.message.evaluation_config, epoch + 1
        first, period = config.first_validation_epoch, config.validation_period_during_training
        last = done == self._job.message.training_config.num_epochs
        if last or (done >= first and (done - first) % period == 0):
            found = validated(self.model, self._job, self._split, self._output, self._first)
            logs["val_map"] = found.mean_average_precision
            if found.explained():
                say(f"Mean average precision 0 after epoch {done}: {found.explained()}")
            if self._shown is not None:
                self._shown.write(found, done)


class DrawnDetections:
    """Held-out pictures with the boxes that are found and, in white, those that are there: for TensorBoard."""

    def __init__(self, job: DetectionJob, folder: pathlib.Path, split: dataset.BoxSplit) -> None:
        config = job.message.training_config
        wanted = config.visualizer.num_images or 3
        switched_off = config.HasField("visualizer") and not config.visualizer.enabled
        self._split, self._folder = split.part(split.names[: 0 if switched_off else wanted]), folder / "tensorboard"

    def write(self, found: Evaluation, epoch: int) -> None:
        if not len(self._split):
            return
        classes = self._split.classes
        sheets = []
        for i, detections in enumerate(found.detections[: len(self._split)]):
            there = [(None, box, None) for box in self._split.boxes[i][self._split.is_object[i]]]
            sheets.append(np.asarray(annotated(self._split.pictures[i], [*there, *boxes_of(detections)], classes)))
        write_pictures(self._folder, "detections", np.stack(sheets), epoch)
