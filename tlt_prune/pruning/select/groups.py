"""Groups: the bundles that the same layers make, in which channels are ranked and their number is rounded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.config import LayerOptions, Options
from tlt_prune.errors import PlanError
from tlt_prune.graph import Alive, ChannelGraph, Labels, matches, nearest_name
from tlt_prune.pruning.criteria.network import FilterScores

# With a ranking beyond single groups, unless the user says otherwise: a layer cut through trains to chance.
_MAX_RATIO_GLOBAL = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Bundles that the same layers make, best first.

    Attributes:
        members: roots of the bundles, best first, ties in the order of their labels; shape `(depth,)`.
        scores: of the members, descending.
        layers: names of the layers.
        step: the number that stays is a multiple of it, or all.
        fewest: the number that stays at least.
        ratio: share to remove there, whatever the budget; None for none.
        why_fewest, why_step: the options that `fewest` and `step` come from, as "min_num_filters=16".
        structure: kinds of the layers: groups of one structure compare with each other.
    """

    members: Labels
    scores: FilterScores
    layers: tuple[str, ...]
    step: int
    fewest: int
    ratio: float | None = None
    why_fewest: str = ""
    why_step: str = ""
    structure: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        return len(self.members)

    def rounded(self, count: float) -> int:
        """The number that stays where `count` should: raised to `fewest`, then to the next multiple of `step`, at most all."""
        return min(math.ceil(max(count, self.fewest) / self.step) * self.step, self.depth)

    def without_share(self, ratio: float) -> int:
        """The number that stays where a share is to be removed."""
        return self.rounded(self.depth - math.floor(ratio * self.depth + 1e-9))

    def above(self, threshold: float) -> int:
        """The number that stays of those strictly above a threshold."""
        return self.rounded(int(np.sum(self.scores > threshold)))

    def held(self, wanted: float) -> str:
        """The options that keep more than `wanted`; empty where no more stay."""
        stay = self.rounded(wanted)
        if stay <= wanted:
            return ""
        reasons = [self.why_fewest] if self.fewest > wanted else []
        if stay > max(wanted, self.fewest) or self.step > self.depth:
            reasons.append(self.why_step)
        return " and ".join(x for x in reasons if x)

    def first_threshold(self) -> float:
        """The smallest threshold that removes anything."""
        # The largest number that may stay without being all.
        most = (self.depth - 1) // self.step * self.step
        return float(self.scores[most]) if most >= self.fewest and most > 0 else math.inf


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
    """The scored channels of a model, divided into groups, and why the rest of it is in none.

    Attributes:
        channels: the traced model.
        statistic: `(n_labels,)`, the score of each bundle at its root, NaN where there is none.
        groups: in the order of their first label.
        reason: bundle root -> why it may not go.
        number: `(n_labels,)`, the group of each bundle root, -1 for none.
        excluded: paths of the layers that `excluded_layers` named, sorted.
        granularity: of counts, in channels.
    """

    channels: ChannelGraph
    statistic: FilterScores
    groups: tuple[Group, ...]
    reason: dict[int, str]
    number: Labels
    excluded: tuple[str, ...]
    granularity: int

    def of(self, bundles: Labels) -> tuple[int, ...]:
        """Numbers of the groups that these bundles are in."""
        numbers = np.unique(self.number[bundles])
        return tuple(numbers[numbers >= 0].tolist())

    def alive(self, counts: Sequence[int]) -> Alive:
        """`(n_labels,)`: what stays if each group keeps the best `counts` of its bundles, settled."""
        root = self.channels.bundles.root
        alive = np.ones(len(root), dtype=bool)
        for group, count in zip(self.groups, counts, strict=True):
            alive[group.members[count:]] = False
        return _settled(self, alive[root])


