"""The training loop: Keras' `fit` with a schedule a step, checkpoints, logs, and resumption.

An epoch is the unit of resumption. Data order, augmentation and learning rate follow from the epoch and
step numbers, and a checkpoint holds the optimizer and the state of random numbers, so a training that was killed and
started again ends where an uninterrupted one does.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import pandas as pd

from tlt_prune.config.specs import EarlyStop, OptimConfig, Train
from tlt_prune.io import files
from tlt_prune.io.model_info import ModelInfo
from tlt_prune.training.callbacks import Best, Finite, History, Line, Save, Schedule, TensorBoard, best_epoch
from tlt_prune.training.checkpoints import Checkpoint, Checkpoints
from tlt_prune.training.distillation import Distillation, LabelAccuracy, with_teacher
from tlt_prune.training.narrow_shortcuts import subsampled_first
from tlt_prune.training.regularizers import set_regularizers
from tlt_prune.training.saving import save_result
from tlt_prune.training.schedules import learning_rate


@dataclasses.dataclass(frozen=True, eq=False)
class TrainResult:
    """What a training left behind.

    Attributes:
        model: the model after the last epoch.
        path: its file.
        best: the file of the epoch that did best in validation, where `keep_best` asks for it.
        best_epoch: its number, from 1; 0 for none.
        epochs: epochs it has seen, those before a resumption included.
        resumed_from: epoch that was resumed from, 0 for a fresh start.
        history: a row an epoch: loss, accuracy, val_loss, val_accuracy, learning_rate.
    """

    model: keras.Model
    path: pathlib.Path
    best: pathlib.Path | None
    best_epoch: int
    epochs: int
    resumed_from: int
    history: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Task:
    """What a training is about.

    Attributes:
        objective: losses and metrics, for `compile`.
        rate: (step, steps in all) -> learning rate.
        measure: of the logs, what says which epoch was best: the higher, the better.
        stopped: (rows of epochs that are done) -> whether that is all, before the last epoch.
        callbacks: (rows of epochs that are done) -> what runs before an epoch's logs are written, and may add to them.
        channel_axis: of outputs, along which a teacher's stand beside the targets.
    """

    objective: Callable[[], dict[str, Any]]
    rate: Callable[[int, int], float]
    measure: str = "val_accuracy"
    stopped: Callable[[Sequence[Mapping[str, Any]]], bool] = lambda rows: False
    callbacks: Callable[[Sequence[Mapping[str, Any]]], Sequence[keras.callbacks.Callback]] = lambda rows: ()
    channel_axis: int = -1


def classification(config: Train) -> Task:
    """Cross entropy and accuracy, as a spec's `train` section has it."""

    def stopped(rows: Sequence[Mapping[str, Any]]) -> bool:
        return stopped_early([row["val_accuracy"] for row in rows if "val_accuracy" in row], config.early_stop)

    return Task(lambda: _objective(config), lambda step, total: learning_rate(config.lr_config, step, total), stopped=stopped)


def train(
    make_model: Callable[[], keras.Model],
    make_batches: Callable[[int], tuple[Any, int]],
    validation: Any,
    config: Train,
    folder: pathlib.Path,
    identity: Mapping[str, Any] | None = None,
    *,
    info: ModelInfo | None = None,
    teacher: keras.Model | None = None,
    restart: bool = False,
    say: Callable[[str], None] = print,
    task: Task | None = None,
) -> TrainResult:
    """Trains, or goes on where a killed run of the same settings stopped; a finished training is not repeated.

    Args:
        make_model: builds or loads the model to start from.
        make_batches: first epoch -> (batches from there to the end, steps an epoch).
        validation: batches scored after every epoch.
        config: the `train` section of a spec.
        folder: receives model.keras, history.csv, checkpoints/ and tensorboard/, and best.keras where `config.keep_best`.
        identity: what else a run must share to go on with its checkpoints (the model and the data, say).
        info: what belongs to the model: written into its file.
        teacher: the model that `config.distill` names.
        restart: starts afresh, even over the checkpoints of another training.
        say: receives the lines about resumption.
        task: what the training is about; classification by default.

    Raises:
        FolderInUseError: another process trains into `folder`.
        TrainingError: the folder holds another training's checkpoints, or the loss is not finite.
        OSError: the folder cannot be written.
    """
    with files.locked(folder, "training"):
        checkpoints = Checkpoints(folder / "checkpoints", {"train": _deciding(config), **(identity or {})})
        for place in (folder, folder / "checkpoints"):
            files.remove_leftovers(place)
        found = checkpoints.to_resume(restart=restart)
        if found is None:
            model = make_model()
            removed = checkpoints.clear()
            if removed:
                say(f"Starting afresh: removed {removed} checkpoint(s) in {folder / 'checkpoints'}.")
        else:
            model = checkpoints.load(found)
            if found.finished:
                say(f"This training is finished: all {found.epoch} epochs are done. Give --restart to repeat it.")
            else:
                say(f"Going on after epoch {found.epoch}, from the last checkpoint.")
        task = task or classification(config)
        first_epoch = found.epoch if found is not None else 0
        history = History(folder / "history.csv", [] if found is None else [dict(row) for row in found.history])
        if found is None or not found.finished:
            best = Best(folder / "best.keras", history, config, task.measure, info)
            _run(model, make_batches, validation, config, folder, checkpoints, history, found, teacher, task, best, say)
        save_result(model, folder / "model.keras", config, info)
        best_of_all = best_epoch(history.rows, task.measure) if config.keep_best else 0
        if best_of_all and not (folder / "best.keras").is_file():
            # The epochs before were trained without keep_best, or the file was removed.
            say(f"The model of epoch {best_of_all}, the best one, was not kept.")
            best_of_all = 0
        return TrainResult(
            model,
            folder / "model.keras",
            folder / "best.keras" if best_of_all else None,
            best_of_all,
            max(len(history.rows), first_epoch),
            first_epoch,
            pd.DataFrame(history.rows),
        )


