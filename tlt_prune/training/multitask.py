"""The objective of multitask classification: cross-entropy for each task, over the examples whose label is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlt_prune.config import Train
from tlt_prune.training.distillation import Distillation, LabelAccuracy
from tlt_prune.training.objective import Objective, classification


def multitask_classification(config: Train, tasks: Sequence[str]) -> Objective:
    """The sum of the tasks' cross-entropies, as in the toolkit; the best epoch has the best mean accuracy over the tasks.

    Args:
        config: the `train` section of a spec.
        tasks: names of the outputs, in their order.
    """
    alone = classification(config)

    def compile_arguments() -> dict[str, Any]:
        weight = config.distill.alpha if config.distill.teacher else 0.0
        losses = [Distillation(weight, config.distill.temperature, config.label_smoothing) for _ in tasks]
        metrics = [[LabelAccuracy(name="accuracy")] for _ in tasks]
        return {"loss": losses, "metrics": metrics} if len(tasks) > 1 else {"loss": losses[0], "metrics": metrics[0]}

    return Objective(
        compile_arguments,
        alone.rate,
        label="mean accuracy" if len(tasks) > 1 else alone.label,
        stopped=alone.stopped,
        rate_for=alone.rate_for,
        summary=lambda logs: mean_accuracy(logs, tasks),
    )


def mean_accuracy(logs: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    """The mean of the tasks' accuracies in the logs, in training and in validation; one task alone has its own there."""
    found = {}
    for prefix in ("", "val_"):
        values = [logs[key] for task in tasks if (key := f"{prefix}{task}_accuracy") in logs]
        if values:
            found[f"{prefix}accuracy"] = sum(values) / len(values)
    return found
