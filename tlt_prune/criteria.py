"""Criteria, which say what a filter is worth: the pieces for `criterion=`.

Without data: `L2` (the toolkit's), `L1`, `Linf`, `FPGM`, `BNScale`, `LAMP`, `Random`; also by name, `criterion="FPGM"`.
With data: `Taylor(data, loss)`, `Fisher(data, loss)`, `Activation(data)`, `APoZ(data)`, `Ablation(data, metric)`.
Your own: any function of a `Network`, see `Criterion`; `register` gives a class a name.
"""

from typing import TYPE_CHECKING, Any

from tlt_prune.config.registry import CRITERIA
from tlt_prune.pruning.criteria.network import Criterion, Filters, Network

if TYPE_CHECKING:
    # For editors; at run time the registry answers, of these and of any other that is registered.
    from tlt_prune.pruning.criteria.ablation import Ablation
    from tlt_prune.pruning.criteria.activations import Activation, APoZ
    from tlt_prune.pruning.criteria.gradients import Fisher, Taylor
    from tlt_prune.pruning.criteria.norms import FPGM, L1, L2, LAMP, Linf
    from tlt_prune.pruning.criteria.other import BNScale, Random

    __all__ = [
        "FPGM", "L1", "L2", "LAMP", "APoZ", "Ablation", "Activation", "BNScale", "Criterion", "Filters", "Fisher", "Linf",
        "Network", "Random", "Taylor", "register",
    ]  # fmt: skip
else:
    __all__ = [*CRITERIA.names(), "Criterion", "Filters", "Network", "register"]

register = CRITERIA.register


def __getattr__(name: str) -> Any:
    entry = CRITERIA.find(name) if name in CRITERIA.names() else None
    if entry is None:
        raise AttributeError(f"module 'tlt_prune.criteria' has no attribute {name!r}")
    return entry.cls


def __dir__() -> list[str]:
    return sorted({*globals(), *CRITERIA.names()})
