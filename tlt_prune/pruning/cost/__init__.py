"""Parameters, MACs and latency of a model."""

from tlt_prune.pruning.cost import measure_latency
from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.cost.device_latency import DeviceTable
from tlt_prune.pruning.cost.granularity import GRANULARITY, chosen_granularity, granularity_of
from tlt_prune.pruning.cost.latency import table_at
from tlt_prune.pruning.cost.layer_shapes import key_of, key_of_model, layers_of_model, layers_to_measure

__all__ = [
    "GRANULARITY",
    "DeviceTable",
    "chosen_granularity",
    "costs",
    "granularity_of",
    "key_of",
    "key_of_model",
    "layers_of_model",
    "layers_to_measure",
    "measure_latency",
    "table_at",
]