def grouping(channels: ChannelGraph, statistic: FilterScores, options: Options, granularity: int) -> Grouping:
    """Groups bundles of the same producing layers, in the order of their first label.

    Args:
        channels: the traced model.
        statistic: `(n_labels,)`, the score of each bundle at its root, NaN where there is none.
        options: what may not go, and how counts are rounded.
        granularity: of the counts.

    Raises:
        PlanError: an excluded layer, or one of `layer_options`, is not in the model.
    """
    root = channels.bundles.root
    excluded = excluded_of(channels, options.excluded_layers)
    frozen = _frozen_bundles(channels, excluded, statistic)
    free = np.ones(len(root), dtype=bool)
    free[list(frozen)] = False
    number, members = channels.grouped(free)
    layers = _layers(channels, number, len(members))
    special = layer_options_by_name(channels, options)
    kinds = {p.name: _kind(p.call.op) for p in channels.producers}
    groups = []
    for each, made_by in zip(members, layers, strict=True):
        # Stable: ties go to the lower index.
        ranked = each[np.argsort(-statistic[each], kind="stable")]
        group = _group(ranked, statistic[ranked], made_by, options, special, granularity)
        groups.append(dataclasses.replace(group, structure=tuple(sorted({kinds[name] for name, _ in made_by}))))
    names = tuple(sorted(path for _, path in excluded.values()))
    return Grouping(channels, statistic, tuple(groups), frozen, number, names, granularity)


