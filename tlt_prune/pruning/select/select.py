"""From scores to what is kept: normalize, equalize, count, round, rank.

The rule is the toolkit's, step by step:
1. `normalize` within a layer: "max" divides by the largest score, "L2" by the norm of the scores
   times their number, "off" leaves them.
2. `equalize` across the members of a bundle: "union" = max, "intersection" = min, "arithmetic_mean",
   "geometric_mean"; each layer has one vote.
3. In each group keep the bundles strictly above the threshold; raise the number to
   `min_num_filters`, then to the next multiple of `granularity`, then cap it at the width.
   The highest ranked stay, in index order; ties go to the lower index.
What the toolkit does not have: a budget in place of the threshold (see `budgets`), and layers that feed several groups. There
`settle_counts` brings bundles back, best first, until every producing layer holds a multiple again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tlt_prune.config import Options
from tlt_prune.errors import PlanError, first_line
from tlt_prune.graph import (
    Alive,
    ChannelGraph,
    Labels,
    refuse_not_finite,
)
from tlt_prune.pruning.cost.granularity import chosen_granularity
from tlt_prune.pruning.criteria import criterion_of
from tlt_prune.pruning.criteria.network import Criterion, FilterScores, Network
from tlt_prune.pruning.select.budgets import within_budget
from tlt_prune.pruning.select.groups import Grouping, grouping


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """The retained channels, and the reasons why others could not be removed.

    Attributes:
        alive: `(n_labels,)`.
        group: producer name -> group numbers its filters belong to, the frozen ones left out.
        reason: producer name -> why (some of) its filters are frozen; absent if none is.
        approximate: producer name -> why removing its filters is not exact; absent if it is.
        held: producer name -> which options keep more of its filters than was asked for; absent if none does.
        granularity: the one that was used, also where the options say "auto".
        excluded: paths of the layers that `excluded_layers` named, sorted.
        scores: normalized and equalized score of every channel bundle that may go, ascending.
        first_threshold: the smallest threshold that removes anything; infinite where none does.
    """

    alive: Alive
    scores: FilterScores
    first_threshold: float
    group: dict[str, tuple[int, ...]]
    reason: dict[str, str]
    approximate: dict[str, str]
    held: dict[str, str]
    granularity: int
    excluded: tuple[str, ...]


def select(
    channels: ChannelGraph,
    options: Options,
    statistic: FilterScores | None = None,
    weights: Sequence[float] | None = None,
) -> Selection:
    """Decides which channels stay.

    Args:
        channels: the traced model.
        options: how much goes and how it is decided.
        statistic: result of `bundle_scores`, where it is at hand.
        weights: as for `within_budget`.

    Raises:
        PlanError: an excluded layer is not in the model, a weight is not finite, or a budget cannot be met.
    """
    root = channels.bundles.root
    granularity = chosen_granularity(channels.graph, options.granularity)
    options = options.model_copy(update={"ranking": ranking_of(options)})
    statistic = bundle_scores(channels, options) if statistic is None else statistic
    divided = grouping(channels, statistic, options, granularity)
    counts = _counts(divided, options) if weights is None else within_budget(divided, options, weights)
    alive = divided.alive(counts)
    return Selection(
        alive=alive,
        scores=np.sort(np.concatenate([np.zeros(0), *(group.scores for group in divided.groups)])),
        first_threshold=min((group.first_threshold() for group in divided.groups), default=math.inf),
        group={p.name: divided.of(root[p.labels]) for p in channels.producers},
        reason=_per_producer(channels, divided.reason),
        approximate=_per_producer(channels, channels.bundles.approximate),
        held=_kept_beyond(divided, counts, alive, options),
        granularity=granularity,
        excluded=divided.excluded,
    )


def _kept_beyond(divided: Grouping, counts: Sequence[int], alive: Alive, options: Options) -> dict[str, str]:
    """Layer -> which options keep more of its filters than was asked for."""
    held: dict[str, str] = {}
    for group, count in zip(divided.groups, counts, strict=True):
        ratio = group.ratio if group.ratio is not None else options.ratio
        if ratio is not None:
            wanted = group.depth - math.floor(ratio * group.depth + 1e-9)
        elif options.threshold is not None:
            wanted = int(np.sum(group.scores > options.threshold))
        else:
            # A budget asks for nothing in particular: only a group that could give nothing is worth a word.
            wanted = 0 if group.rounded(0) == group.depth else group.depth
        left = int(alive[group.members].sum())
        if left <= count:
            reason = group.held(wanted)
        elif divided.granularity > 1:
            reason = f"granularity={divided.granularity} of a layer coupled to it"
        else:
            reason = "a layer coupled to it keeps one channel at least"
        if reason:
            held |= dict.fromkeys(group.layers, f"{left} of {group.depth} stay: {reason}")
    return held


def ranking_of(options: Options) -> str:
    """ "local", "global" or "isomorphic"."""
    if options.ranking != "auto":
        return options.ranking
    return "global" if compare_between_layers(options) else "local"


def compare_between_layers(options: Options) -> bool:
    """Whether the criterion's scores of one layer compare with those of another."""
    return bool(getattr(criterion_of(options.criterion), "comparable", False))


