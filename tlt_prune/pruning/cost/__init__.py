"""Parameters, MACs and latency of a model."""

from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.cost.granularity import GRANULARITY, chosen_granularity, granularity_of
from tlt_prune.pruning.cost.latency import table_at

__all__ = [
    "GRANULARITY",
    "chosen_granularity",
    "costs",
    "granularity_of",
    "table_at",
]
