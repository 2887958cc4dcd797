"""The training loop: Keras' `fit` with a schedule a step, checkpoints, logs, and resumption.

An epoch is the unit of resumption. Data order, augmentation and learning rate follow from the epoch and
step numbers, and a checkpoint holds the optimizer and the state of random numbers, so a training that was killed and
started again ends where an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import pandas as pd

from tlt_prune import files, model_info
from tlt_prune.errors import TrainingError
from tlt_prune.model_info import ModelInfo
from tlt_prune.specs import EarlyStop, OptimConfig, Train
from tlt_prune.training.checkpoints import Checkpoint, Checkpoints
from tlt_prune.training.distillation import Distillation, LabelAccuracy, with_teacher
from tlt_prune.training.narrow_shortcuts import subsampled_first
from tlt_prune.training.regularizers import set_regularizers
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
        history = _History(folder / "history.csv", [] if found is None else [dict(row) for row in found.history])
        if found is None or not found.finished:
            best = _Best(folder / "best.keras", history, config, task.measure, info)
            _run(model, make_batches, validation, config, folder, checkpoints, history, found, teacher, task, best, say)
        _save_result(model, folder / "model.keras", config, info)
        best_epoch = _best_epoch(history.rows, task.measure) if config.keep_best else 0
        if best_epoch and not (folder / "best.keras").is_file():
            # The epochs before were trained without keep_best, or the file was removed.
            say(f"The model of epoch {best_epoch}, the best one, was not kept.")
            best_epoch = 0
        return TrainResult(
            model,
            folder / "model.keras",
            folder / "best.keras" if best_epoch else None,
            best_epoch,
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
    history: _History,
    found: Checkpoint | None,
    teacher: keras.Model | None,
    task: Task,
    best: _Best,
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
        _Schedule(config, steps, task),
        _Finite(config, steps),
        *task.callbacks(history.rows),
        history,
        *([] if sys.stdout.isatty() else [_Line(config, task.measure, say)]),
        *([best] if config.keep_best else []),
        _Save(checkpoints, history, config, task),
    ]
    if config.tensorboard:
        callbacks.append(_TensorBoard(folder / "tensorboard"))
    with subsampled_first(model):
        model.fit(
            batches,
            initial_epoch=first_epoch,
            epochs=config.num_epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=callbacks,
            # A bar is for a person at a terminal; a log gets a line for each epoch, from `_Line`.
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


def save_model(model: keras.Model, path: pathlib.Path, *, info: ModelInfo | None = None, include_optimizer: bool = True) -> None:
    """Writes a .keras file, with what belongs to the model inside: a killed process leaves no half of it."""
    with files.whole_file(path) as partial:
        with contextlib.nullcontext() if include_optimizer else _without_optimizer(model):
            model.save(partial)
        if info is not None:
            model_info.write(partial, info)


def _save_result(model: keras.Model, path: pathlib.Path, config: Train, info: ModelInfo | None) -> None:
    """What is for people: without an optimizer, and to be loaded without this package, which group lasso comes from."""
    lasso = config.reg_config.type == "group_lasso"
    if lasso:
        set_regularizers(model, config.reg_config.model_copy(update={"type": "none"}))
    save_model(model, path, info=info, include_optimizer=False)
    if lasso:
        set_regularizers(model, config.reg_config)


@contextlib.contextmanager
def _without_optimizer(model: keras.Model) -> Iterator[None]:
    """Keras' own `include_optimizer` argument has no effect on .keras files."""
    optimizer, compiled = model.optimizer, model.compiled
    model.optimizer, model.compiled = None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, compiled


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


class _Schedule(keras.callbacks.Callback):
    def __init__(self, config: Train, steps: int, task: Task) -> None:
        super().__init__()
        self._rate, self._decay = task.rate, config.optim_config.decay
        self._total = steps * config.num_epochs
        self._step = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._step = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        rate = self._rate(self._step, self._total)
        self.model.optimizer.learning_rate = rate / (1 + self._decay * self._step)
        self._step += 1


