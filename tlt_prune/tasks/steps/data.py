"""The data of a task: whether there is some to prune with, and pictures held out that were trained on.

Imports nothing that an extra brings at the top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlt_prune import extras
from tlt_prune.config import Spec
from tlt_prune.errors import MissingPackageError, SpecError
from tlt_prune.io import say
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tlt_prune.data import Stored


def refuse_dataset_path(spec: Spec, instead: str) -> None:
    """Raises SpecError where `evaluate.dataset_path` is given to a task that scores what other keys name."""
    if spec.evaluate.dataset_path:
        raise SpecError(
            f"evaluate.dataset_path (-i): with `task: {spec.task}`, {instead} names the held-out data. Expected none. Received: "
            f"{spec.evaluate.dataset_path!r}."
        )


def refuse_classmap(spec: Spec) -> None:
    """Raises SpecError where `inference.classmap` is given to a task whose classes have their names from elsewhere."""
    if spec.inference.classmap:
        raise SpecError(
            f"inference.classmap (-cm): with `task: {spec.task}`, the names of classes come with the model or from the spec. "
            f"Expected none. Received: {spec.inference.classmap!r}."
        )


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


def say_shared(train: NDArray[Any] | Stored, test: NDArray[Any] | Stored) -> None:
    """Says how many held-out pictures are training pictures too; both as a `data.Split` has them."""
    from tlt_prune.data import shared_images

    shared = shared_images(train, test)
    if shared:
        say(f"{shared} of the {len(test)} held-out pictures are training pictures too: scores will be too good.")
