"""Giving back what removed channels contributed: what a prune may be followed by.

A compensation is called with the traced original, what stays of it, and the pruned model, whose weights it changes; it returns
a table of what it did where, and why not elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from tlt_prune.config import COMPENSATIONS
from tlt_prune.errors import PlanError
from tlt_prune.graph import Alive, ChannelGraph, KerasModel
from tlt_prune.pruning.compensation.batch_norm import RecalibrateBatchNorm, recalibrate_batch_norm
from tlt_prune.pruning.compensation.bias import Bias
from tlt_prune.pruning.compensation.least_squares import LeastSquares

__all__ = [
    "Bias",
    "Compensation",
    "Compensations",
    "LeastSquares",
    "RecalibrateBatchNorm",
    "compensate",
    "recalibrate_batch_norm",
]

Compensation = Callable[[ChannelGraph, Alive, KerasModel], pd.DataFrame]
Compensations = str | Compensation | Sequence[str | Compensation]
"""A compensation, the name of one that needs no data, or several of them in order."""


def compensate(compensation: Compensations | None, channels: ChannelGraph, alive: Alive, pruned: KerasModel) -> pd.DataFrame:
    """Applies what `compensation=` says: the name of one that needs no data, an object, several of them in order, or None.

    Returns:
        A row a layer and step: "compensation", "layer", "done" and "note".

    Raises:
        PlanError: it is none of these.
    """
    frames = [pd.DataFrame(columns=["compensation", "layer", "done", "note"])]
    for each in _several(compensation):
        one = _by_name(each) if isinstance(each, str) else each
        if not callable(one) or isinstance(one, type):
            names = ", ".join(f'"{x}"' for x in COMPENSATIONS.names("nothing"))
            raise PlanError(
                f"compensation: expected {names}, tlt_prune.Bias(), tlt_prune.LeastSquares(data), "
                f"tlt_prune.RecalibrateBatchNorm(data), or a list of them. Received: {each!r}."
            )
        frame = one(channels, alive, pruned)
        frames.append(frame.assign(compensation=type(one).__name__))
    return pd.concat([x for x in frames if len(x)] or frames, ignore_index=True)


def _by_name(name: str) -> Any:
    """A compensation that needs no data; None for another name."""
    entry = COMPENSATIONS.find(name)
    return entry.make() if entry is not None and entry.needs == "nothing" else None


def _several(compensation: Compensations | None) -> Sequence[Any]:
    if compensation is None or compensation == "none":
        return ()
    return tuple(compensation) if isinstance(compensation, (list, tuple)) else (compensation,)
