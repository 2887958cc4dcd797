"""From scores to what is kept: normalise, equalise, count, round, rank.

The rule is the toolkit's, step by step:
1. `normalise` within a layer: "max" divides by the largest score, "L2" by the norm of the scores
   times their number, "off" leaves them.
2. `equalise` across the members of a bundle: "union" = max, "intersection" = min, "arithmetic_mean",
   "geometric_mean"; each layer has one vote.
3. In each group keep the bundles strictly above the threshold; raise the number to
   `min_num_filters`, then to the next multiple of `granularity`, then cap it at the width.
   The highest ranked stay, in index order; ties go to the lower index.
What the toolkit does not have: layers that feed several groups. There `settle_counts` brings bundles
back, best first, until every producing layer holds a multiple again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import PlanError
from tlt_prune.graph.channel_graph import ChannelGraph
from tlt_prune.graph.labels import Alive, Labels
from tlt_prune.graph.reader import matches, nearest_name
from tlt_prune.options import Options
from tlt_prune.pruning.granularity import granularity_of
from tlt_prune.pruning.importance import CRITERIA
from tlt_prune.pruning.importance.scores import Scores


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """What is retained, and why the rest of the graph could not be considered.

    Attributes:
        alive: `(n_labels,)`.
        group: producer name -> group numbers its filters belong to, the frozen ones left out.
        reason: producer name -> why (some of) its filters are frozen; absent if none is.
        approximate: producer name -> why removing its filters is not exact; absent if it is.
        granularity: the one that was used, also where the options say "auto".
        excluded: paths of the layers that `excluded_layers` named, sorted.
        scores: normalised and equalised score of every channel bundle that may go, ascending.
        first_threshold: the smallest threshold that removes anything; infinite where none does.
    """

    alive: Alive
    scores: Scores
    first_threshold: float
    group: dict[str, tuple[int, ...]]
    reason: dict[str, str]
    approximate: dict[str, str]
    granularity: int
    excluded: tuple[str, ...]


def select(channels: ChannelGraph, weights: Callable[[Any], Sequence[NDArray[Any]]], options: Options) -> Selection:
    """Decides which channels stay.

    Args:
        channels: the traced model.
        weights: layer -> its weight arrays, in the order of `Family.weights(layer)`.
        options: how much goes and how it is decided.

    Raises:
        PlanError: an excluded layer is not in the model, or a weight is not finite.
    """
    root = channels.bundles.root
    granularity = granularity_of(channels.graph) if options.granularity == "auto" else options.granularity
    excluded = _excluded(channels, options.excluded_layers)
    frozen = _frozen_bundles(channels, excluded)
    statistic = _bundle_statistic(channels, weights, options)
    groups = _groups(channels, frozen)
    alive = np.ones(len(root), dtype=bool)
    for members, per_bundle in zip(groups.groups, groups.filters_per_bundle, strict=True):
        alive[_weakest(members, statistic[members], per_bundle, options, granularity)] = False
    alive = settle_counts(channels, alive[root], statistic, granularity)
    return Selection(
        alive=alive,
        scores=np.sort(np.concatenate([np.zeros(0), *(statistic[members] for members in groups.groups)])),
        first_threshold=min(
            (
                _first_threshold(np.sort(statistic[members]), per_bundle, options, granularity)
                for members, per_bundle in zip(groups.groups, groups.filters_per_bundle, strict=True)
            ),
            default=math.inf,
        ),
        group={p.name: groups.of(root[p.labels]) for p in channels.producers},
        reason=_per_producer(channels, frozen),
        approximate=_per_producer(channels, channels.bundles.approximate),
        granularity=granularity,
        excluded=tuple(sorted(path for _, path in excluded.values())),
    )


# --- scores of bundles ---


def _bundle_statistic(channels: ChannelGraph, weights: Callable[[Any], Sequence[NDArray[Any]]], options: Options) -> Scores:
    """`(n_labels,)`, meaningful at bundle roots."""
    root = channels.bundles.root
    votes, targets = [np.zeros(0)], [np.zeros(0, np.int64)]
    for producer in channels.producers:
        scores = CRITERIA[options.criterion](producer, weights(producer.call.op))
        if not np.isfinite(scores).all():
            bad = np.flatnonzero(~np.isfinite(scores))[:5].tolist()
            raise PlanError(
                f"Layer '{producer.name}' has weights that are not finite (filters {bad}...). "
                "Expected a trained model without NaN or infinity; check its training log."
            )
        votes.append(normalise(scores, options.normalizer))
        targets.append(root[producer.labels])
    return equalise(np.concatenate(votes), np.concatenate(targets), len(root), options.equalization_criterion)


def normalise(scores: Scores, normalizer: str) -> Scores:
    """Scores of one layer made comparable to other layers', shape `(n_filters,)`."""
    if normalizer == "off":
        return scores
    if normalizer == "max":
        largest = scores.max()
        return scores / largest if largest > 0 else scores
    norm = np.sqrt(np.sum(scores**2))
    return scores / norm * len(scores) if norm > 0 else scores


