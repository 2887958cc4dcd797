"""Pruning in depth: whole residual blocks go, by what the metric loses without them.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv:1603.09382, and Veit et al., "Residual Networks Behave Like
Ensembles of Relatively Shallow Networks", NIPS 2016, arXiv:1605.06431, show that residual networks bear the loss of blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tlt_prune.errors import PlanError
from tlt_prune.graph import KerasModel, residual_blocks, trace
from tlt_prune.pruning import plots
from tlt_prune.pruning.compensation import Compensations
from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.pipeline import carry_out
from tlt_prune.pruning.rewrite.block_law import scores_without
from tlt_prune.pruning.running.batches import Batches, UserData
from tlt_prune.pruning.running.switched_off import Metric, metric_of, metric_of_outputs
from tlt_prune.pruning.select.blocks import leaving_out


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BlockSensitivity:
    """What a metric loses without each residual block.

    Attributes:
        frame: one row per block, named by its addition (the index), in the order of the model: "metric", that of the model
            without the block; "layers", how many with weights go; "params" and "macs", the shares of the model's that go.
        whole: the metric of the whole model.
        metric: its name.
        used: how much data it was.
    """

    frame: pd.DataFrame
    whole: float
    metric: str
    used: str

    def weakest(self, count: int) -> list[str]:
        """The blocks that cost least, each alone: what `remove_blocks` takes.

        Raises:
            PlanError: there are fewer.
        """
        if not isinstance(count, (int, np.integer)) or not 1 <= count <= len(self.frame):
            raise PlanError(f"weakest: expected 1 to {len(self.frame)} blocks. Received: {count!r}.")
        return [str(x) for x in self.frame["metric"].sort_values(ascending=False, kind="stable").index[:count]]

    def plot(self) -> Any:
        """A matplotlib figure: what the metric loses without each block, beside the MACs that go with it.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        return plots.draw_blocks(self.frame, self.whole, self.metric)

    def __repr__(self) -> str:
        return f"<BlockSensitivity of {len(self.frame)} blocks: {self.metric} {self.whole:.4f} on {self.used}>"

    def _repr_html_(self) -> str:
        return f"<p>{self.metric} {self.whole:.4f} on {self.used}</p>{self.frame.round(4).to_html()}"


def block_sensitivity(
    model: KerasModel,
    data: UserData,
    *,
    metric: str | Metric = "accuracy",
    steps: int | None = None,
    batch_size: int = 64,
) -> BlockSensitivity:
    """Measures the metric without each residual block, one at a time.

    Args:
        model: a functional or Sequential Keras model. It is only read.
        data: `(x, y)`: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        metric: "accuracy"; a Keras loss, by name or not, or metric; or a function `(labels, outputs) -> number`, the higher
            the better.
        steps: batches to read; None for all.
        batch_size: of arrays.

    Raises:
        PlanError: the model has no residual block, or the data or the metric does not fit it.
        UnsupportedModelError: the model has no graph.
    """
    channels = trace(model)
    graph = channels.graph
    blocks = residual_blocks(graph)
    if not blocks:
        raise PlanError(f"block_sensitivity: '{model.name}' has no residual block. Expected additions x + branch(x).")
    name, function = metric_of(metric)
    batches = Batches(data, graph, steps=steps, batch_size=batch_size, labeled=True, what="block_sensitivity")
    whole, values = scores_without(
        graph,
        [[block.name] for block in blocks],
        batches,
        lambda outputs: metric_of_outputs(graph, batches, outputs, function),
        f"Sensitivity of {len(blocks)} blocks on {batches}",
    )
    whole_costs = costs(channels)
    rows = []
    for block, value in zip(blocks, values, strict=True):
        left = costs(trace(model, without=[block.name]))
        gone = 1 - left.total_params / whole_costs.total_params, 1 - left.total_macs / whole_costs.total_macs
        rows.append((value, block.layers, *gone))
    index = pd.Index([x.name for x in blocks], name="block")
    frame = pd.DataFrame(rows, columns=["metric", "layers", "params", "macs"], index=index)
    return BlockSensitivity(frame, whole, name, str(batches))


def remove_blocks(
    model: KerasModel, blocks: Sequence[str] | str, *, compensation: Compensations | None = None, verify: bool = False
) -> Any:
    """Returns `model` without some of its residual blocks: each addition x + branch(x) becomes x.

    Where the shortcut has a layer of its own, that is what is left. Without `compensation` the result equals the original with
    the outputs of those branches set to zero. `prune_model` makes what is left narrower, or does both at once.

    Args:
        model: a functional Keras 3 or tf_keras model. It stays as it is.
        blocks: names, paths or shell patterns of the additions, as `block_sensitivity` lists them.
        compensation: as for `prune_model`: `LeastSquares` gives back to the rest what the branches contributed.
        verify: check that equality on random inputs, before compensation.

    Returns:
        A model of the same kind and class, with the same layer names and compile arguments.

    Raises:
        PlanError: `blocks` is empty, or names no residual block.
        UnsupportedModelError: the model has no graph, or a layer cannot be rebuilt.
        LawError: `verify` found a difference.
    """
    names = [blocks] if isinstance(blocks, str) else list(blocks) if isinstance(blocks, (list, tuple)) else []
    if not names or not all(isinstance(x, str) for x in names):
        raise PlanError(
            "remove_blocks: expected the names of blocks, such as block_sensitivity(...).weakest(2) says. Received: "
            f"{blocks if names or not isinstance(blocks, (list, tuple)) else 'none'}."
        )
    channels = leaving_out(trace(model), (), names, inline=False)
    everything = np.ones(channels.n_labels, dtype=bool)
    return carry_out(channels, everything, compensation=compensation, verify=verify).model
