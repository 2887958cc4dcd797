"""The objective of a training: losses, metrics and learning rate, and when it is best and when it ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tlt_prune.config import EarlyStop, OptimConfig, Train
from tlt_prune.training.distillation import Distillation, LabelAccuracy
from tlt_prune.training.schedules import learning_rate

Rows = Sequence[Mapping[str, Any]]
"""Logs of the finished epochs, one mapping per epoch."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective of a training.

    Attributes:
        compile_arguments: makes losses and metrics, as arguments of `compile`.
        rate: (step, number of all steps) -> learning rate.
        measure: column of the logs that says which epoch was best: the higher, the better.
        label: name of that measure in the line of an epoch.
        stopped: whether training ends after the epochs whose logs are given, before the last one.
        callbacks: (logs of the finished epochs) -> callbacks that run before an epoch's logs are written, and may add to them.
        channel_axis: axis of the outputs along which a teacher's outputs are joined to the targets.
        rate_for: highest learning rate -> `rate`, where it is to be measured; None where the spec says all.
        scores: model -> scores before the first epoch that are not among the compiled metrics, by their columns in the logs.
        summary: an epoch's logs -> what follows from them, to be added: a mean over outputs, say.
    """

    compile_arguments: Callable[[], dict[str, Any]]
    rate: Callable[[int, int], float]
    measure: str = "val_accuracy"
    label: str = "accuracy"
    stopped: Callable[[Rows], bool] = lambda rows: False
    callbacks: Callable[[Rows], Sequence[keras.callbacks.Callback]] = lambda rows: ()
    channel_axis: int = -1
    rate_for: Callable[[float], Callable[[int, int], float]] | None = None
    scores: Callable[[keras.Model], Mapping[str, float]] = lambda model: {}
    summary: Callable[[Mapping[str, float]], Mapping[str, float]] = lambda logs: {}


def classification(config: Train) -> Objective:
    """Cross entropy and accuracy, as the `train` section of a spec has it."""

    def stopped(rows: Rows) -> bool:
        return stopped_early([row["val_accuracy"] for row in rows if "val_accuracy" in row], config.early_stop)

    def rate_for(peak: float) -> Callable[[int, int], float]:
        schedule = config.lr_config.model_copy(update={"learning_rate": peak})
        return lambda step, total: learning_rate(schedule, step, total)

    return Objective(
        lambda: _cross_entropy(config),
        rate_for(config.lr_config.peak),
        stopped=stopped,
        rate_for=rate_for if config.lr_config.learning_rate == "auto" else None,
    )


def _cross_entropy(config: Train) -> dict[str, Any]:
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
