"""The plan of a prune: a value that can be read, printed, saved and applied."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.config import BUDGETS
from tlt_prune.errors import PlanError
from tlt_prune.graph import Alive, ChannelGraph, KerasModel, trace
from tlt_prune.io import files
from tlt_prune.pruning import plan_file, plots, report
from tlt_prune.pruning.compensation import Compensations
from tlt_prune.pruning.pipeline import carry_out
from tlt_prune.pruning.select.blocks import leaving_out
from tlt_prune.pruning.sweep import sweep


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
        layers: one `LayerPlan` per producing layer, in topological order.
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
        model: KerasModel,
        layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
        compensation: Compensations | None = None,
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
        blocks = self.settings.get("blocks", ())
        if blocks and by_position:
            raise PlanError("apply: a plan that takes residual blocks out needs their names. Expected by_position=False.")
        channelwise, inline = self.settings.get("channelwise_layers", ()), self.settings.get("inline", False)
        channels = leaving_out(trace(model, channelwise, inline=inline), channelwise, blocks, inline=inline)
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

    def sweep(self, model: KerasModel, thresholds: Sequence[float] | None = None) -> pd.DataFrame:
        """Sizes of `model` at other thresholds, with this plan's other settings: see `tlt_prune.sweep`."""
        others = {key: value for key, value in self.settings.items() if key not in (*BUDGETS, "ranking")}
        return sweep(model, thresholds, **others)  # type: ignore[arg-type]

    def plot(self) -> Any:
        """A matplotlib figure: one bar for each layer, its channels before and after. A notebook shows it as a cell's result."""
        title = f"Channels per layer: {self.params_before:,} → {self.params_after:,} parameters"
        return plots.draw_channels(self.to_frame(), title)

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, one row per producing layer."""
        columns = [f.name for f in dataclasses.fields(LayerPlan)]
        frame = pd.DataFrame([dataclasses.astuple(x) for x in self.layers], columns=columns)
        return frame.set_index("layer")

    @property
    def totals(self) -> report.Totals:
        """Channels, parameters, MACs and latency of the whole model, before and after."""
        filters = sum(x.filters_before for x in self.layers)
        latency = None
        if self.latency_ms_before is not None and self.latency_ms_after is not None:
            latency = (self.latency_ms_before, self.latency_ms_after)
        return report.Totals(
            channels=(filters, filters - self.removed),
            params=(self.params_before, self.params_after),
            macs=(self.macs_before, self.macs_after),
            latency_ms=latency,
        )

    def summary(self) -> str:
        """One line: channels, parameters and MACs before and after."""
        return report.summary(self.model_name, self.totals)

    def advice(self) -> str:
        """The reason why next to nothing is removed, with what to do; empty where more is removed."""
        reasons = sorted({x.note.removeprefix("frozen: ") for x in self.layers if x.note} or self.frozen)
        return report.advice(self.totals, reasons, self.scores, self.first_threshold, self.settings)

    def __repr__(self) -> str:
        return f"<PruningPlan {self.summary()}>"

    def __str__(self) -> str:
        return f"{self.to_frame().to_string()}\n{self.summary()}"

    def _repr_html_(self) -> str:
        return plots.channels_as_html(self.to_frame(), ". ".join(x for x in (self.summary(), self.advice()) if x))

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """The plan as JSON text; written to `path` too, if given."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        text = plan_file.text_of({**fields, "layers": [dataclasses.asdict(x) for x in self.layers]})
        if path is not None:
            files.write_text(path, text)
        return text

    @classmethod
    def from_json(cls, source: str | pathlib.Path) -> PruningPlan:
        """Reads what `to_json` wrote: its text, or the path of its file.

        Raises:
            PlanError: this is no plan, or one of another format.
        """
        fields = plan_file.fields_of(source)
        return cls(**{**fields, "layers": tuple(LayerPlan(**x) for x in fields["layers"])})


def _same_layers(plan: PruningPlan, channels: ChannelGraph, *, by_position: bool = False) -> None:
    """Raises a PlanError where a model has other layers than the plan's: other names count unless `by_position`."""
    present = [(p.name, type(p.call.op).__name__, len(p.labels)) for p in channels.producers]
    # A layer goes as a whole with its residual block.
    planned = [(x.layer, x.kind, x.filters_before) for x in plan.layers if x.filters_after]
    same_order = [x[1:] for x in present] == [x[1:] for x in planned]
    if same_order if by_position else set(present) == set(planned):
        return
    model = channels.graph.model.name
    if same_order:
        name, other = next((a[0], b[0]) for a, b in zip(planned, present, strict=True) if a != b)
        raise PlanError(
            f"The plan was made for '{plan.model_name}', whose layers have other names than those of '{model}' ('{name}', not "
            f"'{other}'), but the same types and widths in the same order. If they correspond, call apply(..., by_position=True)."
        )
    differ = sorted(set(present) ^ set(planned))[:3]
    raise PlanError(
        f"The plan was made for '{plan.model_name}' and does not fit '{model}': "
        f"layers differ, first {differ} (name, type, filters). Expected the same architecture."
    )


def _indices(kept: Mapping[str, NDArray[np.int64]], name: str, width: int) -> NDArray[np.int64]:
    """The retained channels of a layer, checked."""
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
