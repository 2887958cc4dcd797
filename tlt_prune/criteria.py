"""What a filter is worth: the pieces for `criterion=`.

Without data: `L2` (the toolkit's), `L1`, `Linf`, `FPGM`, `BNScale`, `LAMP`, `Random`; also by name, `criterion="FPGM"`.
With data: `Taylor(data, loss)`, `Fisher(data, loss)`, `Activation(data)`, `APoZ(data)`, `Ablation(data, metric)`.
Your own: any function of a `Network`; see `Criterion`.
"""

from tlt_prune.pruning.criteria import FPGM, L1, L2, LAMP, Ablation, Activation, APoZ, BNScale, Fisher, Linf, Random, Taylor
from tlt_prune.pruning.criteria.network import Criterion, Filters, Network

__all__ = [
    "FPGM",
    "L1",
    "L2",
    "LAMP",
    "APoZ",
    "Ablation",
    "Activation",
    "BNScale",
    "Criterion",
    "Filters",
    "Fisher",
    "Linf",
    "Network",
    "Random",
    "Taylor",
]