def equalise(votes: Scores, targets: Labels, size: int, criterion: str) -> Scores:
    """Reduces the votes for each target to one statistic, shape `(size,)`."""
    if criterion == "union":
        statistic = np.full(size, -np.inf)
        np.maximum.at(statistic, targets, votes)
        return statistic
    if criterion == "intersection":
        statistic = np.full(size, np.inf)
        np.minimum.at(statistic, targets, votes)
        return statistic
    count = np.maximum(np.bincount(targets, minlength=size), 1)
    if criterion == "arithmetic_mean":
        return np.bincount(targets, votes, minlength=size) / count
    with np.errstate(divide="ignore"):
        return np.exp(np.bincount(targets, np.log(votes), minlength=size) / count)


# --- what may not go ---


def _frozen_bundles(channels: ChannelGraph, excluded: dict[int, tuple[Any, str]]) -> dict[int, str]:
    root = channels.bundles.root
    frozen = dict(channels.bundles.frozen)
    scored = np.zeros(len(root), dtype=bool)
    for producer in channels.producers:
        scored[root[producer.labels]] = True
    for bundle in np.flatnonzero((root == np.arange(len(root))) & ~scored).tolist():
        frozen.setdefault(bundle, "no filters to score")
    for op, path in excluded.values():
        # What its weights make, and, for a layer without weights, what passes through it.
        own = [axis.labels for axis in channels.axes if axis.op is op and axis.role != "in"]
        own += [tensor.labels.reshape(-1) for tensor in channels.tensors if tensor.op is op]
        for bundle in np.unique(root[np.concatenate(own)]).tolist() if own else ():
            frozen.setdefault(bundle, f"excluded layer '{path}'")
    return frozen


def _excluded(channels: ChannelGraph, patterns: Sequence[str | type]) -> dict[int, tuple[Any, str]]:
    """Layers matched by name, path, shell pattern or type, as {id: (layer, path)}.

    A pattern that matches a nested model excludes everything in it.
    """
    found: dict[int, tuple[Any, str]] = {}
    calls = list(channels.graph.walk())
    for pattern in patterns:
        matching = [call for call in calls if matches(call, pattern)]
        if not matching:
            near = nearest_name(pattern, {call.path for call in calls})
            expected = "Expected layer names, paths, shell patterns or types."
            raise PlanError(f"excluded_layers: no layer matches {pattern!r}.{near} {expected}")
        for call in matching:
            found[id(call.op)] = (call.op, call.path)
            if call.inner is not None:
                found.update({id(c.op): (c.op, c.path) for c in call.inner.walk()})
    return found


def _per_producer(channels: ChannelGraph, reasons: dict[int, str]) -> dict[str, str]:
    root = channels.bundles.root
    found = {}
    for producer in channels.producers:
        for bundle in np.unique(root[producer.labels]).tolist():
            if bundle in reasons:
                found[producer.name] = reasons[bundle]
                break
    return found


# --- groups ---


@dataclasses.dataclass(frozen=True, eq=False)
class _Groups:
    groups: tuple[Labels, ...]
    number: Labels  # (n_labels,): group of each bundle root, -1 for none
    filters_per_bundle: tuple[tuple[int, ...], ...]

    def of(self, bundles: Labels) -> tuple[int, ...]:
        numbers = np.unique(self.number[bundles])
        return tuple(numbers[numbers >= 0].tolist())


