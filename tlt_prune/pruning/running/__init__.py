"""Running a model that is pruned on data."""

from tlt_prune.pruning.running.batches import Batches, progress

__all__ = [
    "Batches",
    "progress",
]
