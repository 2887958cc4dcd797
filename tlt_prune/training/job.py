"""All that a training needs, and its result."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import pandas as pd

from tlt_prune.config import Train
from tlt_prune.io import ModelInfo
from tlt_prune.training.objective import Objective

if TYPE_CHECKING:
    from tlt_prune.data import Pipeline


@dataclasses.dataclass(frozen=True, eq=False)
class TrainResult:
    """Result of a training.

    Attributes:
        model: the model after the last epoch; of a retraining after pruning, with `keep_best`, the best one.
        model_epoch: the epoch after which it was so, from 1; 0 for the pruned model that a retraining began with.
        path: its file.
        best: the file of the epoch that did best in validation, where `keep_best` asks for it.
        best_epoch: its number, from 1; 0 for the pruned model that a retraining began with, None for none.
        epochs: epochs it has seen, those before a resumption included.
        resumed_from: epoch that was resumed from, 0 for a fresh start.
        history: one row per epoch: loss, accuracy, val_loss, val_accuracy, learning_rate. That of epoch 0 scores the pruned model
            that a retraining began with.
        quantization_aware: whether it was trained in int8.
    """

    model: keras.Model
    model_epoch: int
    path: pathlib.Path
    best: pathlib.Path | None
    best_epoch: int | None
    epochs: int
    resumed_from: int
    history: pd.DataFrame
    quantization_aware: bool


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingJob:
    """All that a training needs.

    Attributes:
        make_model: builds or loads the model to start from.
        make_batches: first epoch -> the batches from there to the end.
        validation: batches that are scored after every epoch; in one process arrays `(x, y)`, too.
        config: the `train` section of a spec.
        objective: losses, learning rate and measure: `classification(config)`, for instance.
        identity: what another run must share to go on with the checkpoints of this one (the model and the data, say).
        info: what belongs to the model: written into its file.
        teacher: the model that `config.distill` names.
        pruned: whether it is a pruned model that is retrained: then the state at the beginning counts as epoch 0, and the result
            is never worse.
    """

    make_model: Callable[[], keras.Model]
    make_batches: Callable[[int], Pipeline]
    validation: Any
    config: Train
    objective: Objective
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    info: ModelInfo | None = None
    teacher: keras.Model | None = None
    pruned: bool = False
