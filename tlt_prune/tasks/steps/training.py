"""A training as a spec describes it: what `tlt-train` does, and `tlt-prune` between the steps of a schedule."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tlt_prune.io import save_figure, say, workers
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    import keras

    from tlt_prune.training import TrainResult


def run_training(task: Task, folder: pathlib.Path, *, restart: bool) -> TrainResult:
    """Trains into `folder`, or goes on with what is there.

    Raises:
        TltPruneError: something in the spec, the model or the data does not fit.
    """
    from tlt_prune import training
    from tlt_prune.tasks.steps.figures import draw_training

    with workers.scope():
        job = task.training(folder)
    result = training.train(job, folder, restart=restart, say=say)
    task.finish_training(result, folder)
    if len(result.history):
        save_figure(draw_training(result.history, task.measure), folder / "history.png")
    if workers.is_chief() and (folder / "tensorboard").is_dir():
        _log_costs(result.model, folder / "tensorboard")
    return result


def _log_costs(model: keras.Model, folder: pathlib.Path) -> None:
    """Writes parameters and multiply-accumulates for TensorBoard, to compare trainings by."""
    import tensorflow as tf

    from tlt_prune.tasks.steps.reports import macs_of

    writer = tf.summary.create_file_writer(str(folder), filename_suffix=".costs")
    macs = macs_of(model)
    with writer.as_default(step=0):
        tf.summary.scalar("parameters", model.count_params())
        if macs is not None:
            tf.summary.scalar("MACs", macs)
    writer.close()
