"""`prune_model` and `plan_pruning`: what most users call."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tlt_prune.graph.channels import ChannelGraph, trace
from tlt_prune.pruning.costs import costs
from tlt_prune.pruning.granularity import granularity_of
from tlt_prune.pruning.law import check_law
from tlt_prune.pruning.plan import LayerPlan, PruningPlan
from tlt_prune.pruning.rewrite import rewrite
from tlt_prune.pruning.select import Options, Selection, select


def plan_pruning(
    model: Any,
    *,
    threshold: float | None = None,
    ratio: float | None = None,
    criterion: str = "L2",
    normalizer: str = "max",
    equalization_criterion: str = "union",
    granularity: int | Literal["auto"] = 8,
    min_num_filters: int = 16,
    excluded_layers: Sequence[str | type] = (),
    channelwise_layers: Sequence[str] = (),
) -> PruningPlan:
    """Decides which channels of a model go, without building anything.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model. It is only read.
        threshold: keep the filters whose normalised score is strictly above it: the toolkit's way.
        ratio: share of the channels to remove in each group, 0 <= ratio < 1. Give one of the two.
        criterion: "L2" (the toolkit's `min_weight`) or "L1" norm of each filter's kernel.
        normalizer: "max" divides by the layer's largest score, "L2" by the norm of the scores times
            their number, "off" leaves them as they are.
        equalization_criterion: how layers that must keep the same channels agree: "union" (max),
            "intersection" (min), "arithmetic_mean" or "geometric_mean" of their scores.
        granularity: retained counts are multiples of it, where the layer's width is; "auto" takes it
            from the model's dtype policy (see `tlt_prune.pruning.granularity`).
        min_num_filters: fewest filters a layer keeps.
        excluded_layers: names, paths, shell patterns or types of layers whose channels all stay.
        channelwise_layers: names or shell patterns of Lambda or custom layers that treat every channel by
            itself; without it, or a registered rule, such layers freeze what enters them.

    Returns:
        The plan: `plan.kept`, `plan.to_frame()`, `plan.apply(model)`.

    Raises:
        PlanError: the arguments contradict each other or name no layer.
        UnsupportedModelError: the model has no graph.
    """
    options = _options(
        model,
        granularity,
        excluded_layers,
        channelwise_layers,
        threshold=threshold,
        ratio=ratio,
        criterion=criterion,
        normalizer=normalizer,
        equalization_criterion=equalization_criterion,
        min_num_filters=min_num_filters,
    )
    return _plan(trace(model, options.channelwise_layers), options)[0]


def prune_model(
    model: Any,
    *,
    threshold: float | None = None,
    ratio: float | None = None,
    criterion: str = "L2",
    normalizer: str = "max",
    equalization_criterion: str = "union",
    granularity: int | Literal["auto"] = 8,
    min_num_filters: int = 16,
    excluded_layers: Sequence[str | type] = (),
    channelwise_layers: Sequence[str] = (),
    layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    verify: bool = False,
) -> Any:
    """Returns a smaller model: `model` without its least important channels.

    The result equals the original with the consumers' rows of every removed channel set to zero. A
    prune that removes nothing warns and says why.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model. It stays as it is.
        threshold, ratio, criterion, normalizer, equalization_criterion, granularity, min_num_filters,
            excluded_layers, channelwise_layers: as in `plan_pruning`.
        layer_config_overrides: layer name -> configuration entries to replace in the pruned model,
            such as `{"conv1": {"kernel_regularizer": None}}`.
        verify: check that equality on random inputs before returning.

    Returns:
        A model of the same kind, with the same layer names and compile arguments.

    Raises:
        PlanError: the arguments contradict each other or name no layer.
        UnsupportedModelError: the model has no graph, or a layer cannot be rebuilt.
        LawError: `verify` found a difference.
    """
    options = _options(
        model,
        granularity,
        excluded_layers,
        channelwise_layers,
        threshold=threshold,
        ratio=ratio,
        criterion=criterion,
        normalizer=normalizer,
        equalization_criterion=equalization_criterion,
        min_num_filters=min_num_filters,
    )
    channels = trace(model, options.channelwise_layers)
    plan, selection = _plan(channels, options)
    if not plan.removed:
        warnings.warn(plan.summary(), stacklevel=2)
    pruned = rewrite(channels, selection.alive, layer_config_overrides)
    if verify:
        check_law(channels, selection.alive, pruned)
    return pruned


def _options(
    model: Any,
    granularity: int | Literal["auto"],
    excluded_layers: Sequence[str | type] | str | type,
    channelwise_layers: Sequence[str] | str,
    **others: Any,
) -> Options:
    """The arguments as selection takes them: one name is a list of one, "auto" is a number."""
    excluded = (excluded_layers,) if isinstance(excluded_layers, (str, type)) else tuple(excluded_layers)
    channelwise = (channelwise_layers,) if isinstance(channelwise_layers, str) else tuple(channelwise_layers)
    return Options(
        granularity=granularity_of(model) if granularity == "auto" else granularity,
        excluded_layers=excluded,
        channelwise_layers=channelwise,
        **others,
    )


def _plan(channels: ChannelGraph, options: Options) -> tuple[PruningPlan, Selection]:
    family = channels.graph.family
    selection = select(channels, lambda op: [family.numpy(w) for w in family.weights(op)], options)
    alive = selection.alive
    before, after = costs(channels), costs(channels, alive)
    layers, kept = [], {}
    for producer in channels.producers:
        keep = alive[producer.labels].nonzero()[0]
        key, name = id(producer.call.op), producer.name
        kept[name] = keep
        layers.append(
            LayerPlan(
                layer=name,
                kind=type(producer.call.op).__name__,
                filters_before=len(producer.labels),
                filters_after=len(keep),
                params_before=before.params[key],
                params_after=after.params[key],
                macs_before=before.macs.get(key, 0.0),
                macs_after=after.macs.get(key, 0.0),
                groups=selection.group[name],
                note=_note(name, selection),
            )
        )
    plan = PruningPlan(
        model_name=channels.graph.model.name,
        kept=kept,
        layers=tuple(layers),
        params_before=before.total_params,
        params_after=after.total_params,
        macs_before=before.total_macs,
        macs_after=after.total_macs,
        settings={k: v for k, v in dataclasses.asdict(options).items() if v is not None},
        unknown=dict(channels.unknown),
    )
    return plan, selection


def _note(name: str, selection: Selection) -> str:
    notes = []
    if name in selection.reason:
        notes.append(f"frozen: {selection.reason[name]}")
    if name in selection.approximate and selection.group[name]:
        notes.append(f"approximate: {selection.approximate[name]}")
    return "; ".join(notes)
