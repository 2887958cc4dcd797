"""Search for a plan: candidates at one budget, drawn around a first guess, each scored as the model it leads to, the best kept.

Random search around a start (Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13, 2012), every other
time around the best so far instead, as an evolution strategy does.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd

from tlt_prune.config import OptionArguments, Options, is_count, options_of, options_spelled_out
from tlt_prune.errors import PlanError
from tlt_prune.graph import ChannelGraph, KerasModel
from tlt_prune.io import checksums, progress
from tlt_prune.pruning import plots
from tlt_prune.pruning.compensation import Compensations
from tlt_prune.pruning.cost.granularity import chosen_granularity
from tlt_prune.pruning.criteria.network import FilterScores
from tlt_prune.pruning.plan import PruningPlan
from tlt_prune.pruning.planning import Decision, decide
from tlt_prune.pruning.running.result_file import ResultFile
from tlt_prune.pruning.select.blocks import trace_for
from tlt_prune.pruning.select.budgets import reachable
from tlt_prune.pruning.select.groups import Grouping, grouping
from tlt_prune.pruning.select.select import bundle_scores, ranking_of
from tlt_prune.pruning.sensitivity import Sensitivity

# Below it a group would never give anything in any candidate.
_LEAST_WEIGHT = 0.02
# Standard deviation of the logarithm of a group's weight, around the start and around the best.
_FAR, _NEAR = 0.6, 0.25
# Draws for one candidate, each wider than the one before, until one differs from all that were tried.
_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """The outcome of a search.

    Attributes:
        model: the pruned model of the best candidate, as it was scored.
        plan: its plan.
        frame: one row per candidate (the index), in the order they were tried: "origin" ("options", "sensitivity", "start" or
            "best", what it was drawn around), "score", "params" and "macs".
        shares: one row per candidate, one column per group, named by its first layer: the share of its channels that goes.
    """

    model: Any
    plan: PruningPlan
    frame: pd.DataFrame
    shares: pd.DataFrame

    @property
    def best(self) -> int:
        """Number of the best candidate; of equal ones the first."""
        return int(self.frame["score"].argmax())

    def __repr__(self) -> str:
        first, best = self.frame["score"].iloc[0], self.frame["score"].iloc[self.best]
        return f"<Search of {len(self.frame)} candidates: score {best:.4f} by candidate {self.best}, {first:.4f} by the options>"

    def plot(self) -> Any:
        """A matplotlib figure: the score of each candidate and the best so far, and the shares of the best one."""
        return plots.draw_search(self.frame, self.shares.iloc[self.best])

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.frame.round(4).to_html()}".replace("<Search", "&lt;Search")


def search(
    model: KerasModel,
    score: Callable[[Any], float],
    *,
    candidates: int = 40,
    around: Sensitivity | None = None,
    cache: str | pathlib.Path | None = None,
    seed: int = 0,
    compensation: Compensations | None = None,
    **options: Unpack[OptionArguments],
) -> SearchResult:
    """Tries plans that keep to a budget, and returns the one whose pruned model scores best.

    The first candidate is what `prune_model` makes of the same options, so the result is never below it. The second, where
    `around` is given, is that of the sensitivities. The others are drawn around that start and, by turns, more closely around
    the best so far. How many channels of a layer go differs among them; which go first is the criterion's to say in all.

    One line says which sizes can be reached before the first candidate is made.

    Args:
        model: a functional or Sequential Keras model. It is only read.
        score: `score(pruned)`, the higher the better: the accuracy on a few hundred pictures, say. It may train its argument.
        candidates: how many different ones are scored at most; fewer where no others are found.
        around: what `tlt_prune.sensitivity` measured of this model.
        cache: a file of JSON lines that scores are appended to as they come: the same search goes on from there. Another
            `score`, or a compensation by other data, needs another file.
        seed: of the draws.
        compensation: as for `tlt_prune.prune_model`, of each candidate.
        **options: the fields of `tlt_prune.Options`, with one of the budgets `params`, `macs`, `size_mb` and `latency_ms`.

    Raises:
        PlanError: an option is out of range, the budget cannot be met, a score is no finite number, or `cache` holds the scores
            of something else.
        UnsupportedModelError: the model has no graph, or a layer cannot be rebuilt.
    """
    for name, count, least in (("candidates", candidates, 1), ("seed", seed, 0)):
        if not is_count(count, least):
            raise PlanError(f"search: expected {name} >= {least}, a whole number. Received: {count!r}.")
    if around is not None and not isinstance(around, Sensitivity):
        raise PlanError(f"search: expected around= to be what tlt_prune.sensitivity returns. Received: {around!r}.")
    chosen = options_of(options)
    drawing = _Drawing(trace_for(model, chosen), chosen, around, seed)
    print(drawing.reach(), flush=True)
    file = drawing.results(cache, compensation)
    known = file.begin()
    scores: list[float] = []
    with progress(candidates, f"Search of {candidates} candidates") as advance:
        while len(scores) < candidates and (decision := drawing.draw(scores)) is not None:
            # By what it is, too: latencies that are measured again lead to other candidates.
            key = f"{len(scores)} {checksums.of_arrays([decision.alive])}"
            if key not in known:
                known[key] = _checked_score(score(decision.carry_out(compensation=compensation).model), len(scores))
                file.append(key, known[key])
            scores.append(known[key])
            advance()
    frame, shares = drawing.tables(scores)
    best = drawing.decisions[int(frame["score"].argmax())]
    # Made anew: `score` may have trained the one it was given.
    return SearchResult(best.carry_out(compensation=compensation).model, best.plan, frame, shares)


def _checked_score(value: object, number: int) -> float:
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise PlanError(f"search: expected a finite number as the score of candidate {number}. Received: {value!r}.")
    return score


def _settings(compensation: object) -> dict[str, Any]:
    """Numbers and words that a compensation was made with."""
    found = getattr(compensation, "__dict__", {})
    return {name: x for name, x in found.items() if name.startswith("_") and isinstance(x, (int, float, str))}


class _Drawing:
    """Candidates: each follows from its number and from what those before it scored, and from nothing else."""

    def __init__(self, channels: ChannelGraph, options: Options, around: Sensitivity | None, seed: int) -> None:
        self._channels, self._options, self._around, self._seed = channels, options, around, seed
        self._statistic: FilterScores = bundle_scores(channels, options)
        ranked = options.model_copy(update={"ranking": ranking_of(options)})
        granularity = chosen_granularity(channels.graph, options.granularity)
        self._groups: Grouping = grouping(channels, self._statistic, ranked, granularity)
        self._reach = reachable(self._groups, options)
        self._by_sensitivity = self._measured() if around is not None else None
        self.decisions: list[Decision] = []
        self._origins: list[str] = []

    def reach(self) -> str:
        """What can be reached, in one line."""
        resource, least, target, most = self._reach
        reach = f"{resource.shown(least)} to {resource.shown(most)} can be reached"
        return f"{resource.name}: {reach}; the candidates have at most {resource.shown(target)}."

    def results(self, cache: str | pathlib.Path | None, compensation: Compensations | None) -> ResultFile:
        """The file of scores; it belongs to all that the candidates depend on."""
        graph = self._channels.graph
        given = [] if self._around is None else [self._around.frame.to_numpy().tolist(), list(self._around.frame.index)]
        several = list(compensation) if isinstance(compensation, (list, tuple)) else [compensation]
        fitted = [x if isinstance(x, str) else [type(x).__name__, _settings(x)] for x in several]
        arrays = [self._statistic, *map(graph.family.numpy, graph.family.weights(graph.model))]
        settings = [self._options.model_dump(exclude={"criterion"}), given, self._seed, fitted, checksums.of_arrays(arrays)]
        return ResultFile(
            cache,
            checksums.of_settings(settings),
            what="search",
            of="a search",
            names=("candidate", "score"),
            depends="model, other options, sensitivities, compensations or another seed",
        )

    def draw(self, scores: Sequence[float]) -> Decision | None:
        """The next candidate, unlike all before it; `scores` are theirs. None where there seems to be no other."""
        number = len(scores)
        if number == 0:
            return self._taken("options", decide(self._channels, self._options, self._statistic))
        tried = {x.alive.tobytes() for x in self.decisions}
        if number == 1 and self._by_sensitivity is not None:
            decision = self._decided(self._by_sensitivity)
            if decision.alive.tobytes() not in tried:
                return self._taken("sensitivity", decision)
        # Every other one looks closer, around what was best so far.
        near = number % 2 == 0 and number > 3
        start = (not near and self._by_sensitivity) or self._shares(self.decisions[int(np.argmax(scores)) if near else 0])
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self._seed, number, attempt])
            spread = (_NEAR if near else _FAR) * (1 + attempt / 4)
            weights = np.maximum(start, _LEAST_WEIGHT) * np.exp(spread * rng.standard_normal(len(start)))
            decision = self._decided(weights.tolist())
            if decision.alive.tobytes() not in tried:
                return self._taken("best" if near else "start", decision)
        return None

    def tables(self, scores: Sequence[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(frame, shares) of the result."""
        index = pd.RangeIndex(len(scores), name="candidate")
        plans = [x.plan for x in self.decisions]
        columns = {
            "origin": self._origins,
            "score": scores,
            "params": [x.params_after for x in plans],
            "macs": [x.macs_after for x in plans],
        }
        groups = [x.layers[0] for x in self._groups.groups]
        shares = [self._shares(x) for x in self.decisions]
        return pd.DataFrame(columns, index=index), pd.DataFrame(shares, columns=groups, index=index)

    def _taken(self, origin: str, decision: Decision) -> Decision:
        self.decisions.append(decision)
        self._origins.append(origin)
        return decision

    def _shares(self, decision: Decision) -> list[float]:
        """The share of each group that goes."""
        return [1 - float(decision.alive[group.members].mean()) for group in self._groups.groups]

    def _decided(self, weights: Sequence[float]) -> Decision:
        return decide(self._channels, self._options, self._statistic, weights)

    def _measured(self) -> list[float]:
        """The shares by which the sensitivities meet the budget."""
        assert self._around is not None
        resource = self._reach[0].name
        options = {name: getattr(self._options, name) for name in (resource, "latency_table", "granularity")}
        ratios = self._around.layer_options(**options)
        missing = [x.layers[0] for x in self._groups.groups if x.layers[0] not in ratios]
        if missing:
            raise PlanError(
                f"search: the sensitivities in around= say nothing about '{missing[0]}'. Expected those of this model, measured "
                "with the same excluded_layers."
            )
        return [ratios[x.layers[0]]["ratio"] for x in self._groups.groups]


options_spelled_out(search)
