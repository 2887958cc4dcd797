"""Pruning in steps, with training in between."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Unpack

from tlt_prune.config import LayerOptions, OptionArguments, Options, is_count, options_of, options_spelled_out
from tlt_prune.errors import PlanError
from tlt_prune.graph import ChannelGraph, KerasModel
from tlt_prune.io import files
from tlt_prune.pruning.compensation import Compensations
from tlt_prune.pruning.cost.terms import charged
from tlt_prune.pruning.planning import decide
from tlt_prune.pruning.select.blocks import trace_for
from tlt_prune.pruning.select.budgets import absolute, resource_of
from tlt_prune.pruning.select.groups import largest_share, layer_options_by_name
from tlt_prune.pruning.select.select import bundle_scores
from tlt_prune.pruning.step_files import SavedSteps, checksum_of_steps, refuse_what_cannot_be_loaded

Kind = Literal["linear", "cubic"]


def progress_of(step: int, steps: int, kind: Kind) -> float:
    """Share of all that is to go which is gone after a step, 1 <= step <= steps.

    "linear": k/n; "cubic": 1 - (1 - k/n)^3, most at the beginning, while there is most to spare (Zhu and Gupta, "To prune, or not
    to prune", 2017, arXiv:1710.01878, equation 1).
    """
    share = step / steps
    return share if kind == "linear" else 1 - (1 - share) ** 3


@dataclasses.dataclass(frozen=True, eq=False)
class PruningSteps:
    """Division of a prune into steps.

    Attributes:
        original: the traced model before the first step.
        count: number of prunes.
        kind: "linear" or "cubic": see `progress_of`.
    """

    original: ChannelGraph
    count: int
    kind: Kind

    def walk(self, start: object, first: int = 1) -> Iterator[PruningStep]:
        """The steps from `first` on, one after the other; `start` is the model (or its file) that the first one prunes.

        Whoever receives a step says what the next one starts from, in `step.result`.
        """
        for number in range(first, self.count + 1):
            step = PruningStep(self, number, start)
            yield step
            start = step.result


@dataclasses.dataclass(eq=False)
class PruningStep:
    """One prune of several.

    Attributes:
        steps: what it is one of.
        number: 1 <= number <= steps.count.
        start: what it prunes.
        result: what the next step prunes, once this one's training is over; the receiver's to set.
    """

    steps: PruningSteps
    number: int
    start: Any
    result: Any = None

    @property
    def is_last(self) -> bool:
        return self.number == self.steps.count

    def options(self, options: Options, current: ChannelGraph) -> Options:
        """The options of this step: the budget that is to be kept after it.

        Args:
            options: what is to be reached after the last step.
            current: the traced model before this step.
        """
        original = self.steps.original
        gone = progress_of(self.number, self.steps.count, self.steps.kind)
        given = options
        options = options.model_copy(update={"layer_options": self._shares_of_what_is_left(options, current, gone)})
        if options.threshold is not None:
            return options.model_copy(update={"threshold": options.threshold * gone})
        if options.ratio is not None:
            # Counts are rounded up: of what one step left after another, they would never come down to those of one prune.
            by_norm = given.model_copy(update={"ratio": options.ratio * gone, "criterion": "L2"})
            wanted = {x.layer: x.filters_after for x in decide(original, by_norm).plan.layers}
            special = options.layer_options
            shares = {
                p.name: special[p.name].model_copy(update={"ratio": 1 - wanted[p.name] / len(p.labels)})
                for p in current.producers
            }
            return options.model_copy(update={"layer_options": {**special, **shares}})
        resource, amount = resource_of(options)
        full = charged(resource.terms(original, options))
        target = absolute(resource, amount, full)
        return options.model_copy(update={resource.name: full - gone * (full - target)})

    def _shares_of_what_is_left(self, options: Options, current: ChannelGraph, gone: float) -> dict[str, LayerOptions]:
        """The options of layers, in which shares of the original channels have become shares of those that are left."""
        special = layer_options_by_name(self.steps.original, options)
        widths = {p.name: len(p.labels) for p in self.steps.original.producers}
        changed = dict(options.layer_options)
        for producer in current.producers:
            name, now = producer.name, len(producer.labels)
            here = special.get(name, LayerOptions())
            most = here.max_ratio if here.max_ratio is not None else largest_share(options)
            shares = {"max_ratio": most, "ratio": None if here.ratio is None else here.ratio * gone}
            # Rounded up, as for one prune.
            kept = {key: math.ceil((1 - x) * widths.get(name, now) - 1e-9) for key, x in shares.items() if x is not None}
            left = {key: max(1 - count / now, 0.0) for key, count in kept.items()}
            changed[name] = here.model_copy(update={"ratio": left.get("ratio"), "max_ratio": left.get("max_ratio")})
        return changed


def iterative_prune(
    model: KerasModel,
    retrain: Callable[[Any, int], Any],
    *,
    steps: int = 4,
    schedule: Kind = "cubic",
    layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    compensation: Compensations | None = None,
    verify: bool = False,
    folder: str | pathlib.Path | None = None,
    **options: Unpack[OptionArguments],
) -> Any:
    """Prunes in steps, with training after each.

    Args:
        model: a functional or Sequential Keras model. It stays as it is.
        retrain: `retrain(pruned, step)` trains a pruned model in place, or returns another one; called after every step, 1 to
            `steps`. The history that `fit` returns stands for a training in place.
        steps: number of prunes.
        schedule: "linear" or "cubic": see `progress_of`.
        layer_config_overrides, compensation, verify: as for `tlt_prune.prune_model`, at each prune.
        folder: receives `step_1.keras`... after each training. Called again with the same arguments, it goes on after the last
            step that is there.
        **options: the fields of `tlt_prune.Options`: a budget, which is reached in the last step, and how it is reached.

    Returns:
        The model after the last step's training.

    Raises:
        PlanError: an option is out of range, the budget cannot be met, or `folder` holds the steps of something else.
        UnsupportedModelError: the model has no graph, or a layer cannot be rebuilt.
        LawError: `verify` found a difference.
    """
    _check(retrain, steps, schedule)
    chosen = _without_blocks(options_of(options))
    making = {"layer_config_overrides": layer_config_overrides, "compensation": compensation, "verify": verify}
    channels = trace_for(model, chosen)
    # A budget that cannot be met is refused before hours of training, not after.
    statistic = bundle_scores(channels, chosen)
    decide(channels, chosen, statistic)
    if folder is not None:
        refuse_what_cannot_be_loaded(model, channels.graph.family)
    with contextlib.nullcontext() if folder is None else files.claimed([folder], "pruning in steps into"):
        saved = None
        if folder is not None:
            checksum = checksum_of_steps(model, chosen, steps, schedule, layer_config_overrides)
            saved = SavedSteps(pathlib.Path(folder), checksum, channels.graph.family)
        current, first = (saved.latest() if saved is not None else None) or (model, 1)
        for step in PruningSteps(channels, steps, schedule).walk(current, first):
            traced = channels if step.number == 1 else trace_for(step.start, chosen)
            decision = decide(traced, step.options(chosen, traced), statistic if step.number == 1 else None)
            pruned = decision.carry_out(**making).model
            current = step.result = _trained(pruned, retrain(pruned, step.number), channels)
            if saved is not None:
                saved.save(current, step.number)
        return current


def _check(retrain: object, steps: object, schedule: object) -> None:
    if not is_count(steps) or schedule not in ("linear", "cubic") or not callable(retrain):
        raise PlanError(
            'iterative_prune: expected a function retrain(pruned, step), a whole number of steps >= 1, and schedule "linear" or '
            f'"cubic". Received: {retrain!r}, {steps!r}, {schedule!r}.'
        )


def _trained(pruned: Any, returned: object, channels: ChannelGraph) -> Any:
    """The model that `retrain` leaves: the one that it returned, or else the one that it was given."""
    # What `fit` returns, of either Keras: a training in place.
    if returned is None or type(returned).__name__ == "History":
        return pruned
    if not isinstance(returned, channels.graph.family.namespace().Model):
        raise PlanError(f"iterative_prune: expected retrain to return a model, or nothing. Received: {returned!r}.")
    return returned


def _without_blocks(options: Options) -> Options:
    """The options, where they name no blocks: after the first step there would be none of these."""
    if options.blocks:
        raise PlanError("iterative_prune: expected no blocks. Take them out before, by tlt_prune.remove_blocks(model, names).")
    return options


options_spelled_out(iterative_prune)
