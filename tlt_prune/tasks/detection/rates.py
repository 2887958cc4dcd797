"""The learning rate of a detector's training, as `training_config.learning_rate` describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlt_prune.detection import EarlyStoppingAnnealing
from tlt_prune.errors import SpecError
from tlt_prune.training import soft_start_annealing

if TYPE_CHECKING:
    from google.protobuf.message import Message


class SoftStart:
    """The learning rate by the share of all steps that is done."""

    def __init__(self, schedule: Message) -> None:
        self._limits = (schedule.min_learning_rate, schedule.max_learning_rate)
        self._shares = (schedule.soft_start, schedule.annealing)

    def rate(self, step: int, total: int) -> float:
        return soft_start_annealing(step / total, *self._limits, *self._shares)

    def stopped(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        return False


class EarlyStopping:
    """The learning rate by what validation comes to; where it stands follows from the logs, so that a resumption goes on."""

    def __init__(self, schedule: Message, steps: Callable[[], int]) -> None:
        self._make: Callable[[], EarlyStoppingAnnealing] = lambda: EarlyStoppingAnnealing(
            schedule.min_learning_rate,
            schedule.max_learning_rate,
            soft_start_steps=schedule.soft_start_epochs * steps(),
            annealing_steps=schedule.annealing_epochs * steps(),
            patience=schedule.patience_steps,
        )
        self._steps, self._state = steps, self._make()

    def rate(self, step: int, total: int) -> float:
        return self._state.rate(step)

    def stopped(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        self._state = self._make()
        for done, row in enumerate(rows, 1):
            self._state.validated(row["val_loss"], done * self._steps())
        return self._state.stopped


def learning_rates(config: Message, steps: Callable[[], int]) -> SoftStart | EarlyStopping:
    """Learning-rate schedule of a training config; `steps` says how many an epoch has, once the training begins."""
    if config.HasField("early_stopping_annealing_schedule"):
        return EarlyStopping(config.early_stopping_annealing_schedule, steps)
    if config.HasField("soft_start_annealing_schedule"):
        return SoftStart(config.soft_start_annealing_schedule)
    raise SpecError("training_config.learning_rate: expected soft_start_annealing_schedule or early_stopping_annealing_schedule.")
