"""Structured pruning of Keras models: `prune_model(model, threshold=0.3)`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tlt_prune.io.registration import register_with_keras
from tlt_prune.version import VERSION

__version__ = VERSION

register_with_keras()

if TYPE_CHECKING:
    from tlt_prune import config, criteria, data, detection, errors, export, models, quantization, training
    from tlt_prune.config.options import Options
    from tlt_prune.errors import TltPruneError
    from tlt_prune.graph.call_trace import CallTrace
    from tlt_prune.graph.rules import register_rule
    from tlt_prune.pruning.api import plan_pruning, prune_model
    from tlt_prune.pruning.compensation import Bias, LeastSquares, RecalibrateBatchNorm, recalibrate_batch_norm
    from tlt_prune.pruning.depth import BlockSensitivity, block_sensitivity, remove_blocks
    from tlt_prune.pruning.plan import PruningPlan
    from tlt_prune.pruning.schedule import iterative_prune
    from tlt_prune.pruning.search import SearchResult, search
    from tlt_prune.pruning.sensitivity import Sensitivity, sensitivity
    from tlt_prune.pruning.sweep import sweep
    from tlt_prune.tasks.steps.latency import write_latency_script
    from tlt_prune.training.retraining import retrain

_HOMES = {
    "Bias": "tlt_prune.pruning.compensation",
    "BlockSensitivity": "tlt_prune.pruning.depth",
    "CallTrace": "tlt_prune.graph.call_trace",
    "LeastSquares": "tlt_prune.pruning.compensation",
    "Options": "tlt_prune.config.options",
    "PruningPlan": "tlt_prune.pruning.plan",
    "RecalibrateBatchNorm": "tlt_prune.pruning.compensation",
    "SearchResult": "tlt_prune.pruning.search",
    "Sensitivity": "tlt_prune.pruning.sensitivity",
    "TltPruneError": "tlt_prune.errors",
    "block_sensitivity": "tlt_prune.pruning.depth",
    "iterative_prune": "tlt_prune.pruning.schedule",
    "plan_pruning": "tlt_prune.pruning.api",
    "prune_model": "tlt_prune.pruning.api",
    "recalibrate_batch_norm": "tlt_prune.pruning.compensation",
    "register_rule": "tlt_prune.graph.rules",
    "remove_blocks": "tlt_prune.pruning.depth",
    "retrain": "tlt_prune.training.retraining",
    "search": "tlt_prune.pruning.search",
    "sensitivity": "tlt_prune.pruning.sensitivity",
    "sweep": "tlt_prune.pruning.sweep",
    "write_latency_script": "tlt_prune.tasks.steps.latency",
}

_MODULES = ("config", "criteria", "data", "detection", "errors", "export", "models", "quantization", "training")

__all__ = [
    "Bias",
    "BlockSensitivity",
    "CallTrace",
    "LeastSquares",
    "Options",
    "PruningPlan",
    "RecalibrateBatchNorm",
    "SearchResult",
    "Sensitivity",
    "TltPruneError",
    "block_sensitivity",
    "config",
    "criteria",
    "data",
    "detection",
    "errors",
    "export",
    "iterative_prune",
    "models",
    "plan_pruning",
    "prune_model",
    "quantization",
    "recalibrate_batch_norm",
    "register_rule",
    "remove_blocks",
    "retrain",
    "search",
    "sensitivity",
    "sweep",
    "training",
    "write_latency_script",
]


def __getattr__(name: str) -> Any:
    # Importing the package must not load a framework: it is imported to read a version or a spec, too.
    if name in _HOMES or name in _MODULES:
        module = importlib.import_module(_HOMES.get(name, f"tlt_prune.{name}"))
        register_with_keras()
        return getattr(module, name) if name in _HOMES else module
    raise AttributeError(f"module 'tlt_prune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
