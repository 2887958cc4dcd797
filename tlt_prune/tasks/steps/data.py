"""Whether a task has examples to prune with. Imports nothing that an extra brings."""

from __future__ import annotations

from tlt_prune import extras
from tlt_prune.errors import MissingPackageError, SpecError
from tlt_prune.io import say
from tlt_prune.tasks.task import Task


def has_examples(task: Task, *, required: bool) -> bool:
    """Whether the spec names data and the packages that read it are installed; where not, prints what follows from that.

    Raises:
        SpecError: there is no data, and it is `required`.
        MissingPackageError: a package is missing, and data is `required`.
    """
    if not task.has_data:
        if required:
            raise SpecError(
                "prune: what is asked for needs data. Expected a spec (-e) whose dataset.train_dataset_path is the model's "
                "training data."
            )
        say("No dataset is given (-e spec): pruned by norms, as the toolkit does, and nothing is compensated.")
        return False
    try:
        extras.require("train", "tlt-prune with a dataset")
    except MissingPackageError as error:
        if required:
            raise
        say(f"{error} Without: pruned by norms, as the toolkit does, and nothing is compensated.")
        return False
    return True
