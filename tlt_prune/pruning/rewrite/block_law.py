"""The law for whole residual blocks: without them a model computes what it computes with their branches set to zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.graph import Call, ChannelGraph, Graph, ResidualBlock, as_array, chosen_blocks, read, rewired
from tlt_prune.io import progress
from tlt_prune.pruning.rewrite.law import inference_outputs
from tlt_prune.pruning.rewrite.rewrite import rewrite
from tlt_prune.pruning.running.batches import Batch
from tlt_prune.pruning.running.walk import Values, Walk


def outputs_without(graph: Graph, blocks: Sequence[ResidualBlock], batches: Sequence[Batch]) -> list[Values]:
    """Values of the model's flat outputs, with the branches of blocks set to zero."""
    ends = {id(x.addition): x.end.key for x in blocks}
    walk = Walk(graph, batches)
    for step in walk:
        if id(step.call) in ends:
            end = ends[id(step.call)]
            step.replaced[end] = [x * 0 for x in step.known[end]]
    return walk.outputs


def scores_without(
    graph: Graph,
    sets: Sequence[Sequence[str]],
    batches: Sequence[Batch],
    score: Callable[[list[Values]], float],
    what: str,
) -> tuple[float, list[float]]:
    """A score of the model's flat outputs: of the whole model, and without each set of residual blocks, by their names.

    Args:
        graph: of the model.
        sets: names of blocks that go together.
        batches: the examples.
        score: values of the outputs, as `outputs_without` returns them -> a number.
        what: is measured, for the progress bar.
    """
    found = []
    with progress(len(sets) + 1, what) as advance:
        for names in ([], *sets):
            found.append(score(outputs_without(graph, chosen_blocks(graph, names), batches)))
            advance()
    return found[0], found[1:]


def zeroed_outputs(channels: ChannelGraph, names: Sequence[str], inputs: object) -> list[NDArray[Any]]:
    """The outputs of the original, with the branches of blocks set to zero."""
    family = channels.graph.family
    if family.name != "keras":
        outputs = outputs_without(channels.graph, chosen_blocks(channels.graph, names), [(inputs, None)])
        return [as_array(column[0]).astype(np.float64) for column in outputs]
    # Compiled where it is channels-first: see `inference_outputs`. A copy, because its layers are called once more.
    copy = read(rewrite(channels, np.ones(channels.n_labels, dtype=bool)))
    ends = {id(x.addition): x.end for x in chosen_blocks(copy, names)}
    # Layers of nested models come to stand beside the others, whose names they may have.
    for i, op in enumerate({id(call.op): call.op for call in copy.walk()}.values()):
        op.name = f"{op.name}_{i}"

    def visit(call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        end = ends.get(id(call))
        given = zip(tree.flatten((call.args, call.kwargs)), tree.flatten((args, kwargs)), strict=True)
        flat = [keras.ops.zeros_like(x) if end is not None and y is end else x for y, x in given]
        args, kwargs = tree.pack_sequence_as((args, kwargs), flat)
        return call.op(*args, **kwargs)

    return inference_outputs(rewired(copy, visit), family, inputs)