def _counts(divided: Grouping, options: Options) -> list[int]:
    """Number of bundles of each group that stay."""
    if options.threshold is None and options.ratio is None:
        return within_budget(divided, options)
    counts = []
    for group in divided.groups:
        if group.ratio is not None:
            counts.append(group.without_share(group.ratio))
        elif options.threshold is not None:
            counts.append(group.above(options.threshold))
        else:
            assert options.ratio is not None
            counts.append(group.without_share(options.ratio))
    return counts


# --- scores of bundles ---


def bundle_scores(channels: ChannelGraph, options: Options) -> FilterScores:
    """`(n_labels,)`, the score of each bundle at its root; NaN where no layer scores it.

    Raises:
        PlanError: a weight of the model is not finite, the criterion fails, or says something that are no scores.
    """
    root = channels.bundles.root
    refuse_not_finite(channels.graph)
    criterion = criterion_of(options.criterion)
    network = Network(channels)
    by_layer = _checked_scores(criterion, network)
    normalizer = options.normalizer
    if normalizer == "auto":
        normalizer = "off" if compare_between_layers(options) else "max"
    votes, targets = [np.zeros(0)], [np.zeros(0, np.int64)]
    for layer in network.layers:
        if layer.name in by_layer:
            scores = by_layer[layer.name]
            voted = ~np.isnan(scores)
            votes.append(normalize(scores[voted], normalizer))
            targets.append(root[layer.labels[voted]])
    return equalize(np.concatenate(votes), np.concatenate(targets), len(root), options.equalization_criterion)


def name_of(criterion: Criterion) -> str:
    """Name of a criterion, for messages."""
    return str(getattr(criterion, "__name__", type(criterion).__name__))


def _checked_scores(criterion: Criterion, network: Network) -> dict[str, FilterScores]:
    """The scores of a criterion, layer by layer, checked."""
    name = name_of(criterion)
    result = criterion(network)
    sizes = {x.name: x.count for x in network.layers}
    if not hasattr(result, "items"):
        raise PlanError(
            f"criterion {name}: expected a dictionary of layer name -> scores, as described in tlt_prune.criteria. "
            f"Received a {type(result).__name__}."
        )
    checked = {}
    for layer, values in result.items():
        if layer not in sizes:
            raise PlanError(f"criterion {name}: {layer!r} is no layer with filters. Expected names of network.layers.")
        try:
            scores = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PlanError(f"criterion {name}: expected numbers for '{layer}'. {first_line(error)}") from error
        if scores.shape != (sizes[layer],):
            raise PlanError(
                f"criterion {name}: expected {sizes[layer]} scores for '{layer}', one per filter. Received shape {scores.shape}."
            )
        if np.isinf(scores).any():
            raise PlanError(f"criterion {name}: expected finite scores for '{layer}'. Received infinity.")
        checked[layer] = scores
    return checked


def normalize(scores: FilterScores, normalizer: str) -> FilterScores:
    """Scores of one layer made comparable to other layers', shape `(n_filters,)`."""
    if normalizer == "off" or not len(scores):
        return scores
    if normalizer == "max":
        largest = scores.max()
        return scores / largest if largest > 0 else scores
    norm = np.sqrt(np.sum(scores**2))
    return scores / norm * len(scores) if norm > 0 else scores


def equalize(votes: FilterScores, targets: Labels, size: int, criterion: str) -> FilterScores:
    """Reduces the votes for each target to one statistic, shape `(size,)`; NaN where there is none."""
    count = np.bincount(targets, minlength=size)
    nobody = count == 0
    if criterion in ("union", "intersection"):
        statistic = np.full(size, -np.inf if criterion == "union" else np.inf)
        (np.maximum if criterion == "union" else np.minimum).at(statistic, targets, votes)
    elif criterion == "geometric_mean":
        if np.any(votes < 0):
            raise PlanError("equalization_criterion='geometric_mean' needs scores that are not negative. Expected another one.")
        with np.errstate(divide="ignore"):
            statistic = np.exp(np.bincount(targets, np.log(votes), minlength=size) / np.maximum(count, 1))
    else:
        total = np.bincount(targets, votes, minlength=size)
        statistic = total if criterion == "sum" else total / np.maximum(count, 1)
    return np.where(nobody, np.nan, statistic)


def _per_producer(channels: ChannelGraph, reasons: dict[int, str]) -> dict[str, str]:
    root = channels.bundles.root
    by_producer = {}
    for producer in channels.producers:
        for bundle in np.unique(root[producer.labels]).tolist():
            if bundle in reasons:
                by_producer[producer.name] = reasons[bundle]
                break
    return by_producer
