"""The criterion and the compensation of a spec, with the task's data, and the defaults where it has data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tlt_prune.config import COMPENSATIONS, CRITERIA, Options, Registry
from tlt_prune.tasks.task import Examples, Task

if TYPE_CHECKING:
    from tlt_prune.onnx import Predictor


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """The criterion and the compensations of a prune.

    Attributes:
        options: with a criterion that is ready to be used.
        compensation: as for `tlt_prune.prune_model`.
    """

    options: Options
    compensation: list[Any]


def choose(task: Task, predictor: Predictor) -> Choice:
    """Fills in "auto", and gives data to what takes it.

    With a dataset in the spec, a budget for the whole network is met by Fisher's scores, and the consumers are fitted again by
    least squares. A threshold or a ratio stays the toolkit's rule on norms.

    Raises:
        SpecError: something needs data that the spec does not have, or the dataset is not the model's.
    """
    prune = task.spec.prune
    wanted = prune.compensation if isinstance(prune.compensation, tuple) else (prune.compensation,)
    with_data = (*CRITERIA.names("inputs", "loss", "metric"), *COMPENSATIONS.names("inputs", "loss", "metric"))
    needed = {prune.criterion, *wanted} & {*with_data}
    examples: Examples | None = None
    if needed or "auto" in (prune.criterion, *wanted):
        examples = task.examples(predictor, required=bool(needed))
    options = prune.options
    if options.granularity == "auto":
        options = options.model_copy(update={"granularity": _of_export(task, predictor)})
    criterion: Any = prune.criterion
    by_norm = options.threshold is not None or options.ratio is not None
    if criterion == "auto":
        criterion = "L2" if by_norm or examples is None else "Fisher"
    if criterion in with_data:
        criterion = _made(CRITERIA, criterion, examples)
    automatic = "least_squares" if examples is not None else "none"
    names = [automatic if name == "auto" else name for name in wanted]
    compensation = [_made(COMPENSATIONS, name, examples) for name in names if name != "none"]
    return Choice(options.model_copy(update={"criterion": criterion}), compensation)


def _of_export(task: Task, predictor: Predictor) -> int:
    """The granularity of the number format that the spec exports in, where that wants more than the model's own."""
    from tlt_prune import graph
    from tlt_prune.export.formats.registry import DATA_TYPES
    from tlt_prune.pruning.cost import GRANULARITY, granularity_of

    assert predictor.model is not None, "a Keras file has a model"
    return max(granularity_of(graph.read(predictor.model)), GRANULARITY[DATA_TYPES[task.spec.export.data_type]])


def _made(registry: Registry, name: str, examples: Examples | None) -> Any:
    entry = registry.find(name)
    assert entry is not None
    return entry.make(examples)
