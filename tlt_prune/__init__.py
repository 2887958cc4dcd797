"""Structured pruning of Keras models: `prune_model(model, threshold=0.3)`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tlt_prune.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from tlt_prune.errors import TltPruneError
    from tlt_prune.graph.call_trace import CallTrace
    from tlt_prune.graph.rules import register_rule
    from tlt_prune.options import Options
    from tlt_prune.pruning.api import plan_pruning, prune_model
    from tlt_prune.pruning.plan import PruningPlan
    from tlt_prune.pruning.sweep import sweep

_HOMES = {
    "CallTrace": "tlt_prune.graph.call_trace",
    "Options": "tlt_prune.options",
    "PruningPlan": "tlt_prune.pruning.plan",
    "TltPruneError": "tlt_prune.errors",
    "plan_pruning": "tlt_prune.pruning.api",
    "prune_model": "tlt_prune.pruning.api",
    "register_rule": "tlt_prune.graph.rules",
    "sweep": "tlt_prune.pruning.sweep",
}

__all__ = ["CallTrace", "Options", "PruningPlan", "TltPruneError", "plan_pruning", "prune_model", "register_rule", "sweep"]


def __getattr__(name: str) -> Any:
    # Importing the package must not load a framework: it is imported to read a version or a spec, too.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tlt_prune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
