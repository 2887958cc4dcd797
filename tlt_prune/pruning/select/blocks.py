"""Which residual blocks go as a whole, before the channels of what is left are chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tlt_prune.config import Options
from tlt_prune.errors import PlanError
from tlt_prune.graph import ChannelGraph, KerasModel, Labels, ResidualBlock, chosen_blocks, residual_blocks, trace
from tlt_prune.pruning.cost.granularity import chosen_granularity
from tlt_prune.pruning.cost.terms import charged
from tlt_prune.pruning.criteria import criterion_of
from tlt_prune.pruning.criteria.network import FilterScores, Network
from tlt_prune.pruning.select.budgets import is_met, reachable, resource_of, within_budget
from tlt_prune.pruning.select.groups import excluded_of, grouping
from tlt_prune.pruning.select.select import bundle_scores, compare_between_layers, name_of, ranking_of


def trace_for(model: KerasModel, options: Options) -> ChannelGraph:
    """`trace`, as the options say.

    Raises:
        PlanError: as for `tlt_prune.graph.trace`; or blocks are to go that are not there.
    """
    whole = trace(model, options.channelwise_layers, inline=options.inline)
    if options.blocks == "auto":
        blocks = _blocks_at_budget(whole, options)
    elif isinstance(options.blocks, int):
        blocks = _weakest_blocks(whole, options, options.blocks) if options.blocks else []
    else:
        blocks = _named_blocks(whole, options) if options.blocks else []
    return leaving_out(whole, options.channelwise_layers, blocks, inline=options.inline)


def leaving_out(whole: ChannelGraph, channelwise_layers: Sequence[str], blocks: Sequence[str], *, inline: bool) -> ChannelGraph:
    """A traced model without the residual blocks of these names, paths or shell patterns; what was there before is its `whole`.

    Raises:
        PlanError: one of them names no block.
    """
    if not blocks:
        return whole
    left_out = tuple(x.name for x in chosen_blocks(whole.graph, blocks))
    channels = trace(whole.graph.model, channelwise_layers, inline=inline, without=left_out)
    return dataclasses.replace(channels, whole=whole, left_out=left_out)


def _named_blocks(whole: ChannelGraph, options: Options) -> list[str]:
    """Names of the residual blocks that the options name.

    Raises:
        PlanError: one of them names no block, or one with an excluded layer.
    """
    assert not isinstance(options.blocks, (int, str)), "names"
    excluded = excluded_of(whole, options.excluded_layers)
    chosen = chosen_blocks(whole.graph, options.blocks)
    for block in chosen:
        staying = _excluded_inside(block, excluded)
        if staying is not None:
            raise PlanError(
                f"blocks: '{block.name}' cannot go: excluded_layers says that its layer '{staying}' stays. "
                "Expected one or the other."
            )
    return [x.name for x in chosen]


def _excluded_inside(block: ResidualBlock, excluded: Mapping[int, tuple[Any, str]]) -> str | None:
    """Path of an excluded layer in a residual block, if there is one."""
    return next((excluded[id(call.op)][1] for call in block.branch if id(call.op) in excluded), None)


class _Worths:
    """What residual blocks are worth by the criterion of a plan.

    Taylor and Fisher measure how much the loss rises without them, Ablation what the metric loses. By others a block is worth
    what its inner channels are, those that only its own layers make: without these it adds a constant. Their scores are added up
    where those of the criterion compare between layers, else their mean is taken; of several layers inside, the mean of these.

    Attributes:
        blocks: names of those that can be judged.
    """

    def __init__(self, channels: ChannelGraph, options: Options, scores: FilterScores | None = None) -> None:
        self._network = Network(channels)
        self._measured = getattr(criterion_of(options.criterion), "lost_without_blocks", None)
        excluded = excluded_of(channels, options.excluded_layers)
        every = [x for x in residual_blocks(channels.graph) if _excluded_inside(x, excluded) is None]
        self.blocks = [x.name for x in every]
        if self._measured is None:
            scores = bundle_scores(channels, options) if scores is None else scores
            together = np.sum if compare_between_layers(options) else np.mean
            self._by_scores = _by_inner_channels(channels, every, scores, together)
            self.blocks = list(self._by_scores)

    def of(self, sets: Sequence[Sequence[str]]) -> list[float]:
        """Of sets of blocks that go together."""
        if self._measured is not None:
            # Blocks without which the loss is no number cannot go.
            return [float(x) if np.isfinite(x) else np.inf for x in self._measured(self._network, sets)]
        return [sum(self._by_scores[name] for name in names) for names in sets]

    def alone(self) -> dict[str, float]:
        """Of each block."""
        return dict(zip(self.blocks, self.of([[name] for name in self.blocks]), strict=True))


def _by_inner_channels(
    channels: ChannelGraph,
    blocks: Sequence[ResidualBlock],
    scores: FilterScores,
    together: Callable[[FilterScores], FilterScores],
) -> dict[str, float]:
    root = channels.bundles.root
    made = [(id(producer.call.op), np.unique(root[producer.labels])) for producer in channels.producers]
    makers: dict[int, set[int]] = {}
    for maker, bundles in made:
        for bundle in bundles.tolist():
            makers.setdefault(bundle, set()).add(maker)
    worths = {}
    for block in blocks:
        inside = {id(call.op) for call in block.branch}
        own = [x for maker, x in made if maker in inside and all(makers[y] <= inside for y in x.tolist())]
        found = [float(together(scores[x])) for x in own if np.isfinite(scores[x]).all()]
        if found:
            worths[block.name] = float(np.mean(found))
    return worths


def _weakest_blocks(channels: ChannelGraph, options: Options, count: int) -> list[str]:
    """Names of so many residual blocks, those that are worth least, each alone.

    Raises:
        PlanError: there are fewer that can be judged.
    """
    worths = _Worths(channels, options)
    if count > len(worths.blocks):
        raise PlanError(
            f"blocks={count}: expected at most {len(worths.blocks)}, the residual blocks of '{channels.graph.model.name}' with "
            "channels of their own inside and no excluded layer. Name others: blocks=['add_1']."
        )
    alone = worths.alone()
    return sorted(alone, key=alone.__getitem__)[:count]


def _blocks_at_budget(whole: ChannelGraph, options: Options) -> list[str]:
    """Names of the residual blocks without which a model loses least at the budget; none where channels alone cost less.

    What is lost is what the blocks are worth, and the scores of the channels that still have to go. Blocks go in the order of
    their worth, each alone, for what they save: tried are none, the first, the first two, and so on, until they alone are worth
    more than the best so far loses.

    Raises:
        PlanError: the criterion's scores do not compare between layers, or the budget cannot be met or counted.
    """
    if not compare_between_layers(options):
        name = name_of(criterion_of(options.criterion))
        raise PlanError(
            f"blocks='auto': expected a criterion whose scores compare between layers, such as Taylor, Fisher or LAMP. {name}'s "
            "do not: what it says of a block says nothing beside what it says of channels elsewhere."
        )
    scores = bundle_scores(whole, options)
    worths = _Worths(whole, options, scores)
    alone = worths.alone()

    def left(names: Sequence[str]) -> ChannelGraph:
        return leaving_out(whole, options.channelwise_layers, names, inline=options.inline)

    def cost(names: Sequence[str]) -> float:
        return charged(resource_of(options)[0].terms(left(names), options))

    of_all = cost([])
    saved = {name: of_all - cost([name]) for name in alone}
    order = sorted((name for name in alone if saved[name] > 0), key=lambda name: alone[name] / saved[name])
    best: list[str] = []
    least = np.inf
    for count in range(len(order) + 1):
        # Of one block it is known.
        gone = worths.of([order[:count]])[0] if count > 1 else sum(alone[name] for name in order[:count])
        if gone >= least:
            break
        channels = left(order[:count])
        lost = gone + _lost_by_channels(channels, options, _scores_of_rest(whole, channels, scores))
        if lost < least:
            best, least = order[:count], lost
    return best


def _scores_of_rest(whole: ChannelGraph, channels: ChannelGraph, scores: FilterScores) -> FilterScores:
    """Scores of the whole model's bundles for those of what is left of it."""
    before: Mapping[str, Labels] = {x.name: whole.bundles.root[x.labels] for x in whole.producers}
    found = np.full(len(channels.bundles.root), np.nan)
    for producer in channels.producers:
        found[channels.bundles.root[producer.labels]] = scores[before[producer.name]]
    return found


def _lost_by_channels(channels: ChannelGraph, options: Options, scores: FilterScores) -> float:
    """Scores, added up, of the channels that go from a model at the budget; infinite where it cannot be met."""
    options = options.model_copy(update={"ranking": ranking_of(options)})
    divided = grouping(channels, scores, options, chosen_granularity(channels.graph, options.granularity))
    _, fewest, target, _ = reachable(divided, options)
    if not is_met(target, fewest):
        return np.inf
    alive = divided.alive(within_budget(divided, options))
    return float(sum(group.scores[~alive[group.members]].sum() for group in divided.groups))
