"""Counts of channels per group with which the whole model keeps to a budget.

Local: every group gives the same share. Global: what scores least for what it saves goes first, wherever it is. Isomorphic: all
groups of one structure together give the same share as those of any other, and in each structure what scores least goes (Fang
et al., "Isomorphic Pruning for Vision Models", ECCV 2024, arXiv:2407.04616). All end with the same step: whatever still fits into
the budget comes back, so that no group could keep one step more.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from tlt_prune.config import Options
from tlt_prune.errors import PlanError
from tlt_prune.graph import ChannelGraph
from tlt_prune.pruning.cost.granularity import chosen_granularity
from tlt_prune.pruning.cost.latency import table_at
from tlt_prune.pruning.cost.terms import Term, byte_terms, charged, mac_terms, param_terms
from tlt_prune.pruning.criteria.network import FilterScores
from tlt_prune.pruning.select.groups import Group, Grouping, largest_share
from tlt_prune.pruning.select.ledger import Ledger

# Of the target: floating point may not decide whether a budget is met.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Resource:
    """The resource of a budget: its option, its unit, and how a model is charged for it."""

    name: str
    unit: str
    terms: Callable[[ChannelGraph, Options], list[Term]]

    def shown(self, value: float) -> str:
        return f"{value:,.0f}{self.unit}" if value >= 1000 else f"{value:.4g}{self.unit}"


def _latency_terms(channels: ChannelGraph, options: Options) -> list[Term]:
    granularity = chosen_granularity(channels.graph, options.granularity)
    return table_at(options.latency_table).terms(channels, granularity)


_RESOURCES = (
    Resource("params", " parameters", lambda channels, options: param_terms(channels)),
    Resource("macs", " MACs", lambda channels, options: mac_terms(channels)),
    Resource("size_mb", " MB", lambda channels, options: byte_terms(channels)),
    Resource("latency_ms", " ms", _latency_terms),
)


def within_budget(grouping: Grouping, options: Options, weights: Sequence[float] | None = None) -> list[int]:
    """Number of bundles of each group that stay.

    Args:
        grouping: the groups of a traced model.
        options: with one of `params`, `macs`, `size_mb` and `latency_ms`.
        weights: for each group how large the share that goes is beside that of the others, in place of a ranking.

    Raises:
        PlanError: the budget cannot be met, or cannot be counted.
    """
    resource, amount = resource_of(options)
    search = _Search(grouping, resource.terms(grouping.channels, options))
    whole = _of_whole(resource, search, options)
    target = absolute(resource, amount, whole)
    reach = search.cost(search.least)
    if not is_met(target, reach):
        raise PlanError(_unreachable(resource, amount, target, reach, whole, options, grouping))
    if weights is not None:
        counts, worth = _weighted(search, target, weights)
    else:
        start = {"local": _locally, "isomorphic": _isomorphically}.get(options.ranking, _globally)
        counts, worth = start(search, target), _RETURNING[options.ranking](grouping.groups)
    return search.filled(counts, target, worth)


def reachable(grouping: Grouping, options: Options) -> tuple[Resource, float, float, float]:
    """The resource of the budget, and in its units: the least that can be reached, the budget, and the most.

    Raises:
        PlanError: the budget is of no resource, or cannot be counted.
    """
    resource, amount = resource_of(options)
    search = _Search(grouping, resource.terms(grouping.channels, options))
    whole = _of_whole(resource, search, options)
    return resource, search.cost(search.least), absolute(resource, amount, whole), search.cost(search.most)


def _of_whole(resource: Resource, search: _Search, options: Options) -> float:
    """The resource of the whole model, the residual blocks included that go."""
    whole = search.grouping.channels.whole
    return search.whole if whole is None else charged(resource.terms(whole, options))


def is_met(target: float, cost: float) -> bool:
    """Whether a cost keeps to a budget, both in units of its resource."""
    return cost <= target * (1 + _ROUNDING)


def resource_of(options: Options) -> tuple[Resource, float | str]:
    """The resource and the amount of the budget in `options`.

    Raises:
        PlanError: it is a threshold or a ratio, which is about no resource.
    """
    for resource in _RESOURCES:
        if getattr(options, resource.name) is not None:
            return resource, getattr(options, resource.name)
    raise PlanError(f"Expected one of {', '.join(x.name for x in _RESOURCES)}. Received another budget.")


def absolute(resource: Resource, amount: float | str, whole: float) -> float:
    """The amount of a budget in units of its resource; `whole` is the model's.

    Raises:
        PlanError: the model's amount is unknown.
    """
    if math.isnan(whole):
        raise PlanError(
            f"{resource.name}={amount}: this model's cannot be counted, because a size of its inputs is open. Expected fixed "
            "sizes, or another budget."
        )
    if whole == 0 and (isinstance(amount, str) or amount <= 1):
        raise PlanError(f"{resource.name}={amount}: this model's is 0, of which there is no share. Expected another budget.")
    if isinstance(amount, str):
        return float(amount.removesuffix("%")) / 100 * whole
    # Values up to 1 are a share for params and macs, an absolute number for size and latency.
    return amount * whole if amount <= 1 and resource.name in ("params", "macs") else float(amount)


Worth = Callable[[int, int], float]
"""(number of a group, how many of it stay) -> how much one step more is worth."""
Shares = Callable[[float], Sequence[float]]
"""A point -> for each group the share of it that is to stay there."""


def _of_small_shares(groups: Sequence[Group]) -> Worth:
    return lambda g, count: -_middle(groups[g], count)


def _of_scores(groups: Sequence[Group]) -> Worth:
    return lambda g, count: float(groups[g].scores[count])


def _of_ranks(groups: Sequence[Group]) -> Worth:
    """By the place of a score among all of its structure, 0 to 1."""
    pools = _pools(groups)
    return lambda g, count: float(np.searchsorted(pool := pools[groups[g].structure], groups[g].scores[count])) / len(pool)


_RETURNING = {"local": _of_small_shares, "global": _of_scores, "isomorphic": _of_ranks}


def _pools(groups: Sequence[Group]) -> dict[tuple[str, ...], FilterScores]:
    """Structure -> the scores of all of its groups, ascending."""
    return {
        structure: np.sort(np.concatenate([x.scores for x in groups if x.structure == structure]))
        for structure in dict.fromkeys(x.structure for x in groups)
    }


class _Search:
    """Costs of counts, stepwise, and settled where layers feed several groups; each group has its least and most counts."""

    def __init__(self, grouping: Grouping, terms: Sequence[Term]) -> None:
        self._terms = terms
        self.grouping = grouping
        self.ledger = Ledger(grouping, terms)
        self.whole = self.ledger.total
        fixed = {g: group.without_share(group.ratio) for g, group in enumerate(grouping.groups) if group.ratio is not None}
        self.least = [fixed.get(g, group.rounded(0)) for g, group in enumerate(grouping.groups)]
        self.most = [fixed.get(g, group.depth) for g, group in enumerate(grouping.groups)]

    def cost(self, counts: Sequence[int]) -> float:
        """Exact cost of the model with these counts."""
        return charged(self._terms, self.grouping.alive(counts))

    def first_enough(self, points: Sequence[float], shares: Shares, target: float) -> tuple[float, list[int]]:
        """The first of some points at which the groups, each at the count nearest to its share, meet a target; and these counts.

        The last point, where all goes that may, is taken where none is enough. Costs fall from point to point.
        """
        groups = self.grouping.groups

        def counts(point: float) -> list[int]:
            nearest = (_nearest_count(group, share) for group, share in zip(groups, shares(point), strict=True))
            return [min(max(count, low), high) for count, low, high in zip(nearest, self.least, self.most, strict=True)]

        first = bisect.bisect_left(points, True, hi=len(points) - 1, key=lambda point: self.cost(counts(point)) <= target)
        found = counts(points[first])
        return points[first], found if is_met(target, self.cost(found)) else list(self.least)

    def filled(self, counts: list[int], target: float, worth: Worth) -> list[int]:
        """Brings steps back as long as one fits, what is worth most first."""
        groups = self.grouping.groups
        self.ledger.set_all(counts)
        stuck: set[int] = set()
        while True:
            open_groups = [g for g in range(len(groups)) if g not in stuck and counts[g] < self.most[g]]
            if not open_groups:
                return counts
            g = max(open_groups, key=lambda g: worth(g, counts[g]))
            more = _one_step_more(groups[g], counts[g])
            tried = [*counts[:g], more, *counts[g + 1 :]]
            # Stepwise first, because exact is slow; exact, because layers that feed several groups may bring more back.
            if is_met(target, self.ledger.total + self.ledger.change(g, more)) and is_met(target, self.cost(tried)):
                counts = tried
                self.ledger.set(g, more)
            else:
                stuck.add(g)


def _one_step_more(group: Group, count: int) -> int:
    """One step more."""
    return min((count // group.step + 1) * group.step, group.depth)


def _one_step_less(group: Group, count: int) -> int:
    """One step less."""
    return (count - 1) // group.step * group.step


def _middle(group: Group, count: int) -> float:
    """The share halfway between a count and one step more: below it, the count is the nearer."""
    return (count + _one_step_more(group, count)) / (2 * group.depth)


def _nearest_count(group: Group, share_left: float) -> int:
    """The count nearest to a share; of two, the lower."""
    lower = int(share_left * group.depth) // group.step * group.step
    return lower if _middle(group, lower) >= share_left else _one_step_more(group, lower)


def _locally(search: _Search, target: float) -> list[int]:
    """The smallest share that every group can give, to its nearest step: by bisection over the shares where a count changes."""
    groups = search.grouping.groups
    changes = {_middle(group, k) for group in groups for k in range(0, group.depth, group.step)}
    descending = [1.0, *sorted(changes, reverse=True)]
    return search.first_enough(descending, lambda share_left: [share_left] * len(groups), target)[1]


def _weighted(search: _Search, target: float, weights: Sequence[float]) -> tuple[list[int], Worth]:
    """Each group gives a share in proportion to its weight, to its nearest step, as little of all as is enough.

    Steps come back where the rounding took most beyond these shares.
    """
    groups = search.grouping.groups

    def shares_left(scale: float) -> list[float]:
        return [max(1 - scale * weight, 0.0) for weight in weights]

    # From here on every group with a weight has given all that it may.
    too_much = 1 / min((x for x in weights if x > 0), default=1.0)
    scale, counts = search.first_enough((np.linspace(0, 1, 4097) ** 3 * too_much).tolist(), shares_left, target)
    wanted = shares_left(scale)
    return counts, lambda g, count: wanted[g] - _middle(groups[g], count)


def _isomorphically(search: _Search, target: float) -> list[int]:
    """The smallest share that every structure can give, its lowest scores, each group to its nearest step."""
    groups = search.grouping.groups
    pools = _pools(groups)

    def shares_left(share_left: float) -> list[float]:
        found = []
        for group in groups:
            pool = pools[group.structure]
            gone = round((1 - share_left) * len(pool))
            found.append(1.0 if gone == 0 else int(np.sum(group.scores > pool[gone - 1])) / group.depth)
        return found

    descending = sorted({1.0, *(k / len(pool) for pool in pools.values() for k in range(len(pool) + 1))}, reverse=True)
    return search.first_enough(descending, shares_left, target)[1]


def _globally(search: _Search, target: float) -> list[int]:
    """Steps go in the order of score lost for what is saved, until the budget is met."""
    groups = search.grouping.groups
    ledger_ = search.ledger
    ledger_.set_all(search.most)
    counter = itertools.count()

    def price(g: int) -> float:
        before, after = ledger_.counts[g], _one_step_less(groups[g], ledger_.counts[g])
        saved = -ledger_.change(g, after)
        return float(groups[g].scores[after:before].sum()) / saved if saved > 0 else math.inf

    def can_go(g: int) -> bool:
        return _one_step_less(groups[g], ledger_.counts[g]) >= search.least[g]

    heap = [(price(g), next(counter), g) for g in range(len(groups)) if can_go(g)]
    heapq.heapify(heap)
    while ledger_.total > target and heap:
        _, _, g = heapq.heappop(heap)
        # Prices only rise while others go: a step saves the less, the narrower its neighbors are.
        now = price(g)
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, next(counter), g))
            continue
        after = _one_step_less(groups[g], ledger_.counts[g])
        ledger_.set(g, after)
        if can_go(g):
            heapq.heappush(heap, (price(g), next(counter), g))
    counts = list(ledger_.counts)
    # Where layers feed several groups, counts are settled upwards: more has to go.
    while heap and not is_met(target, search.cost(counts)):
        _, _, g = heapq.heappop(heap)
        after = _one_step_less(groups[g], counts[g])
        counts[g] = after
        ledger_.set(g, after)
        if can_go(g):
            heapq.heappush(heap, (price(g), next(counter), g))
    return counts if is_met(target, search.cost(counts)) else list(search.least)


def _unreachable(
    resource: Resource, amount: float | str, target: float, reach: float, whole: float, options: Options, grouping: Grouping
) -> str:
    what = f" ({resource.shown(target)})" if isinstance(amount, str) or target != amount else ""
    limits = [f"granularity={grouping.granularity}", f"min_num_filters={options.min_num_filters}"]
    if largest_share(options) is not None:
        limits.append(f"max_ratio={largest_share(options)}")
    if grouping.excluded:
        limits.append("excluded_layers")
    return (
        f"{resource.name}={amount}{what} cannot be met: with {', '.join(limits)} this model keeps at least "
        f"{resource.shown(reach)}, {100 * reach / whole:.1f} % of its {resource.shown(whole)}. Expected at least that, or "
        "lower limits."
    )
