"""A training as a spec describes it: what `tlt-train` does, and `tlt-prune` between the steps of a schedule."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tlt_prune.io.console import say
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    from tlt_prune.training import TrainResult


def run_training(task: Task, folder: pathlib.Path, *, restart: bool) -> TrainResult:
    """Trains into `folder`, or goes on with what is there.

    Raises:
        TltPruneError: something in the spec, the model or the data does not fit.
    """
    from tlt_prune import training

    result = training.train(task.training(folder), folder, restart=restart, say=say)
    task.finish_training(result, folder)
    return result
