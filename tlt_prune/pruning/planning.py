"""The decision: scores, counts and costs of a traced model become a `PruningPlan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.config import Options
from tlt_prune.graph import Alive, ChannelGraph, chosen_blocks
from tlt_prune.graph.channel_graph import Producer, made_roots
from tlt_prune.pruning.cost.costs import Costs, by_row, costs
from tlt_prune.pruning.cost.terms import charged
from tlt_prune.pruning.criteria.network import FilterScores
from tlt_prune.pruning.pipeline import Outcome, carry_out
from tlt_prune.pruning.plan import LayerPlan, PruningPlan
from tlt_prune.pruning.report import quantiles
from tlt_prune.pruning.select.budgets import resource_of
from tlt_prune.pruning.select.select import Selection, select


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """A plan for a traced model.

    Attributes:
        channels: the traced model.
        plan: for people and files.
        alive: `(n_labels,)`, True where a channel is retained.
    """

    channels: ChannelGraph
    plan: PruningPlan
    alive: Alive

    def carry_out(self, **arguments: Any) -> Outcome:
        """Makes the smaller model; `arguments` as for `pipeline.carry_out`."""
        return carry_out(self.channels, self.alive, **arguments)


def decide(
    channels: ChannelGraph,
    options: Options,
    statistic: FilterScores | None = None,
    weights: Sequence[float] | None = None,
) -> Decision:
    """Decides which channels of a traced model stay.

    Args:
        channels: the traced model.
        options: how much goes and how it is decided.
        statistic: result of `bundle_scores` for this model and these options, where it is at hand.
        weights: for each group how large the share that goes is beside that of the others, in place of a ranking.

    Raises:
        PlanError: as for `tlt_prune.plan_pruning`.
    """
    selection = select(channels, options, statistic, weights)
    alive = selection.alive
    before, after = costs(channels.original), costs(channels, alive)
    latency = _latency(channels, alive, options)
    plan = PruningPlan(
        model_name=channels.graph.model.name,
        kept={
            **{p.name: np.zeros(0, np.int64) for p in channels.original.producers},
            **{p.name: alive[p.labels].nonzero()[0] for p in channels.producers},
        },
        layers=_layer_plans(channels, selection, before, after),
        params_before=before.total_params,
        params_after=after.total_params,
        macs_before=before.total_macs,
        macs_after=after.total_macs,
        size_mb_before=before.size_mb,
        size_mb_after=after.size_mb,
        latency_ms_before=latency[0],
        latency_ms_after=latency[1],
        scores=quantiles(selection.scores),
        first_threshold=selection.first_threshold,
        settings=_settings(options, selection, channels.left_out),
        unknown=dict(channels.unknown),
        frozen=_reasons(channels),
    )
    return Decision(channels, plan, alive)


def _reasons(channels: ChannelGraph) -> tuple[str, ...]:
    """Why channels that some layer makes may not go, each reason once; of a model without such layers why nothing may."""
    frozen, made = channels.bundles.frozen, made_roots(channels.bundles, channels.producers).tolist()
    reasons = {frozen[x] for x in made if x in frozen} if made else {*frozen.values()}
    return tuple(sorted(reasons - {"model input", "model output", "a single channel"}))


def _layer_plans(channels: ChannelGraph, selection: Selection, before: Costs, after: Costs) -> tuple[LayerPlan, ...]:
    whole = channels.original
    rows_before, rows_after = by_row(whole, before), by_row(channels, after)
    left = {p.name: p for p in channels.producers}
    block_of = _blocks_of_layers(channels)

    def plan_of(producer: Producer) -> LayerPlan:
        name, stays = producer.name, left.get(producer.name)
        return LayerPlan(
            layer=name,
            kind=type(producer.call.op).__name__,
            filters_before=len(producer.labels),
            filters_after=int(selection.alive[stays.labels].sum()) if stays is not None else 0,
            params_before=rows_before[name][0],
            params_after=rows_after[name][0] if stays is not None else 0,
            macs_before=rows_before[name][1],
            macs_after=rows_after[name][1] if stays is not None else 0.0,
            groups=selection.group[name] if stays is not None else (),
            note=_note(name, selection) if stays is not None else f"goes with the block {block_of[id(producer.call.op)]}",
        )

    return tuple(plan_of(producer) for producer in whole.producers)


def _blocks_of_layers(channels: ChannelGraph) -> dict[int, str]:
    """`id` of each layer that is left out -> name of its residual block."""
    if channels.whole is None:
        return {}
    blocks = chosen_blocks(channels.whole.graph, channels.left_out)
    return {id(call.op): block.name for block in blocks for call in block.branch}


def _settings(options: Options, selection: Selection, left_out: tuple[str, ...]) -> dict[str, Any]:
    """The options of a plan, with what "auto" and classes came to."""
    settings = options.model_dump(exclude_none=True)
    if not options.layer_options:
        del settings["layer_options"]
    if options.excluded_layers:
        # Classes cannot be written into a file: the layers that they and the patterns named.
        settings["excluded_layers"] = selection.excluded
    if left_out:
        settings["blocks"] = left_out
    else:
        del settings["blocks"]
    if options.granularity == "auto":
        settings["granularity"] = selection.granularity
    return settings


def _latency(channels: ChannelGraph, alive: Alive, options: Options) -> tuple[float | None, float | None]:
    """Predicted, before and after, where the budget is one of latency."""
    if options.latency_ms is None:
        return None, None
    resource = resource_of(options)[0]
    terms = resource.terms(channels, options)
    whole = terms if channels.whole is None else resource.terms(channels.whole, options)
    return charged(whole), charged(terms, alive)


def _note(name: str, selection: Selection) -> str:
    notes = []
    if name in selection.reason:
        notes.append(f"frozen: {selection.reason[name]}")
    if name in selection.held:
        notes.append(selection.held[name])
    if name in selection.approximate and selection.group[name]:
        notes.append(f"approximate: {selection.approximate[name]}")
    return "; ".join(notes)
