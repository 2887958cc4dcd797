"""What will be removed: a value that can be read, printed, saved and applied."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from tlt_prune.config.options import BUDGETS
from tlt_prune.config.settings import Settings, checked
from tlt_prune.config.texts import json_of, read_json
from tlt_prune.errors import DataError, PlanError
from tlt_prune.graph.channel_graph import ChannelGraph
from tlt_prune.graph.labels import Alive
from tlt_prune.graph.tracer import trace
from tlt_prune.io import files
from tlt_prune.pruning import pictures
from tlt_prune.pruning.pipeline import carry_out
from tlt_prune.pruning.sweep import sweep

_FORMAT = 3
# Below this share of channels, parameters and MACs alike, a prune has done next to nothing.
_NEXT_TO_NOTHING = 0.02
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One producing layer.

    Attributes:
        layer: its path ("submodel/conv"), with ":part" where a layer has several kinds of channels.
        kind: class name.
        filters_before, filters_after: number of channels it produces.
        params_before, params_after: parameters of the layer.
        macs_before, macs_after: multiply-accumulates for one input, NaN where a size is unknown.
        groups: numbers of the groups its channels are ranked in; none if all are frozen.
        note: why channels are frozen, or why their removal is approximate; empty otherwise.
    """

    layer: str
    kind: str
    filters_before: int
    filters_after: int
    params_before: int
    params_after: int
    macs_before: float
    macs_after: float
    groups: tuple[int, ...]
    note: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PruningPlan:
    """The retained channels of every layer, and what that saves.

    Attributes:
        model_name: name of the model it was made for.
        kept: layer path -> retained channel indices, ascending, shape `(filters_after,)`.
        layers: one `LayerPlan` a producing layer, in topological order.
        params_before, params_after, macs_before, macs_after: of the whole model.
        size_mb_before, size_mb_after: of its weights, in megabytes of 10^6 bytes.
        latency_ms_before, latency_ms_after: as predicted, where the budget is one of latency; None otherwise.
        scores: quantiles (0, 5, 25, 50, 75 and 100 %) of the normalized scores of all channels that may go; empty if none may.
        first_threshold: the smallest threshold that removes anything; infinite where none does.
        settings: the arguments that led here.
        unknown: path -> class name of each layer without a rule.
        frozen: why channels may not go, each reason once.
    """

    model_name: str
    kept: Mapping[str, NDArray[np.int64]]
    layers: tuple[LayerPlan, ...]
    params_before: int
    params_after: int
    macs_before: float
    macs_after: float
    size_mb_before: float
    size_mb_after: float
    latency_ms_before: float | None
    latency_ms_after: float | None
    scores: tuple[float, ...]
    first_threshold: float
    settings: Mapping[str, Any]
    unknown: Mapping[str, str]
    frozen: tuple[str, ...] = ()

    @property
    def removed(self) -> int:
        """Number of channels that go."""
        return sum(x.filters_before - x.filters_after for x in self.layers)

    def apply(
        self,
        model: Any,
        layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
        compensation: Any = None,
        *,
        verify: bool = False,
        by_position: bool = False,
    ) -> Any:
        """Returns `model` without the channels this plan removes; `model` stays as it is.

        Args:
            model: the model the plan was made for, or one of the same architecture.
            layer_config_overrides, compensation, verify: as for `tlt_prune.prune_model`.
            by_position: whether layers correspond by their order and not by their names, which Keras chooses anew for each model
                that is made without them ("conv2d_3").

        Raises:
            PlanError: the plan does not fit the model.
            UnsupportedModelError: the model has no graph, or a layer cannot be rebuilt.
            LawError: `verify` found a difference.
        """
        channels = trace(model, self.settings.get("channelwise_layers", ()))
        alive = (self._renamed(channels) if by_position else self).alive(channels)
        made = carry_out(channels, alive, layer_config_overrides=layer_config_overrides, compensation=compensation, verify=verify)
        return made.model

    def alive(self, channels: ChannelGraph) -> Alive:
        """`(n_labels,)`: what is retained of a traced model.

        Raises:
            PlanError: other layers or widths than the plan's, or coupled channels that part.
        """
        root = channels.bundles.root
        alive = np.ones(len(root), dtype=bool)
        _same_layers(self, channels)
        for producer in channels.producers:
            gone = np.ones(len(producer.labels), dtype=bool)
            gone[_indices(self.kept, producer.name, len(producer.labels))] = False
            alive[root[producer.labels[gone]]] = False
        alive = alive[root]
        for producer in channels.producers:
            if not np.array_equal(np.flatnonzero(alive[producer.labels]), self.kept[producer.name]):
                raise PlanError(
                    f"The plan keeps {len(self.kept[producer.name])} channels of '{producer.name}', but layers coupled to "
                    "it keep others. Expected the plan of this very model, unedited."
                )
        for tensor in channels.tensors:
            if not alive[tensor.labels].any():
                raise PlanError(f"The plan leaves no channel behind '{tensor.path}'. Expected at least one in every tensor.")
        for bundle, reason in channels.bundles.frozen.items():
            if not alive[bundle]:
                raise PlanError(f"The plan removes a frozen channel ({reason}). Expected the plan of this very model.")
        return alive

    def _renamed(self, channels: ChannelGraph) -> PruningPlan:
        """This plan with the layer names of another model of the same layers, in order.

        Raises:
            PlanError: it has other layers.
        """
        _same_layers(self, channels, by_position=True)
        names = [p.name for p in channels.producers]
        layers = tuple(dataclasses.replace(x, layer=name) for x, name in zip(self.layers, names, strict=True))
        kept = {name: self.kept[x.layer] for x, name in zip(self.layers, names, strict=True)}
        return dataclasses.replace(self, layers=layers, kept=kept)

    def sweep(self, model: Any, thresholds: Sequence[float] | None = None) -> pd.DataFrame:
        """What other thresholds would leave of `model`, with this plan's other settings: see `tlt_prune.sweep`."""
        others = {key: value for key, value in self.settings.items() if key not in (*BUDGETS, "ranking")}
        return sweep(model, thresholds, **others)  # type: ignore[arg-type]

    def plot(self) -> Any:
        """A matplotlib figure: one bar for each layer, its channels before and after. A notebook shows it as a cell's result."""
        return pictures.draw_plan(self)

    def _repr_html_(self) -> str:
        return pictures.plan_as_html(self)

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, a row a producing layer."""
        columns = [f.name for f in dataclasses.fields(LayerPlan)]
        frame = pd.DataFrame([dataclasses.astuple(x) for x in self.layers], columns=columns)
        return frame.set_index("layer")

    def summary(self) -> str:
        """One line: channels, parameters and MACs before and after."""
        if not self.removed:
            return f"{self.model_name}: nothing is removed"
        before, after = (sum(getattr(x, f"filters_{when}") for x in self.layers) for when in ("before", "after"))
        macs = "" if math.isnan(self.macs_before) else f", MACs {_change(self.macs_before, self.macs_after)}"
        params = _change(self.params_before, self.params_after)
        latency = ""
        if self.latency_ms_before is not None and self.latency_ms_after is not None:
            latency = f", latency {self.latency_ms_before:.3g} -> {self.latency_ms_after:.3g} ms (predicted)"
        return f"{self.model_name}: channels {_change(before, after)}, parameters {params}{macs}{latency}"

    def advice(self) -> str:
        """Where next to nothing is removed: why, and what to do. Empty otherwise."""
        filters = sum(x.filters_before for x in self.layers)
        pairs = ((filters, filters - self.removed), (self.params_before, self.params_after), (self.macs_before, self.macs_after))
        if any(1 - after / before >= _NEXT_TO_NOTHING for before, after in pairs if before):
            return ""
        if not self.scores:
            reasons = sorted({x.note.removeprefix("frozen: ") for x in self.layers if x.note} or self.frozen)
            return f"Every layer is frozen: {'; '.join(reasons[:3]) or 'the model has no prunable layer'}."
        threshold = self.settings.get("threshold")
        floor = f"granularity={self.settings['granularity']} and min_num_filters={self.settings['min_num_filters']}"
        if threshold is None:
            budget = next(name for name in BUDGETS if name in self.settings)
            how = "raise the ratio" if budget == "ratio" else "lower it"
            return f"{budget}={self.settings[budget]} with {floor} keeps nearly all channels: {how} or lower the others."
        names = ", ".join(f"{100 * q:.0f} %" for q in _QUANTILES)
        values = ", ".join(f"{x:.2f}" for x in self.scores)
        if self.scores[1] < threshold:
            why = f"Many lie below it, but {floor} keep them: lower those"
        elif self.scores[1] > 0.1:
            why = (
                "No channel is weak beside its layer's strongest: train with more weight decay (train.reg_config in a spec), so "
                "that channels become weak, raise the threshold"
            )
        else:
            why = "Nearly all lie above it: raise the threshold"
        return (
            f"threshold={threshold} keeps what scores above it, and the normalized scores are {values} (quantiles {names}). "
            f"{_first_threshold(self.first_threshold, floor)} "
            f"{why}, or say ratio=0.5 to remove half of every layer whatever its scores."
        )

    def __repr__(self) -> str:
        return f"<PruningPlan {self.summary()}>"

    def __str__(self) -> str:
        return f"{self.to_frame().to_string()}\n{self.summary()}"

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """The plan as JSON text; written to `path` too, if given."""
        data = {
            "format": _FORMAT,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("kept", "layers")},
            "layers": [_macs_to_json(dataclasses.asdict(x)) for x in self.layers],
            "kept": {name: indices.tolist() for name, indices in self.kept.items()},
        }
        if not math.isfinite(self.first_threshold):
            data["first_threshold"] = None
        text = json.dumps(_macs_to_json(data), indent=1, default=_plain)
        if path is not None:
            files.write_text(path, text)
        return text

    @classmethod
    def from_json(cls, source: str | pathlib.Path) -> PruningPlan:
        """Reads what `to_json` wrote: its text, or the path of its file.

        Raises:
            PlanError: this is no plan, or one of another format.
        """
        if isinstance(source, str) and source.lstrip().startswith("{"):
            name, text = "the plan", source
        else:
            name, text = str(source), ""
        try:
            data = json_of(text) if text else read_json(pathlib.Path(source), "a pruning plan", most=2**28)
            found = checked(_PlanFile, data, name, PlanError)
        except (DataError, PlanError) as error:
            raise PlanError(f"Expected a pruning plan as written by to_json(). {error}") from error
        values = {f.name: getattr(found, f.name) for f in dataclasses.fields(cls)}
        values["layers"] = tuple(LayerPlan(**_macs_from_json(x.model_dump())) for x in found.layers)
        values["kept"] = {key: np.asarray(x, dtype=np.int64) for key, x in found.kept.items()}
        values["first_threshold"] = math.inf if found.first_threshold is None else found.first_threshold
        return cls(**_macs_from_json(values))


_Index = Annotated[int, Field(ge=0, lt=2**31)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _LayerFile(Settings):
    layer: str
    kind: str
    filters_before: _Index
    filters_after: _Index
    params_before: Annotated[int, Field(ge=0)]
    params_after: Annotated[int, Field(ge=0)]
    macs_before: _Number | None
    macs_after: _Number | None
    groups: tuple[_Index, ...]
    note: str


class _Chosen(Settings):
    """The settings of a plan: those of `Options`, whose criterion may be an object that only its maker has."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True, frozen=True)

    channelwise_layers: tuple[str, ...] = ()
    excluded_layers: tuple[str, ...] = ()
    granularity: _Index | None = None
    min_num_filters: _Index | None = None


