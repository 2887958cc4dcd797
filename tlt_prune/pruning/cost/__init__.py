"""Parameters, MACs and latency of a model."""

from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.cost.granularity import chosen_granularity
from tlt_prune.pruning.cost.latency import table_at

__all__ = [
    "chosen_granularity",
    "costs",
    "table_at",
]
