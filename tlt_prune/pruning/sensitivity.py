"""Sensitivity of the metric to pruning each group of layers: a share of its channels switched off, one group at a time.

Li et al., "Pruning Filters for Efficient ConvNets", 2017, arXiv:1608.08710, section 3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd

from tlt_prune.config import BUDGETS, OptionArguments, Options, options_of, options_spelled_out
from tlt_prune.errors import PlanError
from tlt_prune.graph import KerasModel, Labels
from tlt_prune.io import progress
from tlt_prune.pruning import plots
from tlt_prune.pruning.cost.granularity import chosen_granularity
from tlt_prune.pruning.running.batches import Batches, UserData
from tlt_prune.pruning.running.switched_off import Metric, consumers, metric_of, metrics_without
from tlt_prune.pruning.select.blocks import trace_for
from tlt_prune.pruning.select.budgets import absolute, resource_of
from tlt_prune.pruning.select.groups import Grouping, grouping
from tlt_prune.pruning.select.ledger import Ledger
from tlt_prune.pruning.select.select import bundle_scores

RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sensitivity:
    """Sensitivity of a metric to pruning each group of layers.

    Attributes:
        frame: one row per group, named by its first layer, and one column per ratio: the metric with that share of the group
            switched off. NaN where a group is read inside one layer, so that it cannot be switched off from outside.
        whole: the metric of the whole model.
        metric: its name.
        layers: row -> all layers of the group.
        used: how much data it was.
    """

    frame: pd.DataFrame
    whole: float
    metric: str
    layers: Mapping[str, tuple[str, ...]]
    used: str
    _grouping: Grouping

    def __repr__(self) -> str:
        return f"<Sensitivity of {len(self.frame)} groups: {self.metric} {self.whole:.4f} on {self.used}>"

    def plot(self) -> Any:
        """A matplotlib figure: a heat map of what the metric loses."""
        return plots.draw_sensitivity(self.frame, self.whole, self.metric, self.layers)

    def layer_options(self, **budget: Any) -> dict[str, dict[str, float]]:
        """A ratio for each group, so that the model keeps to a budget and the sum of what the metric loses is small.

        Steps from one measured ratio to the next are taken in the order of metric lost for what is saved.

        Args:
            **budget: one of `params`, `macs`, `size_mb` and `latency_ms`, as for `tlt_prune.prune_model`; with the last, the
                `latency_table` as well.

        Returns:
            What `layer_options=` takes: `prune_model(model, macs=0.5, layer_options=sensitivities.layer_options(macs=0.5))`.

        Raises:
            PlanError: no ratios that were measured meet the budget.
        """
        options = options_of(budget)
        resource, amount = resource_of(options)
        ledger = Ledger(self._grouping, resource.terms(self._grouping.channels, options))
        target = absolute(resource, amount, ledger.total)
        ratios = [0.0, *self.frame.columns]
        loss = {row: [0.0, *(self.whole - self.frame.loc[row]).tolist()] for row in self.frame.index}
        at = dict.fromkeys(self.frame.index, 0)
        number = {row: g for g, row in enumerate(self.frame.index)}
        stuck: set[str] = {row for row in self.frame.index if self.frame.loc[row].isna().any()}
        while ledger.total > target * (1 + 1e-9):
            prices = {}
            for row in self.frame.index:
                if row in stuck or at[row] + 1 == len(ratios):
                    continue
                group = self._grouping.groups[number[row]]
                saved = -ledger.change(number[row], group.without_share(ratios[at[row] + 1]))
                # A step that saves nothing, because counts are rounded, is free.
                lost = max(loss[row][at[row] + 1] - loss[row][at[row]], 0.0)
                prices[row] = lost / saved if saved > 0 else 0.0
            if not prices:
                raise PlanError(
                    f"{resource.name}={amount}: with ratios up to {ratios[-1]} this model keeps at least "
                    f"{resource.shown(ledger.total)}. Expected a larger budget, or sensitivity of larger ratios."
                )
            row = min(prices, key=lambda x: prices[x])
            at[row] += 1
            ledger.set(number[row], self._grouping.groups[number[row]].without_share(ratios[at[row]]))
        return {layer: {"ratio": ratios[at[row]]} for row, layers in self.layers.items() for layer in layers}

    def _repr_html_(self) -> str:
        return f"<p>{self.metric} {self.whole:.4f} on {self.used}</p>{self.frame.round(4).to_html()}"


def sensitivity(
    model: KerasModel,
    data: UserData,
    ratios: Sequence[float] = RATIOS,
    *,
    metric: str | Metric = "accuracy",
    steps: int | None = None,
    batch_size: int = 64,
    **options: Unpack[OptionArguments],
) -> Sensitivity:
    """Measures the metric for every group at every ratio: its least important channels' consumers are given zero.

    Args:
        model: a functional or Sequential Keras model. It is only read.
        data: `(x, y)`: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        ratios: shares of the channels of a group, ascending, between 0 and 1.
        metric: "accuracy"; a Keras loss, by name or not, or metric; or a function `(labels, outputs) -> number`, the higher
            the better.
        steps: batches to read; None for all.
        batch_size: of arrays.
        **options: the fields of `tlt_prune.Options` but the budgets: `criterion` says which channels go first.

    Raises:
        PlanError: a ratio or an option is out of range, or the data or the metric does not fit the model.
    """
    if not len(ratios) or not all(0 < r < 1 for r in ratios) or list(ratios) != sorted(set(ratios)):
        raise PlanError(f"sensitivity: expected ascending ratios between 0 and 1. Received: {list(ratios)}.")
    budget = next((name for name in BUDGETS if options.get(name) is not None), None)
    if budget is not None:
        raise PlanError(f"sensitivity: expected no budget, but ratios=. Received: {budget}={options[budget]!r}.")  # type: ignore[literal-required]
    chosen: Options = options_of({**options, **dict.fromkeys(BUDGETS), "ratio": 0.5})
    channels = trace_for(model, chosen)
    name, function = metric_of(metric)
    batches = Batches(data, channels.graph, steps=steps, batch_size=batch_size, labeled=True, what="sensitivity")
    granularity = chosen_granularity(channels.graph, chosen.granularity)
    divided = grouping(channels, bundle_scores(channels, chosen), chosen, granularity)
    visible = consumers(channels).visible
    sets: list[Labels] = [np.zeros(0, np.int64)]
    places: list[tuple[int, int]] = []
    for g, group in enumerate(divided.groups):
        if visible[group.members].all():
            for column, ratio in enumerate(ratios):
                sets.append(group.members[group.without_share(ratio) :])
                places.append((g, column))
    with progress(len(sets), f"Sensitivity of {len(divided.groups)} groups on {batches}") as advance:
        values = metrics_without(channels, sets, batches, function, lambda i, value: advance())
    table = np.full((len(divided.groups), len(ratios)), np.nan)
    for place, value in zip(places, values[1:], strict=True):
        table[place] = value
    frame = pd.DataFrame(table, index=pd.Index([x.layers[0] for x in divided.groups], name="layer"), columns=list(ratios))
    layers = {x.layers[0]: x.layers for x in divided.groups}
    return Sensitivity(frame, values[0], name, layers, str(batches), divided)


options_spelled_out(sensitivity, without=BUDGETS)
