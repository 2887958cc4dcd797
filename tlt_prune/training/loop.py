"""The training loop: Keras' `fit` with a learning rate for each step, checkpoints, logs, and resumption.

An epoch is the unit of resumption. Data order, augmentation and learning rate follow from the epoch and
step numbers, and a checkpoint holds the optimizer and the state of random numbers, so a training that was killed and
started again ends where an uninterrupted one does.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import pandas as pd

from tlt_prune.config import Train
from tlt_prune.io import checksums, files
from tlt_prune.training.callbacks import Best, Finite, History, LearningRateSchedule, Line, Save, TensorBoard, best_epoch
from tlt_prune.training.checkpoints import Checkpoint, Checkpoints
from tlt_prune.training.distillation import with_teacher
from tlt_prune.training.job import TrainingJob, TrainResult
from tlt_prune.training.narrow_shortcuts import subsampled_first
from tlt_prune.training.objective import optimizer
from tlt_prune.training.regularizers import set_regularizers
from tlt_prune.training.saving import save_result


def train(job: TrainingJob, folder: pathlib.Path, *, restart: bool = False, say: Callable[[str], None] = print) -> TrainResult:
    """Trains, or goes on where a killed run of the same settings stopped; a finished training is not repeated.

    Args:
        job: the model, the data and the objective.
        folder: receives model.keras, history.csv, checkpoints/ and tensorboard/, and best.keras where `keep_best` is set.
        restart: starts afresh, even over the checkpoints of another training.
        say: receives the lines about resumption.

    Raises:
        FolderInUseError: another process trains into `folder`.
        TrainingError: the folder holds another training's checkpoints, or the loss is not finite.
        OSError: the folder cannot be written.
    """
    with files.locked(folder, "training"):
        checkpoints = Checkpoints(folder / "checkpoints", {"train": _deciding(job.config), **job.identity})
        for place in (folder, folder / "checkpoints"):
            files.remove_leftovers(place)
        checkpoint = checkpoints.to_resume(restart=restart)
        model = _first_model(job, checkpoints, checkpoint, folder, say)
        rows = [] if checkpoint is None else [dict(row) for row in checkpoint.history]
        history = History(folder / "history.csv", rows)
        if checkpoint is None or not checkpoint.finished:
            _run(job, model, folder, checkpoints, checkpoint, history, say)
        return _result(job, model, folder, history, checkpoint, say)


def _first_model(
    job: TrainingJob, checkpoints: Checkpoints, checkpoint: Checkpoint | None, folder: pathlib.Path, say: Callable[[str], None]
) -> keras.Model:
    """The model of the last checkpoint, or a new one."""
    if checkpoint is None:
        model = job.make_model()
        removed = checkpoints.clear()
        if removed:
            say(f"Starting afresh: removed {removed} checkpoint(s) in {folder / 'checkpoints'}.")
        return model
    model = checkpoints.load(checkpoint)
    if checkpoint.finished:
        say(f"This training is finished: all {checkpoint.epoch} epochs are done. Give --restart to repeat it.")
    else:
        say(f"Going on after epoch {checkpoint.epoch}, from the last checkpoint.")
    return model


def _result(
    job: TrainingJob,
    model: keras.Model,
    folder: pathlib.Path,
    history: History,
    checkpoint: Checkpoint | None,
    say: Callable[[str], None],
) -> TrainResult:
    """Writes the model after the last epoch."""
    save_result(model, folder / "model.keras", job.config, job.info)
    best = best_epoch(history.rows, job.objective.measure) if job.config.keep_best else 0
    if best and not (folder / "best.keras").is_file():
        # The epochs before were trained without keep_best, or the file was removed.
        say(f"The model of epoch {best}, the best one, was not kept.")
        best = 0
    first_epoch = checkpoint.epoch if checkpoint is not None else 0
    return TrainResult(
        model,
        folder / "model.keras",
        folder / "best.keras" if best else None,
        best,
        max(len(history.rows), first_epoch),
        first_epoch,
        pd.DataFrame(history.rows),
        job.config.qat,
    )


def _run(
    job: TrainingJob,
    model: keras.Model,
    folder: pathlib.Path,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    history: History,
    say: Callable[[str], None],
) -> None:
    """The epochs after the checkpoint."""
    config, objective = job.config, job.objective
    first_epoch = checkpoint.epoch if checkpoint is not None else 0
    set_regularizers(model, config.reg_config)
    batches, steps = job.make_batches(first_epoch)
    if checkpoint is None:
        model.compile(optimizer=optimizer(config.optim_config), **objective.compile_arguments())
    if job.teacher is not None:
        batches = with_teacher(batches, job.teacher, model, objective.channel_axis)
    callbacks: list[keras.callbacks.Callback] = [
        LearningRateSchedule(config, steps, objective),
        Finite(config, steps),
        *objective.callbacks(history.rows),
        history,
        *([] if sys.stdout.isatty() else [Line(config, objective, say)]),
        *([Best(folder / "best.keras", history, job)] if config.keep_best else []),
        Save(checkpoints, history, config, objective),
    ]
    if config.tensorboard:
        callbacks.append(TensorBoard(folder / "tensorboard"))
    with subsampled_first(model):
        model.fit(
            batches,
            initial_epoch=first_epoch,
            epochs=config.num_epochs,
            steps_per_epoch=steps,
            validation_data=job.validation,
            callbacks=callbacks,
            # A bar is for a person at a terminal; a log gets a line for each epoch, from `Line`.
            verbose=1 if sys.stdout.isatty() else 0,
            shuffle=False,
        )


def _deciding(config: Train) -> dict[str, Any]:
    """Everything in the section that decides what a training computes, and the contents of the model it starts from."""
    data = config.model_dump(exclude={"tensorboard", "checkpoint_interval", "keep_best", "pretrained_model_path"})
    data["distill"].pop("teacher")
    for name, path in {"pretrained_model": config.pretrained_model_path, "teacher": config.distill.teacher}.items():
        if path and pathlib.Path(path).is_file():
            data[name] = checksums.of_model_file(pathlib.Path(path))
    return data
