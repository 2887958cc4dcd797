"""Pruning in steps, with training in between."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Unpack

from pydantic import Field

from tlt_prune.config.options import LayerOptions, OptionArguments, Options, options_of, options_spelled_out
from tlt_prune.config.settings import Settings, checked
from tlt_prune.config.texts import read_json
from tlt_prune.errors import DataError, PlanError, first_line
from tlt_prune.graph.channel_graph import ChannelGraph
from tlt_prune.graph.family import Family
from tlt_prune.graph.tracer import trace
from tlt_prune.io import files
from tlt_prune.pruning.cost.terms import charged
from tlt_prune.pruning.planning import decide
from tlt_prune.pruning.select.budgets import absolute, resource_of
from tlt_prune.pruning.select.select import bundle_scores

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
    """How the way to a budget is divided into steps.

    Attributes:
        original: the traced model before the first step.
        count: number of prunes.
        kind: "linear" or "cubic": see `progress_of`.
    """

    original: ChannelGraph
    count: int
    kind: Kind

    def walk(self, start: Any, first: int = 1) -> Iterator[PruningStep]:
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
        if options.threshold is not None:
            return options.model_copy(update={"threshold": options.threshold * gone})
        if options.ratio is not None:
            # Counts are rounded up: of what one step left after another, they would never come down to those of one prune.
            by_norm = options.model_copy(update={"ratio": options.ratio * gone, "criterion": "L2"})
            wanted = {x.layer: x.filters_after for x in decide(original, by_norm).plan.layers}
            shares = {p.name: LayerOptions(ratio=1 - wanted[p.name] / len(p.labels)) for p in current.producers}
            return options.model_copy(update={"layer_options": {**options.layer_options, **shares}})
        resource, said = resource_of(options)
        full = charged(resource.terms(original, options))
        target = absolute(resource, said, full)
        return options.model_copy(update={resource.name: full - gone * (full - target)})


def iterative_prune(
    model: Any,
    retrain: Callable[[Any, int], Any],
    *,
    steps: int = 4,
    schedule: Kind = "cubic",
    layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    compensation: Any = None,
    verify: bool = False,
    folder: str | pathlib.Path | None = None,
    **options: Unpack[OptionArguments],
) -> Any:
    """Prunes in steps, with training after each.

    Args:
        model: a functional or Sequential Keras model. It stays as it is.
        retrain: `retrain(pruned, step)` trains a pruned model in place, or returns another one; called after every step, 1 to
            `steps`.
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
    if steps < 1 or schedule not in ("linear", "cubic"):
        raise PlanError(
            f'iterative_prune: expected steps >= 1 and schedule "linear" or "cubic". Received: {steps}, {schedule!r}.'
        )
    chosen = options_of(options)
    channels = trace(model, chosen.channelwise_layers)
    # A budget that cannot be met is refused before hours of training, not after.
    statistic = bundle_scores(channels, chosen)
    decide(channels, chosen, statistic)
    if folder is not None:
        _refuse_what_cannot_be_loaded(model, channels.graph.family)
    with contextlib.nullcontext() if folder is None else files.claimed([folder], "pruning in steps into"):
        done = None
        if folder is not None:
            identity = _identity(model, chosen, steps, schedule, layer_config_overrides)
            done = _Steps(pathlib.Path(folder), identity, channels.graph.family)
        current, first = (done.latest() if done is not None else None) or (model, 1)
        for step in PruningSteps(channels, steps, schedule).walk(current, first):
            traced = channels if step.number == 1 else trace(step.start, chosen.channelwise_layers)
            decision = decide(traced, step.options(chosen, traced), statistic if step.number == 1 else None)
            pruned = decision.carry_out(
                layer_config_overrides=layer_config_overrides, compensation=compensation, verify=verify
            ).model
            returned = retrain(pruned, step.number)
            current = step.result = pruned if returned is None else returned
            if done is not None:
                done.save(current, step.number)
        return current