def _group(
    members: Labels,
    scores: FilterScores,
    made_by: Sequence[tuple[str, int]],
    options: Options,
    special: dict[str, LayerOptions],
    granularity: int,
) -> Group:
    """`made_by`: (layer, how many of its channels one bundle holds)."""
    depth = len(members)
    fewest, steps, ratios = [(1, "")], [(1, "")], []
    for name, channels in made_by:
        here = special.get(name, LayerOptions())
        multiple = here.granularity or granularity
        steps.append((multiple // math.gcd(multiple, channels), f"granularity={multiple}"))
        filters = here.min_num_filters or options.min_num_filters
        fewest.append((math.ceil(filters / channels), f"min_num_filters={filters}"))
        share = here.max_ratio if here.max_ratio is not None else largest_share(options)
        if share is not None:
            fewest.append((math.ceil((1 - share) * depth - 1e-9), f"max_ratio={share:g}"))
        if here.ratio is not None:
            ratios.append(here.ratio)
    most, why_fewest = max(fewest, key=lambda x: x[0])
    return Group(
        members,
        scores,
        tuple(name for name, _ in made_by),
        math.lcm(*(step for step, _ in steps)),
        min(most, depth),
        min(ratios, default=None),
        why_fewest,
        max(steps, key=lambda x: x[0])[1],
    )


def _kind(op: Any) -> str:
    """What a layer computes, whatever its width: its type, and of a convolution its kernel size and whether it has groups."""
    size = getattr(op, "kernel_size", ())
    grouped = " in groups" if getattr(op, "groups", 1) > 1 else ""
    return f"{type(op).__name__} {'x'.join(map(str, size if isinstance(size, (tuple, list)) else (size,)))}{grouped}"


def largest_share(options: Options) -> float | None:
    """Largest share of a group's channels that may go; None for no limit."""
    return _MAX_RATIO_GLOBAL if options.max_ratio is None and options.ranking in ("global", "isomorphic") else options.max_ratio


def _layers(channels: ChannelGraph, number: Labels, n_groups: int) -> list[list[tuple[str, int]]]:
    """For each group its producing layers, each with how many of its channels one bundle holds."""
    layers: list[list[tuple[str, int]]] = [[] for _ in range(n_groups)]
    for producer in channels.producers:
        bundles, filters = np.unique(channels.bundles.root[producer.labels], return_counts=True)
        groups = number[bundles]
        for group in np.unique(groups[groups >= 0]).tolist():
            layers[group].append((producer.name, int(filters[groups == group].max()) * producer.unit))
    return layers


def layer_options_by_name(channels: ChannelGraph, options: Options) -> dict[str, LayerOptions]:
    """Producer name -> what is decided otherwise there; of several patterns, later ones override."""
    by_name: dict[str, LayerOptions] = {}
    for pattern, special in options.layer_options.items():
        matching = [p.name for p in channels.producers if matches(p.call, pattern) or p.name == pattern]
        if not matching:
            near = nearest_name(pattern, {p.name for p in channels.producers})
            raise PlanError(
                f"layer_options: no layer with filters matches {pattern!r}.{near} Expected layer names, paths or shell patterns."
            )
        for name in matching:
            given = {key: value for key in LayerOptions.model_fields if (value := getattr(special, key)) is not None}
            by_name[name] = by_name.get(name, LayerOptions()).model_copy(update=given)
    return by_name


# --- what may not go ---


def _frozen_bundles(channels: ChannelGraph, excluded: dict[int, tuple[Any, str]], statistic: FilterScores) -> dict[int, str]:
    root = channels.bundles.root
    frozen = dict(channels.bundles.frozen)
    has_filters = np.zeros(len(root), dtype=bool)
    for producer in channels.producers:
        has_filters[root[producer.labels]] = True
    for bundle in np.flatnonzero((root == np.arange(len(root))) & np.isnan(statistic)).tolist():
        frozen.setdefault(bundle, "the criterion says nothing about it" if has_filters[bundle] else "no filters to score")
    for op, path in excluded.values():
        # What its weights make, and, for a layer without weights, what passes through it.
        labels = [axis.labels for axis in channels.axes if axis.op is op and axis.role != "in"]
        labels += [tensor.labels.reshape(-1) for tensor in channels.tensors if tensor.op is op]
        for bundle in np.unique(root[np.concatenate(labels)]).tolist() if labels else ():
            frozen.setdefault(bundle, f"excluded layer '{path}'")
    return frozen


def excluded_of(channels: ChannelGraph, patterns: Sequence[str | type]) -> dict[int, tuple[Any, str]]:
    """Layers matched by name, path, shell pattern or type, as {id: (layer, path)}.

    A pattern that matches a nested model excludes everything in it.
    """
    excluded: dict[int, tuple[Any, str]] = {}
    calls = list(channels.graph.walk())
    for pattern in patterns:
        matching = [call for call in calls if matches(call, pattern)]
        if not matching:
            near = nearest_name(pattern, {call.path for call in calls})
            expected = "Expected layer names, paths, shell patterns or types."
            raise PlanError(f"excluded_layers: no layer matches {pattern!r}.{near} {expected}")
        for call in matching:
            excluded[id(call.op)] = (call.op, call.path)
            if call.inner is not None:
                excluded.update({id(c.op): (c.op, c.path) for c in call.inner.walk()})
    return excluded


# --- counts that must hold in every layer ---


def _settled(grouping: Grouping, alive: Alive) -> Alive:
    """Brings bundles back until every layer holds a multiple of the granularity and no tensor is empty.

    A layer is held to it when its width is a multiple itself. Bringing back only ever adds, and the
    full model satisfies everything, so this ends.

    Args:
        grouping: the groups.
        alive: `(n_labels,)`, equal within each bundle.
    """
    channels, granularity = grouping.channels, grouping.granularity
    alive = alive.copy()
    held = [p for p in channels.producers if len(p.labels) * p.unit % granularity == 0]
    tensors = [x.reshape(-1) for x in {id(t.labels): t.labels for t in channels.tensors}.values()]
    while True:
        before = int(alive.sum())
        for producer in held:
            while int(alive[producer.labels].sum()) * producer.unit % granularity:
                _bring_back(grouping, alive, producer.labels)
        for vector in tensors:
            if not alive[vector].any():
                _bring_back(grouping, alive, vector)
        if int(alive.sum()) == before:
            return alive


def _bring_back(grouping: Grouping, alive: Alive, vector: Labels) -> None:
    """Retains the best bundle of `vector` that was to go."""
    root = grouping.channels.bundles.root
    gone = np.unique(root[vector[~alive[vector]]])
    best = gone[np.argmax(grouping.statistic[gone])]
    alive[root == best] = True
