"""Choosing channels and rewriting models without them."""

from typing import TYPE_CHECKING

from tlt_prune.faces import lazy_face

if TYPE_CHECKING:
    from tlt_prune.pruning.api import plan_pruning, prune_model
    from tlt_prune.pruning.plan import PruningPlan
    from tlt_prune.pruning.planning import decide
    from tlt_prune.pruning.schedule import PruningSteps, iterative_prune
    from tlt_prune.pruning.sensitivity import Sensitivity
    from tlt_prune.pruning.step_files import StepRecord

__all__ = [
    "PruningPlan",
    "PruningSteps",
    "Sensitivity",
    "StepRecord",
    "decide",
    "iterative_prune",
    "plan_pruning",
    "prune_model",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "api": ("plan_pruning", "prune_model"),
        "plan": ("PruningPlan",),
        "planning": ("decide",),
        "schedule": ("PruningSteps", "iterative_prune"),
        "sensitivity": ("Sensitivity",),
        "step_files": ("StepRecord",),
    },
)
