"""`prune_model` and `plan_pruning`: what most users call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Unpack

import keras

from tlt_prune.config import OptionArguments, options_of, options_spelled_out
from tlt_prune.graph import KerasModel
from tlt_prune.pruning.compensation import Compensations
from tlt_prune.pruning.plan import PruningPlan
from tlt_prune.pruning.planning import decide
from tlt_prune.pruning.select.blocks import trace_for


def plan_pruning(model: KerasModel, **options: Unpack[OptionArguments]) -> PruningPlan:
    """Decides which channels of a model go, without building anything.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model, or a subclassed Keras 3 model that is built. It is only read.
        **options: the fields of `tlt_prune.Options`: a budget (`threshold`, `ratio`, `params`, `macs`, `size_mb`
            or `latency_ms`), and how it is reached.

    Returns:
        The plan: `plan.kept`, `plan.to_frame()`, `plan.apply(model)`.

    Raises:
        PlanError: an option is unknown or out of range, options contradict each other, a name matches no layer, or
            the budget cannot be met.
        UnsupportedModelError: the model has no graph, and cannot be opened.
    """
    chosen = options_of(options)
    return decide(trace_for(model, chosen), chosen).plan


def prune_model(
    model: KerasModel,
    *,
    layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    compensation: Compensations | None = None,
    verify: bool = False,
    **options: Unpack[OptionArguments],
) -> keras.Model:
    """Returns a smaller model: `model` without its least important channels.

    Without `compensation` the result equals the original with the consumers' rows of every removed channel set to zero. A
    prune that removes next to nothing warns, and says why and what to do.

    Args:
        model: a functional or Sequential Keras 3 or tf_keras model, or a subclassed Keras 3 model that is built. It stays as
            it is.
        layer_config_overrides: layer name, path or shell pattern -> configuration entries to replace in the pruned
            model, such as `{"conv1": {"kernel_regularizer": None}}`.
        compensation: what gives back to the rest what the removed channels contributed: "bias", `tlt_prune.Bias(data)`,
            `tlt_prune.LeastSquares(data)`, `tlt_prune.RecalibrateBatchNorm(data)`, or a list of them, in order.
        verify: check that equality on random inputs before compensating and returning.
        **options: the fields of `tlt_prune.Options`: a budget (`threshold`, `ratio`, `params`, `macs`, `size_mb`
            or `latency_ms`), and how it is reached.

    Returns:
        A model of the same kind and class (of tf_keras where it was one), with the same layer names and compile arguments. Of a
        subclassed model a functional one, which a warning says.

    Raises:
        PlanError: an option is unknown or out of range, options contradict each other, a name matches no layer, or
            the budget cannot be met.
        UnsupportedModelError: the model has no graph and cannot be opened, or a layer cannot be rebuilt.
        LawError: `verify` found a difference.
    """
    chosen = options_of(options)
    decision = decide(trace_for(model, chosen), chosen)
    advice = decision.plan.advice()
    if advice:
        warnings.warn(f"{decision.plan.summary()}. {advice}", stacklevel=2)
    made = decision.carry_out(layer_config_overrides=layer_config_overrides, compensation=compensation, verify=verify)
    pruned: keras.Model = made.model
    return pruned


options_spelled_out(plan_pruning)
options_spelled_out(prune_model)
