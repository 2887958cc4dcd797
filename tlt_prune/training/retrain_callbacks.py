"""Callbacks of a retraining, for `tlt_prune.retrain` and for a `fit` of one's own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune.config import LRConfig
from tlt_prune.errors import TrainingError
from tlt_prune.training.schedules import learning_rate

# Metrics that are the better the higher, by parts of their names and by whole words of them; of all others, as of losses, the
# lower. Keras calls an IoU io_u.
_HIGHER = re.compile(
    r"accuracy|dice|jaccard|precision|recall|sensitivity|specificity|similarity|correlation|true_(positives|negatives)"
    r"|(?<![a-z])(auc|(mean|m)?iou|io_u|f\d|f_?beta|r2|m?ap|psnr|ssim|top)(?![a-z])|(?<![a-z])(acc|f1)"
)
_LOWER = re.compile(r"loss|error|distance|divergence|(?<![a-z])(mae|r?mse|nll)(?![a-z])")


WARM_UP = 0.1
"""Share of a retraining over which the learning rate rises."""


def is_arrays(data: Any) -> bool:
    """Whether data is `(x, y)` or `(x, y, sample_weight)`, rather than batches of them."""
    return isinstance(data, tuple) and len(data) in (2, 3)


def data_arguments(data: Any, batch_size: int) -> dict[str, Any]:
    """Data as arguments of `fit` and `evaluate`."""
    if not is_arrays(data):
        return {"x": data}
    return {**dict(zip(("x", "y", "sample_weight"), data, strict=False)), "batch_size": batch_size}


class WarmUpCosine(keras.callbacks.Callback):
    """Sets the learning rate of every step: it rises from 0 over a tenth of them, and falls as half a cosine to 0.

    Afterwards the optimizer has the rate that it came with.

    Args:
        peak: highest rate.
        steps: of the whole training.

    Raises:
        TrainingError: `peak` is no number above 0, or the optimizer's rate is a schedule.
    """

    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        if isinstance(peak, bool) or not isinstance(peak, (int, float, np.number)) or not 0 < peak < math.inf:
            raise TrainingError(f"learning_rate: expected a number above 0. Received: {peak!r}.")
        self._config = LRConfig(learning_rate=float(peak), soft_start=WARM_UP, scheduler="cosine")
        self._steps, self._step = steps, 0
        self._before: float | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Begins with the first step."""
        self._before, self._step = settable_rate(self.model.optimizer), 0

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Sets the rate of a step."""
        self.model.optimizer.learning_rate = learning_rate(self._config, self._step, self._steps)
        self._step += 1

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Puts the optimizer's rate back."""
        self.restore()

    def restore(self) -> None:
        """Puts the optimizer's rate back; also where a training was broken off."""
        if self._before is not None:
            self.model.optimizer.learning_rate = self._before


def settable_rate(optimizer: Any) -> float:
    """The learning rate of an optimizer, where it can be set.

    Raises:
        TrainingError: it is a schedule's.
    """
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    try:
        optimizer.learning_rate = rate
    except TypeError as error:
        raise TrainingError(
            f"The learning rate of this {type(optimizer).__name__} is a schedule's. Expected a number: training sets the rates."
        ) from error
    return rate


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the epoch that did best in validation, and gives them to the model when the training ends.

    The state at the beginning counts as well, as epoch 0: a model is never worse afterwards than it was before.

    Args:
        validation: what `fit` takes as `validation_data`, for the state at the beginning.
        monitor: the score: a name in the logs such as "val_accuracy". None for the first metric that the model is compiled
            with, one that is the better the higher before others; for "val_loss" where there is none, and where the model has
            several outputs. Of equal scores the one with the lower "val_loss" is better.
        mode: "max" or "min"; "auto" goes by the name: "max" for accuracy, AUC, IoU, precision, recall and the like.
        batch_size: of arrays.

    Attributes:
        start: scores at the beginning, by the names that they have in the logs.
        best: those of the best epoch.
        best_epoch: its number, from 1; 0 for the state at the beginning.
    """

    def __init__(
        self, validation: Any, *, monitor: str | None = None, mode: Literal["auto", "max", "min"] = "auto", batch_size: int = 64
    ) -> None:
        super().__init__()
        if mode not in ("auto", "max", "min"):
            raise TrainingError(f'KeepBest: expected mode "auto", "max" or "min". Received: {mode!r}.')
        self._validation, self._mode, self._batch_size = validation, mode, batch_size
        self.monitor = monitor
        self.start: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.best_epoch = 0
        self._weights: list[NDArray[Any]] = []

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Scores the state at the beginning."""
        scores = self.model.evaluate(**data_arguments(self._validation, self._batch_size), verbose=0, return_dict=True)
        self.start = {f"val_{name}": float(value) for name, value in scores.items()}
        # Now, rather than after an epoch, where there is no such score.
        self._rank(self.start)
        self._keep(0, self.start)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Keeps the weights where the epoch is the best so far."""
        scores = {name: float(value) for name, value in (logs or {}).items() if name.startswith("val_")}
        # There are none where `fit` does not validate after every epoch.
        if scores and self._rank(scores) > self._rank(self.best):
            self._keep(epoch + 1, scores)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Gives the model its best weights."""
        self.restore()

    def restore(self) -> None:
        """Gives the model its best weights; also where a training was broken off."""
        if self._weights:
            self.model.set_weights(self._weights)

    def _keep(self, epoch: int, scores: dict[str, float]) -> None:
        self.best_epoch, self.best = epoch, scores
        self._weights = [np.array(w) for w in self.model.get_weights()]

    def _rank(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """The higher, the better; a network that says something that is not a number is worst, however often it is right."""
        monitor = self.monitor or self._default(scores)
        if monitor not in scores:
            raise TrainingError(f"KeepBest: there is no score '{monitor}'. Expected one of: {', '.join(scores) or 'none'}.")
        higher = self._mode == "max" or (self._mode == "auto" and _is_better_higher(monitor))
        value, loss = scores[monitor], scores.get("val_loss", 0.0)
        if not (math.isfinite(value) and math.isfinite(loss)):
            return -math.inf, -math.inf
        return (value if higher else -value), -loss

    def _default(self, scores: Mapping[str, float]) -> str:
        metrics = sorted((x for x in scores if not x.endswith("loss")), key=lambda x: not _is_better_higher(x))
        several = len(getattr(self.model, "output_names", None) or [""]) > 1
        return metrics[0] if metrics and not several else "val_loss"


def _is_better_higher(name: str) -> bool:
    return _LOWER.search(name.lower()) is None and _HIGHER.search(name.lower()) is not None
