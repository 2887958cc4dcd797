"""Criteria: how much each filter matters. One file per family; a class that registers itself there is available by its name."""

from __future__ import annotations

from tlt_prune.config.registry import CRITERIA
from tlt_prune.errors import PlanError
from tlt_prune.pruning.criteria.network import Criterion

__all__ = ["criterion_of"]


def criterion_of(criterion: str | Criterion) -> Criterion:
    """The criterion that a name or an object says.

    Raises:
        PlanError: a name of one that needs data, or something that cannot be called.
    """
    if isinstance(criterion, str):
        entry = CRITERIA.find(criterion)
        if entry is None or entry.needs != "nothing":
            raise PlanError(
                f"criterion={criterion!r} needs data. Expected criterion=tlt_prune.criteria.{criterion}(data...), or, by "
                "script, a spec whose dataset can be read."
            )
        made: Criterion = entry.make()
        return made
    if isinstance(criterion, type):
        name = criterion.__name__
        raise PlanError(f"criterion: expected an instance. Received the class {name}: call it, {name}(...).")
    return criterion
