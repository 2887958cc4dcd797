"""From what stays to the smaller model: rewrite, verify, compensate. Every way to prune ends here."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tlt_prune.graph import Alive, ChannelGraph
from tlt_prune.pruning.compensation import Compensations, compensate
from tlt_prune.pruning.rewrite.block_law import zeroed_outputs
from tlt_prune.pruning.rewrite.law import LawReport, check_law
from tlt_prune.pruning.rewrite.rewrite import rewrite_with_graph


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """A pruned model and how it was made.

    Attributes:
        model: of the same kind and class as the original.
        law: result of the check against the original, None where none was asked for.
        compensated: one row per layer and compensation: "compensation", "layer", "done" and "note".
    """

    model: Any
    law: LawReport | None
    compensated: pd.DataFrame


def carry_out(
    channels: ChannelGraph,
    alive: Alive,
    *,
    layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    compensation: Compensations | None = None,
    verify: bool = False,
) -> Outcome:
    """Builds the model that retains `alive`, checks it where asked, then compensates for what was removed.

    Args:
        channels: the traced model.
        alive: `(n_labels,)`, True where a channel is retained.
        layer_config_overrides, compensation, verify: as for `tlt_prune.prune_model`.

    Raises:
        PlanError: an override names no layer or no entry of its configuration, or `compensation` is none.
        UnsupportedModelError: a layer cannot be rebuilt.
        LawError: `verify` found a difference.
    """
    pruned, new_graph = rewrite_with_graph(channels, alive, layer_config_overrides)
    if channels.graph.opened:
        name, kind = channels.graph.model.name, type(channels.graph.model).__name__
        warnings.warn(
            f"What became of '{name}' is a functional model, not a {kind}: it computes the same, and the class's other methods "
            "are not there.",
            stacklevel=2,
        )
    whole, outputs_of = channels.whole, None
    if whole is not None:
        outputs_of = functools.partial(zeroed_outputs, whole, channels.left_out)
    law = check_law(channels, alive, pruned, outputs_of=outputs_of) if verify else None
    with channels.rewritten_as(pruned, new_graph):
        return Outcome(pruned, law, compensate(compensation, channels, alive, pruned))
