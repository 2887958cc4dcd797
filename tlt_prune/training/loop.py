"""The training loop: Keras' `fit` with a schedule a step, checkpoints, logs, and resumption.

An epoch is the unit of resumption. Data order, augmentation and learning rate follow from the epoch and
step numbers, and a checkpoint holds the optimizer, so a training that was killed and started again
ends where an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import pandas as pd

from tlt_prune import files
from tlt_prune.specs import OptimConfig, Train
from tlt_prune.training.regularizers import set_regularizers
from tlt_prune.training.schedules import learning_rate


@dataclasses.dataclass(frozen=True, eq=False)
class TrainResult:
    """What a training left behind.

    Attributes:
        model: the model after the last epoch.
        path: its file.
        epochs: epochs it has seen, those before a resumption included.
        resumed_from: epoch that was resumed from, 0 for a fresh start.
        history: a row an epoch: loss, accuracy, val_loss, val_accuracy, learning_rate.
    """

    model: keras.Model
    path: pathlib.Path
    epochs: int
    resumed_from: int
    history: pd.DataFrame


def train(
    make_model: Callable[[], keras.Model],
    make_batches: Callable[[int], tuple[Any, int]],
    validation: Any,
    config: Train,
    folder: pathlib.Path,
    identity: str = "",
) -> TrainResult:
    """Trains, or goes on where a killed run of the same configuration stopped.

    Args:
        make_model: builds or loads the model to start from.
        make_batches: first epoch -> (batches from there to the end, steps an epoch).
        validation: batches scored after every epoch.
        config: the `train` section of a spec.
        folder: receives model.keras, history.csv, checkpoints/ and tensorboard/.
        identity: what else a run must share to go on with its checkpoints (the model and the data, say).

    Raises:
        OSError: the folder cannot be written.
    """
    checkpoints = Checkpoints(folder / "checkpoints", f"{_fingerprint(config)}\n{identity}")
    found = checkpoints.latest()
    if found is not None:
        first_epoch, path = found
        model = keras.models.load_model(path)
    else:
        first_epoch = 0
        checkpoints.clear()
        model = make_model()
    set_regularizers(model, config.reg_config)
    batches, steps = make_batches(first_epoch)
    if found is None:
        model.compile(
            optimizer=optimizer(config.optim_config),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing),
            metrics=["accuracy"],
        )
    history = folder / "history.csv"
    callbacks: list[keras.callbacks.Callback] = [
        _Schedule(config, steps),
        _History(history, first_epoch),
        _Save(checkpoints, config.checkpoint_interval, config.num_epochs),
    ]
    if config.tensorboard:
        callbacks.append(_TensorBoard(folder / "tensorboard"))
    if config.early_stop.patience:
        stop = config.early_stop
        callbacks.append(
            keras.callbacks.EarlyStopping("val_accuracy", min_delta=stop.min_delta, patience=stop.patience, mode="max")
        )
    model.fit(
        batches,
        initial_epoch=first_epoch,
        epochs=config.num_epochs,
        steps_per_epoch=steps,
        validation_data=validation,
        callbacks=callbacks,
        # A bar is for a person at a terminal; a log gets a line an epoch.
        verbose=1 if sys.stdout.isatty() else 2,
        shuffle=False,
    )
    path = folder / "model.keras"
    save_model(model, path, include_optimizer=False)
    table = pd.read_csv(history) if history.exists() else pd.DataFrame()
    return TrainResult(model, path, max(len(table), first_epoch), first_epoch, table)


def optimizer(config: OptimConfig) -> keras.optimizers.Optimizer:
    """SGD or Adam; the learning rate is set at every step."""
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0)
    return keras.optimizers.Adam(beta_1=config.beta_1, beta_2=config.beta_2, epsilon=config.epsilon)


def save_model(model: keras.Model, path: pathlib.Path, *, include_optimizer: bool = True) -> None:
    """Writes a .keras file beside its final name, then renames: a killed process leaves no half of it."""
    with files.whole_file(path) as partial, contextlib.nullcontext() if include_optimizer else _without_optimizer(model):
        model.save(partial)


@contextlib.contextmanager
def _without_optimizer(model: keras.Model) -> Iterator[None]:
    """Keras' own `include_optimizer` argument has no effect on .keras files."""
    optimizer, compiled = model.optimizer, model.compiled
    model.optimizer, model.compiled = None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, compiled


class Checkpoints:
    """Numbered .keras files with the optimizer, valid for one training configuration only."""

    def __init__(self, folder: pathlib.Path, fingerprint: str) -> None:
        self._folder = folder
        self._stamp = folder / "config.json"
        self._fingerprint = fingerprint

    def latest(self) -> tuple[int, pathlib.Path] | None:
        """(epochs done, file) of the newest checkpoint of this configuration."""
        if not self._stamp.exists() or self._stamp.read_text("utf-8") != self._fingerprint:
            return None
        numbered = [(int(m[1]), p) for p in self._folder.glob("epoch_*.keras") if (m := re.fullmatch(r"epoch_(\d+)", p.stem))]
        return max(numbered, default=None)

    def clear(self) -> None:
        """Forgets checkpoints of another configuration and starts afresh."""
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)
        self._stamp.write_text(self._fingerprint, "utf-8")

    def save(self, model: keras.Model, epochs_done: int) -> None:
        newest = self._folder / f"epoch_{epochs_done:03d}.keras"
        save_model(model, newest)
        for old in self._folder.glob("epoch_*.keras"):
            if old != newest:
                old.unlink()


def _fingerprint(config: Train) -> str:
    """Everything that decides what a training computes."""
    data = config.model_dump()
    for irrelevant in ("tensorboard", "checkpoint_interval"):
        data.pop(irrelevant)
    source = pathlib.Path(config.pretrained_model_path)
    if config.pretrained_model_path and source.is_file():
        data["pretrained_mtime"] = source.stat().st_mtime_ns
    return json.dumps(data, sort_keys=True)


class _Schedule(keras.callbacks.Callback):
    def __init__(self, config: Train, steps: int) -> None:
        super().__init__()
        self._config = config.lr_config
        self._total = steps * config.num_epochs
        self._step = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._step = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = learning_rate(self._config, self._step, self._total)
        self._step += 1


class _History(keras.callbacks.Callback):
    """history.csv, cut back on resumption to the epochs that count."""

    def __init__(self, path: pathlib.Path, first_epoch: int) -> None:
        super().__init__()
        self._path = path
        self._rows: list[dict[Any, Any]] = []
        if first_epoch and path.exists():
            self._rows = pd.read_csv(path).head(first_epoch).to_dict("records")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        rate = float(self.model.optimizer.learning_rate.numpy())
        self._rows.append({"epoch": epoch + 1, **(logs or {}), "learning_rate": rate, "seconds": seconds})
        files.write_text(self._path, pd.DataFrame(self._rows).to_csv(index=False))


class _Save(keras.callbacks.Callback):
    def __init__(self, checkpoints: Checkpoints, interval: int, epochs: int) -> None:
        super().__init__()
        self._checkpoints, self._interval, self._epochs = checkpoints, max(1, interval), epochs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self._interval == 0 or epoch + 1 == self._epochs:
            self._checkpoints.save(self.model, epoch + 1)


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