def _groups(channels: ChannelGraph, frozen: dict[int, str]) -> _Groups:
    """Bundles of the same producing layers, in the order of their first label.

    A bundle's set of layers is compared by a Zobrist hash: the exclusive or of one random 64-bit
    word a layer.
    """
    root = channels.bundles.root
    words = np.random.default_rng(0).integers(1, 2**63, size=len(channels.producers), dtype=np.int64)
    signature = np.zeros(len(root), dtype=np.int64)
    for word, producer in zip(words, channels.producers, strict=True):
        signature[np.unique(root[producer.labels])] ^= word
    free = signature != 0
    free[list(frozen)] = False
    bundles = np.flatnonzero(free)
    _, first, inverse = np.unique(signature[bundles], return_index=True, return_inverse=True)
    number = np.full(len(root), -1, dtype=np.int64)
    number[bundles] = np.argsort(np.argsort(first))[inverse]
    order = np.argsort(number[bundles], kind="stable")
    ends = np.cumsum(np.bincount(number[bundles], minlength=len(first)))[:-1]
    members = tuple(np.split(bundles[order], ends)) if len(bundles) else ()
    return _Groups(members, number, _filters_per_bundle(channels, number, len(members)))


def _filters_per_bundle(channels: ChannelGraph, number: Labels, n_groups: int) -> tuple[tuple[int, ...], ...]:
    """For each group and each of its producing layers: how many filters of the layer one bundle holds."""
    counts: list[list[int]] = [[] for _ in range(n_groups)]
    for producer in channels.producers:
        bundles, filters = np.unique(channels.bundles.root[producer.labels], return_counts=True)
        groups = number[bundles]
        for group in np.unique(groups[groups >= 0]).tolist():
            counts[group].append(int(filters[groups == group].max()) * producer.unit)
    return tuple(tuple(x) for x in counts)


def _weakest(members: Labels, statistic: Scores, per_bundle: Sequence[int], options: Options, granularity: int) -> Labels:
    """The bundles of one group that go."""
    depth = len(members)
    if options.threshold is not None:
        count = int(np.sum(statistic > options.threshold))
    else:
        assert options.ratio is not None
        count = depth - math.floor(options.ratio * depth + 1e-9)
    fewest, step = _fewest_and_step(depth, per_bundle, options, granularity)
    count = min(-(-max(count, fewest) // step) * step, depth)
    return members[np.argsort(-statistic, kind="stable")[count:]]


def _fewest_and_step(depth: int, per_bundle: Sequence[int], options: Options, granularity: int) -> tuple[int, int]:
    """How many bundles of a group stay at least, and the multiple that their number is rounded up to."""
    fewest = min(math.ceil(options.min_num_filters / min(per_bundle)), depth)
    return fewest, math.lcm(*(granularity // math.gcd(granularity, n) for n in per_bundle))


def _first_threshold(ascending: Scores, per_bundle: Sequence[int], options: Options, granularity: int) -> float:
    """The smallest threshold that removes anything of one group, whose scores are given in ascending order."""
    depth = len(ascending)
    fewest, step = _fewest_and_step(depth, per_bundle, options, granularity)
    # The largest number that may stay without being all.
    most = (depth - 1) // step * step
    return float(ascending[depth - most - 1]) if most >= fewest and most > 0 else math.inf


# --- counts that must hold in every layer ---


def settle_counts(channels: ChannelGraph, alive: Alive, statistic: Scores, granularity: int) -> Alive:
    """Brings bundles back until every layer holds a multiple of the granularity and no tensor is empty.

    A layer is held to it when its width is a multiple itself. Bringing back only ever adds, and the
    full model satisfies everything, so this ends.

    Args:
        alive: `(n_labels,)`, equal within each bundle.
        statistic: `(n_labels,)`, meaningful at bundle roots.
    """
    alive = alive.copy()
    held = [p for p in channels.producers if len(p.labels) * p.unit % granularity == 0]
    tensors = [x.reshape(-1) for x in {id(t.labels): t.labels for t in channels.tensors}.values()]
    while True:
        before = int(alive.sum())
        for producer in held:
            while int(alive[producer.labels].sum()) * producer.unit % granularity:
                _bring_back(channels, alive, statistic, producer.labels)
        for vector in tensors:
            if not alive[vector].any():
                _bring_back(channels, alive, statistic, vector)
        if int(alive.sum()) == before:
            return alive


def _bring_back(channels: ChannelGraph, alive: Alive, statistic: Scores, vector: Labels) -> None:
    """Retains the best bundle of `vector` that was to go."""
    root = channels.bundles.root
    gone = np.unique(root[vector[~alive[vector]]])
    best = gone[np.argmax(statistic[gone])]
    alive[root == best] = True