class _Finite(keras.callbacks.Callback):
    """Stops at the first loss that is not a number: nothing that follows could be right."""

    def __init__(self, config: Train, steps: int) -> None:
        super().__init__()
        self._config, self._steps, self._epoch = config, steps, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            rate = self._config.lr_config.learning_rate
            raise TrainingError(
                f"The loss is {loss} in epoch {self._epoch}, step {batch + 1} of {self._steps}. Expected a finite number. Try a "
                f"lower train.lr_config.learning_rate than {rate} or a longer soft_start, and look for NaN in the data; "
                "checkpoints of earlier epochs are kept."
            )


class _History(keras.callbacks.Callback):
    """history.csv, which goes on from the rows of a checkpoint, whatever has become of the file."""

    def __init__(self, path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._path = path
        self.rows: list[dict[Any, Any]] = [{key: math.nan if x is None else x for key, x in row.items()} for row in rows]
        for row in self.rows:
            row["epoch"] = int(row["epoch"])
        if self.rows:
            self._write()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        rate = float(self.model.optimizer.learning_rate.numpy())
        self.rows.append({"epoch": epoch + 1, **(logs or {}), "learning_rate": rate, "seconds": seconds})
        self._write()

    def _write(self) -> None:
        files.write_text(self._path, pd.DataFrame(self.rows).to_csv(index=False))


class _Line(keras.callbacks.Callback):
    """What a log says of an epoch, in a line that fits a terminal; the rest is in history.csv."""

    def __init__(self, config: Train, measure: str, say: Callable[[str], None]) -> None:
        super().__init__()
        self._epochs, self._measure, self._say = config.num_epochs, measure, say

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = logs or {}
        parts = [f"{name} {values[name]:.4f}" for name in ("loss", "val_loss") if name in values]
        trained = self._measure.removeprefix("val_")
        parts += [f"{name} {100 * values[name]:.2f} %" for name in (trained, self._measure) if name in values]
        self._say(f"epoch {epoch + 1}/{self._epochs}: {', '.join(parts)}, {time.perf_counter() - self._started:.1f} s")


def _best_epoch(rows: Sequence[Mapping[Any, Any]], measure: str) -> int:
    """The first epoch with the highest value, from 1; 0 where none has one."""
    known = {row["epoch"]: row[measure] for row in rows if measure in row and math.isfinite(row[measure])}
    return int(max(known, key=lambda epoch: known[epoch])) if known else 0


class _Best(keras.callbacks.Callback):
    """Keeps the model of the best epoch so far, in a file of its own."""

    def __init__(self, path: pathlib.Path, history: _History, config: Train, measure: str, info: ModelInfo | None) -> None:
        super().__init__()
        self._path, self._history, self._config, self._measure, self._info = path, history, config, measure, info

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if _best_epoch(self._history.rows, self._measure) == epoch + 1:
            _save_result(self.model, self._path, self._config, self._info)


class _Save(keras.callbacks.Callback):
    """Checkpoints, and the decision to stop early, which follows from the history alone: it is the same after a resumption."""

    def __init__(self, checkpoints: Checkpoints, history: _History, config: Train, task: Task) -> None:
        super().__init__()
        self._checkpoints, self._history, self._config, self._task = checkpoints, history, config, task

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        done = epoch + 1
        early = self._task.stopped(self._history.rows)
        finished = early or done == self._config.num_epochs
        if finished or done % self._config.checkpoint_interval == 0:
            self._checkpoints.save(self.model, done, finished=finished, history=self._history.rows)
        if early:
            self.model.stop_training = True


class _TensorBoard(keras.callbacks.Callback):
    """Scalars an epoch, in TensorBoard's event format."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with self._writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                self._summary.scalar(name, float(value))
        self._writer.flush()