def _run(
    model: keras.Model,
    make_batches: Callable[[int], tuple[Any, int]],
    validation: Any,
    config: Train,
    folder: pathlib.Path,
    checkpoints: Checkpoints,
    history: History,
    found: Checkpoint | None,
    teacher: keras.Model | None,
    task: Task,
    best: Best,
    say: Callable[[str], None],
) -> None:
    first_epoch = found.epoch if found is not None else 0
    set_regularizers(model, config.reg_config)
    batches, steps = make_batches(first_epoch)
    if found is None:
        model.compile(optimizer=optimizer(config.optim_config), **task.objective())
    if teacher is not None:
        batches = with_teacher(batches, teacher, model, task.channel_axis)
    callbacks: list[keras.callbacks.Callback] = [
        Schedule(config, steps, task),
        Finite(config, steps),
        *task.callbacks(history.rows),
        history,
        *([] if sys.stdout.isatty() else [Line(config, task.measure, say)]),
        *([best] if config.keep_best else []),
        Save(checkpoints, history, config, task),
    ]
    if config.tensorboard:
        callbacks.append(TensorBoard(folder / "tensorboard"))
    with subsampled_first(model):
        model.fit(
            batches,
            initial_epoch=first_epoch,
            epochs=config.num_epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=callbacks,
            # A bar is for a person at a terminal; a log gets a line for each epoch, from `Line`.
            verbose=1 if sys.stdout.isatty() else 0,
            shuffle=False,
        )


def _objective(config: Train) -> dict[str, Any]:
    """Loss and metrics."""
    smoothing, distill = config.label_smoothing, config.distill
    if distill.teacher:
        loss = Distillation(distill.alpha, distill.temperature, smoothing)
        return {"loss": loss, "metrics": [LabelAccuracy(name="accuracy")]}
    return {"loss": keras.losses.CategoricalCrossentropy(label_smoothing=smoothing), "metrics": ["accuracy"]}


def optimizer(config: OptimConfig) -> keras.optimizers.Optimizer:
    """SGD, Adam or RMSprop; the learning rate is set at every step."""
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0)
    if config.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(rho=config.rho, epsilon=config.epsilon)
    return keras.optimizers.Adam(beta_1=config.beta_1, beta_2=config.beta_2, epsilon=config.epsilon)


def _deciding(config: Train) -> dict[str, Any]:
    """Everything in the section that decides what a training computes, and the contents of the model it starts from."""
    data = config.model_dump(exclude={"tensorboard", "checkpoint_interval", "keep_best", "pretrained_model_path"})
    data["distill"].pop("teacher")
    for name, path in {"pretrained_model": config.pretrained_model_path, "teacher": config.distill.teacher}.items():
        if path and pathlib.Path(path).is_file():
            data[name] = _contents(pathlib.Path(path))
    return data


def _contents(path: pathlib.Path) -> Any:
    """What distinguishes a model file: checksums of the parts of a .keras file that hold no time, else size and time."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {x.filename: x.CRC for x in archive.infolist() if x.filename in ("config.json", "model.weights.h5")}
    except zipfile.BadZipFile:
        return [path.stat().st_size, path.stat().st_mtime_ns]


def stopped_early(accuracies: Sequence[float], config: EarlyStop) -> bool:
    """Whether validation accuracy has not grown by more than `min_delta` for `patience` epochs (0: never)."""
    best, waited = -math.inf, 0
    for accuracy in accuracies:
        waited += 1
        if accuracy - config.min_delta > best:
            best, waited = accuracy, 0
        if config.patience and waited >= config.patience:
            return True
    return False