options_spelled_out(iterative_prune)


def _refuse_what_cannot_be_loaded(model: Any, family: Family) -> None:
    """Raises a PlanError for a model whose saved steps could not be read again, before hours of training."""
    saving = family.namespace().saving
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saving.deserialize_keras_object(saving.serialize_keras_object(model))
    # A layer of the user's own may raise anything.
    except Exception as error:
        raise PlanError(
            f"iterative_prune: '{model.name}' could not be loaded from `folder` to go on after an interruption: "
            f"{first_line(error, 200)} Expected layers that Keras can load, custom ones decorated with "
            "@keras.saving.register_keras_serializable(). Without folder= it is pruned all the same."
        ) from error


def _identity(model: Any, options: Options, steps: int, schedule: str, overrides: Mapping[str, Any] | None) -> str:
    """What the steps in a folder belong to."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    said = {k: v for k, v in options.model_dump(mode="python").items() if k != "criterion"}
    said["criterion"] = options.criterion if isinstance(options.criterion, str) else type(options.criterion).__name__
    deciding = [said, steps, schedule, *([dict(overrides)] if overrides else [])]
    digest.update(json.dumps(deciding, default=str, sort_keys=True).encode())
    return digest.hexdigest()


class StepRecord:
    """The steps that were done, and what they belong to, in a file.

    Args:
        path: the file.
        of: what decides the steps, as text that is equal for equal things.
        otherwise: raised where the file belongs to something else.

    Raises:
        PlanError: the file is damaged.
    """

    def __init__(self, path: pathlib.Path, of: str, otherwise: Exception) -> None:
        self._path, self._of = path, of
        record = _read_record(path) if path.exists() else _Record(of=of)
        if record.of != of:
            raise otherwise
        self._digests = list(record.steps)

    @property
    def count(self) -> int:
        """Steps that were done once."""
        return len(self._digests)

    def intact(self, file_of: Callable[[int], pathlib.Path]) -> int:
        """Number of the last step up to which all files are what was written."""
        for step, digest in enumerate(self._digests, start=1):
            if not file_of(step).is_file() or _digest(file_of(step)) != digest:
                return step - 1
        return self.count

    def done(self, step: int, file: pathlib.Path) -> None:
        """Notes a step and the file that it wrote; what came after it belongs to it no longer."""
        self._digests = [*self._digests[: step - 1], _digest(file)]
        files.write_text(self._path, json.dumps({"of": self._of, "steps": self._digests}))


class _Record(Settings):
    of: str
    steps: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 of the file of each step."""


def _read_record(path: pathlib.Path) -> _Record:
    try:
        return checked(_Record, read_json(path, "the record of a prune in steps"), str(path), PlanError)
    except (DataError, PlanError) as error:
        raise PlanError(f"The record of the steps is damaged: {error} Delete {path.parent} to start afresh.") from error


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Steps:
    """The models after each step, in a folder."""

    def __init__(self, folder: pathlib.Path, identity: str, family: Family) -> None:
        self._folder, self._family = folder, family
        files.output_folder(folder)
        otherwise = PlanError(
            f"{folder} holds the steps of another model or with other arguments. Expected another folder, or an empty one."
        )
        self._record = StepRecord(folder / "steps.json", identity, otherwise)

    def latest(self) -> tuple[Any, int] | None:
        """(the model after the last step that is there, the number of the next)."""
        step = self._record.intact(self._file)
        if step < self._record.count:
            raise PlanError(
                f"{self._file(step + 1)} is damaged, or not what step {step + 1} wrote. Delete {self._folder} to start afresh."
            )
        return (self._family.namespace().models.load_model(self._file(step)), step + 1) if step else None

    def save(self, model: Any, step: int) -> None:
        with files.whole_file(self._file(step)) as partial:
            model.save(partial)
        self._record.done(step, self._file(step))

    def _file(self, step: int) -> pathlib.Path:
        return self._folder / f"step_{step}.keras"
