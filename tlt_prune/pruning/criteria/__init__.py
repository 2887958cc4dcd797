"""Criteria: how much each filter matters. One file per family; a class that registers itself there is available by its name."""

from __future__ import annotations

from typing import Any

from tlt_prune.config.registry import CRITERIA
from tlt_prune.errors import PlanError

__all__ = ["criterion_of"]


def criterion_of(said: Any) -> Any:
    """The criterion that a name or an object says.

    Raises:
        PlanError: a name of one that needs data, or something that cannot be called.
    """
    if isinstance(said, str):
        entry = CRITERIA.find(said)
        if entry is None or entry.needs != "nothing":
            raise PlanError(
                f"criterion={said!r} needs data. Expected criterion=tlt_prune.criteria.{said}(data...), or, by script, a spec "
                "whose dataset can be read."
            )
        return entry.make()
    if isinstance(said, type):
        raise PlanError(f"criterion: expected an instance. Received the class {said.__name__}: call it, {said.__name__}(...).")
    return said
