"""Callbacks of a training: learning rate, history, checkpoints, the best epoch, TensorBoard."""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.config import Train
from tlt_prune.errors import TrainingError
from tlt_prune.io import files, interrupt, workers
from tlt_prune.training.checkpoints import Checkpoint, Checkpoints
from tlt_prune.training.objective import Objective
from tlt_prune.training.saving import save_result

if TYPE_CHECKING:
    from tlt_prune.training.job import TrainingJob

# What Keras tells a callback: metric -> its value in the epoch or batch.
Logs = dict[str, float]


class LearningRateSchedule(keras.callbacks.Callback):
    """Sets the learning rate of every step."""

    def __init__(self, config: Train, steps: int, objective: Objective) -> None:
        super().__init__()
        self._rate, self._decay = objective.rate, config.optim_config.decay
        self._total = steps * config.num_epochs
        self._step = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._step = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        rate = self._rate(self._step, self._total)
        self.model.optimizer.learning_rate = rate / (1 + self._decay * self._step)
        self._step += 1


class Finite(keras.callbacks.Callback):
    """Stops at the first loss that is not a number: nothing that follows could be right."""

    def __init__(self, config: Train, steps: int) -> None:
        super().__init__()
        self._config, self._steps, self._epoch = config, steps, 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            rate = self._config.lr_config.peak
            raise TrainingError(
                f"The loss is {loss} in epoch {self._epoch}, step {batch + 1} of {self._steps}. Expected a finite number. Try a "
                f"lower train.lr_config.learning_rate than {rate} or a longer soft_start, and look for NaN in the data; "
                "checkpoints of earlier epochs are kept."
            )


class Summary(keras.callbacks.Callback):
    """Adds to the logs of an epoch what follows from them."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self._objective = objective

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        logs.update(self._objective.summary(logs))


class History(keras.callbacks.Callback):
    """history.csv, which goes on from the rows of a checkpoint, whatever has become of the file."""

    def __init__(self, path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._path = path
        self.rows: list[dict[Any, Any]] = [{key: math.nan if x is None else x for key, x in row.items()} for row in rows]
        for row in self.rows:
            row["epoch"] = int(row["epoch"])
        if self.rows:
            self._write()

    @property
    def trained(self) -> list[dict[Any, Any]]:
        """Rows of the epochs: without that of the state before the first one."""
        return [row for row in self.rows if row["epoch"]]

    def start(self, scores: Mapping[str, float]) -> None:
        """Adds the scores of the state before the first epoch, as epoch 0."""
        self.rows.append({"epoch": 0, **scores})
        self._write()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        rate = float(self.model.optimizer.learning_rate.numpy())
        self.rows.append({"epoch": epoch + 1, **(logs or {}), "learning_rate": rate, "seconds": seconds})
        self._write()

    def _write(self) -> None:
        files.write_text(self._path, pd.DataFrame(self.rows).to_csv(index=False))


class Line(keras.callbacks.Callback):
    """Prints one line per epoch that fits a terminal; everything is in history.csv."""

    def __init__(self, config: Train, objective: Objective, say: Callable[[str], None]) -> None:
        super().__init__()
        self._epochs, self._objective, self._say = config.num_epochs, objective, say

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values, measure = logs or {}, self._objective.measure.removeprefix("val_")
        sides = []
        for prefix in ("", "val_"):
            told = {}
            if prefix + "loss" in values:
                told["loss"] = f"{values[prefix + 'loss']:.4f}"
            if prefix + measure in values:
                told[self._objective.label] = f"{100 * values[prefix + measure]:.2f} %"
            sides.append(told)
        trained, held_out = sides
        parts = [", ".join(f"{name} {text}" for name, text in trained.items())]
        if held_out:
            # In the same order: what is named once need not be named again.
            parts.append("validation " + ", ".join(x if name in trained else f"{name} {x}" for name, x in held_out.items()))
        self._say(f"epoch {epoch + 1}/{self._epochs}: {'; '.join(parts)}; {time.perf_counter() - self._started:.1f} s")


def best_epoch(rows: Sequence[Mapping[Any, Any]], measure: str) -> int | None:
    """The first epoch with the highest value, from 1, or 0 for the state before the first one; None where none has a value."""
    measured = {row["epoch"]: row[measure] for row in rows if measure in row and math.isfinite(row[measure])}
    return int(max(measured, key=lambda epoch: measured[epoch])) if measured else None


class Best(keras.callbacks.Callback):
    """Keeps the model of the best epoch so far, in a file of its own."""

    def __init__(self, path: pathlib.Path, history: History, job: TrainingJob) -> None:
        super().__init__()
        self._path, self._history, self._job = path, history, job

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.keep(self.model, epoch + 1)

    def keep(self, model: keras.Model, epoch: int) -> None:
        """Writes the model, where an epoch is the best so far; 0 is the state before the first one."""
        if best_epoch(self._history.rows, self._job.objective.measure) == epoch:
            save_result(model, self._path, self._job.config, self._job.info)


class Save(keras.callbacks.Callback):
    """Checkpoints, and the decision to stop early, which follows from the history alone: it is the same after a resumption."""

    def __init__(self, checkpoints: Checkpoints, history: History, config: Train, objective: Objective) -> None:
        super().__init__()
        self._checkpoints, self._history, self._config, self._objective = checkpoints, history, config, objective

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        done = epoch + 1
        early = self._objective.stopped(self._history.trained)
        finished = early or done == self._config.num_epochs
        if finished or done % self._config.checkpoint_interval == 0:
            self._checkpoints.save(self.model, done, finished=finished, history=self._history.rows)
        if early:
            self.model.stop_training = True


class SaveAtTermination(keras.callbacks.Callback):
    """A checkpoint in the middle of an epoch, and the end, where a process of the job is terminated.

    Args:
        checkpoints, history: what is written.
        done: batches of the epoch that were skipped.
        is_terminated: whether that has come to one of them; the same in all.
    """

    def __init__(self, checkpoints: Checkpoints, history: History, done: int, is_terminated: Callable[[], bool]) -> None:
        super().__init__()
        self._checkpoints, self._history, self._done, self._is_terminated = checkpoints, history, done, is_terminated

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        # After the last batch the epoch's own checkpoint comes.
        if self._is_terminated() and batch + 1 < self.params["steps"]:
            step = self._done + batch + 1
            self._checkpoints.save(self.model, self._epoch, finished=False, history=self._history.rows, step=step)
            # Whoever ends takes the others with it.
            workers.wait_for_all()
            interrupt.terminate()


class Resumed(keras.callbacks.Callback):
    """The metrics of the batches that a checkpoint in the middle of an epoch has seen."""

    def __init__(self, checkpoint: Checkpoint, checkpoints: Checkpoints) -> None:
        super().__init__()
        self._checkpoint, self._checkpoints = checkpoint, checkpoints

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._checkpoints.load_metrics(self._checkpoint, self.model)


class TensorBoard(keras.callbacks.Callback):
    """Writes the scalars of each epoch in TensorBoard's event format."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        with self._writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                self._summary.scalar(name, float(value))
        self._writer.flush()


def write_pictures(folder: pathlib.Path, name: str, pictures: NDArray[Any], epoch: int) -> None:
    """Writes pictures `(n, height, width, channels)` for TensorBoard; of several workers, the chief does."""
    import tensorflow as tf

    if workers.is_chief():
        writer = tf.summary.create_file_writer(str(folder), filename_suffix=".pictures")
        with writer.as_default(step=epoch):
            tf.summary.image(name, pictures, max_outputs=len(pictures))
        writer.close()
