"""The training loop: Keras' `fit` with a learning rate for each step, checkpoints, logs, and resumption.

An epoch is the unit of resumption; a process that is terminated (SIGTERM) keeps the batches of its last one, too. Data order,
augmentation and learning rate follow from the epoch and step numbers, and a checkpoint holds the optimizer and the state of
random numbers, so a training that was killed and started again ends where an uninterrupted one does. Several replicas (see
`io.workers`) train by the same loop: every process goes through it, and the chief writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import pandas as pd

from tlt_prune.errors import ExportError, TrainingError, first_line
from tlt_prune.io import check_archive, checksums, files, interrupt, load_keras, workers
from tlt_prune.training.callbacks import (
    Best,
    Finite,
    History,
    LearningRateSchedule,
    Line,
    Resumed,
    Save,
    SaveAtTermination,
    Summary,
    TensorBoard,
    best_epoch,
)
from tlt_prune.training.checkpoints import Checkpoint, Checkpoints
from tlt_prune.training.distillation import beside, with_teacher
from tlt_prune.training.job import TrainingJob, TrainResult
from tlt_prune.training.narrow_shortcuts import subsampled_first
from tlt_prune.training.objective import optimizer
from tlt_prune.training.rate_test import STEPS, enough_batches, find_peak_rate
from tlt_prune.training.regularizers import set_regularizers
from tlt_prune.training.replicas import Averaged, Termination, cut, shared, synchronize
from tlt_prune.training.retrain_callbacks import data_arguments
from tlt_prune.training.saving import save_result
from tlt_prune.training.variables import make_variables

if TYPE_CHECKING:
    from tlt_prune.data import Pipeline


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
        checkpoints = Checkpoints(folder / "checkpoints", {"train": _deciding(job), **job.identity})
        with workers.first_the_chief():
            for place in (folder, folder / "checkpoints"):
                files.remove_leftovers(place)
            checkpoint = checkpoints.to_resume(restart=restart)
        # Copies of the data on several machines have times of their own.
        same = {key: value for key, value in job.identity.items() if key != "contents"}
        workers.agree("what is trained on what", json.dumps(same, default=str, sort_keys=True))
        found = None if checkpoint is None else (checkpoint.epoch, checkpoint.step)
        workers.agree(f"the checkpoints in {folder}", str(found))
        # Only what makes variables is in the scope: while a model is saved, Keras makes some that the chief alone would have.
        with workers.scope():
            model = _first_model(job, checkpoints, checkpoint, folder, say)
            if checkpoint is None:
                model.compile(optimizer=optimizer(job.config.optim_config), **job.objective.compile_arguments())
        rows = [] if checkpoint is None else [dict(row) for row in checkpoint.history]
        run = _Run(folder, checkpoints, checkpoint, History(folder / "history.csv", rows), say)
        if checkpoint is None or not checkpoint.finished:
            _go_on(job, model, run)
        workers.wait_for_all()
        result = _result(job, model, run)
        # What the chief has written is there for all.
        workers.wait_for_all()
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """What a training writes to, and goes on from."""

    folder: pathlib.Path
    checkpoints: Checkpoints
    checkpoint: Checkpoint | None
    history: History
    say: Callable[[str], None]

    @property
    def done(self) -> tuple[int, int]:
        """(epochs that the checkpoint has seen, batches of the next one)."""
        return (self.checkpoint.epoch, self.checkpoint.step) if self.checkpoint is not None else (0, 0)


def _first_model(
    job: TrainingJob, checkpoints: Checkpoints, checkpoint: Checkpoint | None, folder: pathlib.Path, say: Callable[[str], None]
) -> keras.Model:
    """The model of the last checkpoint, or a new one."""
    workers.went_on(checkpoint.replicas if checkpoint is not None else None)
    if checkpoint is None:
        model = job.make_model()
        removed = checkpoints.clear()
        if removed:
            say(f"Starting afresh: removed {removed} checkpoint(s) in {folder / 'checkpoints'}.")
        return model
    for line in checkpoint.damaged:
        say(f"{line} The checkpoint before it is taken.")
    model = checkpoints.load(checkpoint)
    if checkpoint.finished:
        say(f"This training is finished: all {checkpoint.epoch} epochs are done. Give --restart to repeat it.")
    else:
        now = workers.replicas()
        kept = f" Batches stay as they were with {checkpoint.replicas} replicas; now {now} share them." * (
            checkpoint.replicas != now
        )
        place = f"epoch {checkpoint.epoch}" + (f" and {checkpoint.step} batches of the next" if checkpoint.step else "")
        say(f"Going on after {place}, from the last checkpoint.{kept}")
    return model


def _result(job: TrainingJob, model: keras.Model, run: _Run) -> TrainResult:
    """Writes the model after the last epoch, or the best one of a retraining."""
    folder, history = run.folder, run.history
    best = best_epoch(history.rows, job.objective.measure) if job.config.keep_best else None
    if best is not None and not (folder / "best.keras").is_file():
        # The epochs before were trained without keep_best, or the file was removed.
        run.say(f"The model of epoch {best}, the best one, was not kept.")
        best = None
    if best is not None:
        _check_best(folder / "best.keras")
    first_epoch, _ = run.done
    epoch = epochs = max(len(history.trained), first_epoch)
    if job.pruned and best is not None and best != epoch:
        epoch = best
        with workers.scope():
            model = load_keras(folder / "best.keras")
    save_result(model, folder / "model.keras", job.config, job.info)
    return TrainResult(
        model,
        epoch,
        folder / "model.keras",
        folder / "best.keras" if best is not None else None,
        best,
        epochs,
        first_epoch,
        pd.DataFrame(history.rows),
        job.config.qat,
    )


def _check_best(path: pathlib.Path) -> None:
    """Raises TrainingError where the model of the best epoch is damaged."""
    try:
        check_archive(path)
    except ExportError as error:
        raise TrainingError(
            f"{first_line(error).partition('. Copy')[0]}. Delete it, to end with the model of the last epoch, or give --restart "
            "to start afresh."
        ) from error


def _go_on(job: TrainingJob, model: keras.Model, run: _Run) -> None:
    """The epochs after the checkpoint; what is left of one that it is in the middle of comes first."""
    (first, done), end = run.done, job.config.num_epochs
    set_regularizers(model, job.config.reg_config)
    model.stop_training = False
    parts = [(range(first, first + 1), done), (range(first + 1, end), 0)] if done else [(range(first, end), 0)]
    for epochs, skipped in parts:
        if epochs and not model.stop_training:
            _fit(job, model, run, epochs, skipped)


def _fit(job: TrainingJob, model: keras.Model, run: _Run, epochs: range, skipped: int) -> None:
    """Some epochs, without the first `skipped` batches."""
    folder, history, checkpoints = run.folder, run.history, run.checkpoints
    pipeline = job.make_batches(epochs.start)
    steps = pipeline.steps
    best = [Best(folder / "best.keras", history, job)] if job.config.keep_best else []
    with subsampled_first(model), _fed(job, model, pipeline.skip(skipped) if skipped else pipeline) as fed:
        make_variables(model, **data_arguments(fed.validation, job.config.batch_size_per_gpu))
        if run.checkpoint is None and job.pruned:
            _begin(job, model, fed, history, run.say)
            for callback in best:
                callback.keep(model, 0)
        job = _at_measured_rate(job, history)
        config, objective = job.config, job.objective
        is_terminated = interrupt.is_terminated if fed.termination is None else fed.termination.after_step
        callbacks: list[keras.callbacks.Callback] = [
            *([Resumed(run.checkpoint, checkpoints)] if run.checkpoint is not None and skipped else []),
            LearningRateSchedule(config, steps, objective),
            Finite(config, steps),
            *([Averaged(fed.termination)] if fed.termination is not None else []),
            *objective.callbacks(history.trained),
            Summary(objective),
            history,
            *([] if sys.stdout.isatty() else [Line(config, objective, run.say)]),
            *best,
            Save(checkpoints, history, config, objective),
            *([TensorBoard(folder / "tensorboard")] if config.tensorboard and workers.is_chief() else []),
            SaveAtTermination(checkpoints, history, skipped, is_terminated),
        ]
        with interrupt.graceful():
            model.fit(
                fed.training,
                initial_epoch=epochs.start,
                epochs=epochs.stop,
                steps_per_epoch=steps - skipped,
                validation_data=fed.validation,
                validation_steps=fed.validation_steps,
                callbacks=callbacks,
                # A bar is for a person at a terminal; a log gets a line for each epoch, from `Line`.
                verbose=1 if sys.stdout.isatty() and workers.is_chief() else 0,
                shuffle=False,
            )


@dataclasses.dataclass(frozen=True, eq=False)
class _Fed:
    """What `fit` takes.

    Attributes:
        batches: of the whole job, with what a teacher says, for one process.
        training, validation: the same, cut for replicas where there are several.
        validation_steps: of an evaluation; None where the data ends by itself.
        termination: how several replicas learn that a worker was terminated.
    """

    batches: Any
    training: Any
    validation: Any
    validation_steps: int | None = None
    termination: Termination | None = None


@contextlib.contextmanager
def _fed(job: TrainingJob, model: keras.Model, pipeline: Pipeline) -> Iterator[_Fed]:
    """Data for `fit`, with the teacher, on the replicas that there are."""
    batches = pipeline.batches
    if workers.replicas() == 1:
        taught = batches if job.teacher is None else with_teacher(batches, job.teacher, model, job.objective.channel_axis)
        yield _Fed(taught, taught, job.validation)
        return
    synchronize(model, job.config.bn_config.synchronized)
    said = None if job.teacher is None else beside(job.teacher, model, job.objective.channel_axis)
    steps = int(job.validation.cardinality())
    with shared(model, batches, said) as termination:
        mine = batches if pipeline.parts is None else pipeline.parts
        yield _Fed(batches, cut(mine), cut(job.validation), steps, termination)


# Column of history.csv, in the row of epoch 0.
_PEAK = "peak_learning_rate"


def _begin(job: TrainingJob, model: keras.Model, fed: _Fed, history: History, say: Callable[[str], None]) -> None:
    """Scores a pruned model and measures how fast it may learn, where the spec leaves that open."""
    objective = job.objective
    validation = data_arguments(fed.validation, job.config.batch_size_per_gpu)
    found = model.evaluate(**validation, steps=fed.validation_steps, verbose=0, return_dict=True)
    scores = {f"val_{name}": float(x) for name, x in found.items()}
    scores |= {name: float(x) for name, x in objective.scores(model).items()}
    scores |= objective.summary(scores)
    told = f"Before retraining: {objective.label} {100 * scores[objective.measure]:.2f} %" if objective.measure in scores else ""
    if objective.rate_for is not None:
        scores[_PEAK] = find_peak_rate(model, enough_batches(fed.batches)).peak
        told += f"; the learning rate rises to {scores[_PEAK]:.2g}, by a range test of {STEPS} batches"
    history.start(scores)
    if told:
        say(f"{told}.")


def _at_measured_rate(job: TrainingJob, history: History) -> TrainingJob:
    """The job with the rate that was measured when it began."""
    peak = history.rows[0].get(_PEAK, math.nan) if history.rows else math.nan
    if job.objective.rate_for is None or not math.isfinite(peak):
        return job
    rate = job.config.lr_config.model_copy(update={"learning_rate": peak})
    return dataclasses.replace(
        job,
        config=job.config.model_copy(update={"lr_config": rate}),
        objective=dataclasses.replace(job.objective, rate=job.objective.rate_for(peak)),
    )


def _deciding(job: TrainingJob) -> dict[str, Any]:
    """Everything in the section that decides what a training computes, and the contents of the model it starts from."""
    config = job.config
    data = config.model_dump(exclude={"tensorboard", "checkpoint_interval", "keep_best", "pretrained_model_path"})
    if not job.pruned:
        data["lr_config"]["learning_rate"] = config.lr_config.peak
    data["distill"].pop("teacher")
    for name, path in {"pretrained_model": config.pretrained_model_path, "teacher": config.distill.teacher}.items():
        if path and pathlib.Path(path).is_file():
            data[name] = checksums.of_model_file(pathlib.Path(path))
    return data
