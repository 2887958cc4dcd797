"""Criteria: how much each filter matters. One file a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tlt_prune.errors import PlanError
from tlt_prune.pruning.criteria.ablation import Ablation
from tlt_prune.pruning.criteria.activations import Activation, APoZ
from tlt_prune.pruning.criteria.gradients import Fisher, Taylor
from tlt_prune.pruning.criteria.norms import FPGM, L1, L2, LAMP, Linf
from tlt_prune.pruning.criteria.other import BNScale, Random

__all__ = [
    "FPGM",
    "L1",
    "L2",
    "LAMP",
    "WITHOUT_DATA",
    "APoZ",
    "Ablation",
    "Activation",
    "BNScale",
    "Fisher",
    "Linf",
    "Random",
    "Taylor",
    "criterion_of",
]

WITHOUT_DATA: dict[str, Callable[[], Any]] = {
    "L2": L2,
    "L1": L1,
    "Linf": Linf,
    "FPGM": FPGM,
    "BNScale": BNScale,
    "LAMP": LAMP,
    "Random": Random,
}


def criterion_of(said: Any) -> Any:
    """The criterion that a name or an object says.

    Raises:
        PlanError: a name of one that needs data, or something that cannot be called.
    """
    if isinstance(said, str):
        if said not in WITHOUT_DATA:
            raise PlanError(
                f"criterion={said!r} needs data. Expected criterion=tlt_prune.criteria.{said}(data...), or, by script, a spec "
                "whose dataset can be read."
            )
        return WITHOUT_DATA[said]()
    if isinstance(said, type):
        raise PlanError(f"criterion: expected an instance. Received the class {said.__name__}: call it, {said.__name__}(...).")
    return said