class _PlanFile(Settings):
    format: Literal[3]
    model_name: str
    kept: Mapping[str, list[Annotated[int, Field(ge=-(2**31), lt=2**31)]]]
    layers: tuple[_LayerFile, ...]
    params_before: Annotated[int, Field(ge=0)]
    params_after: Annotated[int, Field(ge=0)]
    macs_before: _Number | None
    macs_after: _Number | None
    size_mb_before: _Number
    size_mb_after: _Number
    latency_ms_before: _Number | None
    latency_ms_after: _Number | None
    scores: tuple[float, ...]
    first_threshold: float | None
    settings: Mapping[str, Any]
    unknown: Mapping[str, str]
    frozen: tuple[str, ...] = ()

    @pydantic.field_validator("settings")
    @classmethod
    def _chosen(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        _Chosen.model_validate(value)
        return {key: tuple(x) if isinstance(x, list) else x for key, x in value.items()}


def _macs_to_json(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a count that is unknown is null."""
    return {**data, **{key: None if math.isnan(data[key]) else data[key] for key in ("macs_before", "macs_after")}}


def _macs_from_json(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, **{key: math.nan if data[key] is None else data[key] for key in ("macs_before", "macs_after")}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, set)) else str(value)


def _same_layers(plan: PruningPlan, channels: ChannelGraph, *, by_position: bool = False) -> None:
    """Raises a PlanError where a model has other layers than the plan's: other names count unless `by_position`."""
    found = [(p.name, type(p.call.op).__name__, len(p.labels)) for p in channels.producers]
    planned = [(x.layer, x.kind, x.filters_before) for x in plan.layers]
    same_order = [x[1:] for x in found] == [x[1:] for x in planned]
    if same_order if by_position else set(found) == set(planned):
        return
    model = channels.graph.model.name
    if same_order:
        name, other = next((a[0], b[0]) for a, b in zip(planned, found, strict=True) if a != b)
        raise PlanError(
            f"The plan was made for '{plan.model_name}', whose layers have other names than those of '{model}' ('{name}', not "
            f"'{other}'), but the same types and widths in the same order. If they correspond, call apply(..., by_position=True)."
        )
    differ = sorted(set(found) ^ set(planned))[:3]
    raise PlanError(
        f"The plan was made for '{plan.model_name}' and does not fit '{model}': "
        f"layers differ, first {differ} (name, type, filters). Expected the same architecture."
    )


def _first_threshold(value: float, floor: str) -> str:
    if not math.isfinite(value):
        return f"With {floor} no threshold removes anything."
    # Rounded up: rounded down it would remove nothing.
    return f"The smallest threshold that removes anything is {math.ceil(1000 * value) / 1000}."


def _indices(kept: Mapping[str, NDArray[np.int64]], name: str, width: int) -> NDArray[np.int64]:
    """The retained channels of a layer, if they are that."""
    indices = kept.get(name)
    if indices is None:
        raise PlanError(f"The plan says nothing about '{name}'. Expected the retained channels of every layer.")
    values = np.asarray(indices)
    if values.ndim != 1 or not np.array_equal(values, np.unique(values)) or not np.all((values >= 0) & (values < width)):
        raise PlanError(
            f"The plan keeps {np.array2string(values, threshold=8)} of '{name}'. "
            f"Expected ascending channel indices between 0 and {width - 1}, each once."
        )
    return values.astype(np.int64)


def _change(before: float, after: float) -> str:
    return f"{_short(before)} -> {_short(after)} ({100 * (after - before) / before:+.1f} %)" if before else "0"


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def quantiles(scores: NDArray[np.float64]) -> tuple[float, ...]:
    """What `PruningPlan.scores` holds, of scores in any order."""
    finite = scores[np.isfinite(scores)]
    return tuple(np.quantile(finite, _QUANTILES).tolist()) if len(finite) else ()
