"""`prune_model` and `plan_pruning`: what most users call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Unpack

import keras

from tlt_prune.config.options import OptionArguments, Options, options_of, options_spelled_out
from tlt_prune.graph.channel_graph import ChannelGraph
from tlt_prune.graph.labels import Alive
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.compensation import compensate
from tlt_prune.pruning.cost.costs import by_row, costs
from tlt_prune.pruning.criteria.network import Scores
from tlt_prune.pruning.plan import LayerPlan, PruningPlan, quantiles
from tlt_prune.pruning.rewrite.law import check_law
from tlt_prune.pruning.rewrite.rewrite import rewrite
from tlt_prune.pruning.select.budgets import resource_of
from tlt_prune.pruning.select.ledger import charged
from tlt_prune.pruning.select.select import Selection, select


def plan_pruning(model: Any, **options: Unpack[OptionArguments]) -> PruningPlan:
    """Decides which channels of a model go, without building anything.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model. It is only read.
        **options: the fields of `tlt_prune.Options`: a budget (`threshold`, `ratio`, `params`, `macs`, `size_mb`
            or `latency_ms`), and how it is reached.

    Returns:
        The plan: `plan.kept`, `plan.to_frame()`, `plan.apply(model)`.

    Raises:
        PlanError: an option is unknown or out of range, options contradict each other, a name matches no layer, or
            the budget cannot be met.
        UnsupportedModelError: the model has no graph.
    """
    chosen = options_of(options)
    return plan_of(trace(model, chosen.channelwise_layers), chosen)[0]


def prune_model(
    model: Any,
    *,
    layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    compensation: Any = None,
    verify: bool = False,
    **options: Unpack[OptionArguments],
) -> keras.Model:
    """Returns a smaller model: `model` without its least important channels.

    Without `compensation` the result equals the original with the consumers' rows of every removed channel set to zero. A
    prune that removes next to nothing warns, and says why and what to do.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model. It stays as it is.
        layer_config_overrides: layer name, path or shell pattern -> configuration entries to replace in the pruned
            model, such as `{"conv1": {"kernel_regularizer": None}}`.
        compensation: what gives back to the rest what the removed channels contributed: "bias", `tlt_prune.Bias(data)`,
            `tlt_prune.LeastSquares(data)`, `tlt_prune.RecalibrateBatchNorm(data)`, or a list of them, in order.
        verify: check that equality on random inputs before compensating and returning.
        **options: the fields of `tlt_prune.Options`: a budget (`threshold`, `ratio`, `params`, `macs`, `size_mb`
            or `latency_ms`), and how it is reached.

    Returns:
        A model of the same kind and class (of tf_keras where it was one), with the same layer names and compile arguments.

    Raises:
        PlanError: an option is unknown or out of range, options contradict each other, a name matches no layer, or
            the budget cannot be met.
        UnsupportedModelError: the model has no graph, or a layer cannot be rebuilt.
        LawError: `verify` found a difference.
    """
    chosen = options_of(options)
    channels = trace(model, chosen.channelwise_layers)
    plan, alive = plan_of(channels, chosen)
    advice = plan.advice()
    if advice:
        warnings.warn(f"{plan.summary()}. {advice}", stacklevel=2)
    pruned: keras.Model = rewrite(channels, alive, layer_config_overrides)
    if verify:
        check_law(channels, alive, pruned)
    compensate(compensation, channels, alive, pruned)
    return pruned


options_spelled_out(plan_pruning)
options_spelled_out(prune_model)


def plan_of(channels: ChannelGraph, options: Options, statistic: Scores | None = None) -> tuple[PruningPlan, Alive]:
    """The plan for a traced model, and the `(n_labels,)` of it that stay; `statistic` is what `bundle_scores` said, if known."""
    selection = select(channels, options, statistic)
    alive = selection.alive
    before, after = costs(channels), costs(channels, alive)
    rows_before, rows_after = by_row(channels, before), by_row(channels, after)
    layers, kept = [], {}
    for producer in channels.producers:
        keep = alive[producer.labels].nonzero()[0]
        name = producer.name
        kept[name] = keep
        layers.append(
            LayerPlan(
                layer=name,
                kind=type(producer.call.op).__name__,
                filters_before=len(producer.labels),
                filters_after=len(keep),
                params_before=rows_before[name][0],
                params_after=rows_after[name][0],
                macs_before=rows_before[name][1],
                macs_after=rows_after[name][1],
                groups=selection.group[name],
                note=_note(name, selection),
            )
        )
    settings = options.model_dump(exclude_none=True)
    if not options.layer_options:
        del settings["layer_options"]
    if options.excluded_layers:
        # Classes cannot be written into a file: the layers that they and the patterns named.
        settings["excluded_layers"] = selection.excluded
    if options.granularity == "auto":
        settings["granularity"] = selection.granularity
    latency = _latency(channels, alive, options)
    plan = PruningPlan(
        model_name=channels.graph.model.name,
        kept=kept,
        layers=tuple(layers),
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
        settings=settings,
        unknown=dict(channels.unknown),
        frozen=tuple(sorted({*channels.bundles.frozen.values()} - {"model input", "model output", "a single channel"})),
    )
    return plan, alive


def _latency(channels: ChannelGraph, alive: Alive, options: Options) -> tuple[float | None, float | None]:
    """Predicted, before and after, where the budget is one of latency."""
    if options.latency_ms is None:
        return None, None
    terms = resource_of(options)[0].terms(channels, options)
    return charged(terms), charged(terms, alive)


def _note(name: str, selection: Selection) -> str:
    notes = []
    if name in selection.reason:
        notes.append(f"frozen: {selection.reason[name]}")
    if name in selection.held:
        notes.append(selection.held[name])
    if name in selection.approximate and selection.group[name]:
        notes.append(f"approximate: {selection.approximate[name]}")
    return "; ".join(notes)
