"""Running a model that is pruned on data."""

from tlt_prune.pruning.running.batches import Batches

__all__ = [
    "Batches",
]
