"""Sizes of a model at several thresholds, for choosing one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import pandas as pd

from tlt_prune.config import BUDGETS, OptionArguments, options_of, options_spelled_out
from tlt_prune.graph import KerasModel
from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.select.blocks import trace_for
from tlt_prune.pruning.select.select import bundle_scores, select

_STEPS = 20


def sweep(model: KerasModel, thresholds: Sequence[float] | None = None, **options: Unpack[OptionArguments]) -> pd.DataFrame:
    """Channels, parameters and MACs that each threshold leaves.

    Args:
        model: a functional or Sequential model. It is only read, once.
        thresholds: those to try; by default 20 between 0 and the largest score, and the smallest that removes anything.
        **options: the fields of `tlt_prune.Options` but the budgets.

    Returns:
        One row per threshold (the index): "channels", "parameters" and "MACs" that are left, MACs NaN where sizes are open;
        `frame.attrs["whole"]` has those of the whole model.

    Raises:
        PlanError: an option is unknown or out of range.
        UnsupportedModelError: the model has no graph.
    """
    arguments = {**options, **dict.fromkeys(BUDGETS)}
    first = options_of({**arguments, "threshold": 0.0})
    channels = trace_for(model, first)
    statistic = bundle_scores(channels, first)
    if thresholds is None:
        selection = select(channels, first, statistic)
        largest = float(selection.scores[-1]) if len(selection.scores) else 1.0
        values = {0.0, *np.round(np.linspace(0, largest, _STEPS + 1)[1:-1], 4).tolist()}
        if np.isfinite(selection.first_threshold):
            values.add(selection.first_threshold)
        thresholds = sorted(values)
    rows = []
    for threshold in thresholds:
        alive = select(channels, options_of({**arguments, "threshold": float(threshold)}), statistic).alive
        after = costs(channels, alive)
        left = sum(int(alive[p.labels].sum()) for p in channels.producers)
        rows.append((float(threshold), left, after.total_params, after.total_macs))
    frame = pd.DataFrame(rows, columns=["threshold", "channels", "parameters", "MACs"]).set_index("threshold")
    whole = costs(channels)
    filters = sum(len(p.labels) for p in channels.producers)
    frame.attrs["whole"] = {"channels": filters, "parameters": whole.total_params, "MACs": whole.total_macs}
    return frame


options_spelled_out(sweep, without=(*BUDGETS, "ranking"))
