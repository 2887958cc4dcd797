"""What will be removed: a value that can be read, printed, saved and applied."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.errors import PlanError
from tlt_prune.graph.channels import Alive, ChannelGraph, trace
from tlt_prune.pruning.rewrite import rewrite

_FORMAT = 1


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


@dataclasses.dataclass(frozen=True, eq=False)
class PruningPlan:
    """The retained channels of every layer, and what that saves.

    Attributes:
        model_name: name of the model it was made for.
        kept: layer path -> retained channel indices, ascending, shape `(filters_after,)`.
        layers: one `LayerPlan` a producing layer, in topological order.
        params_before, params_after, macs_before, macs_after: of the whole model.
        settings: the arguments that led here.
        unknown: path -> class name of each layer without a rule.
    """

    model_name: str
    kept: Mapping[str, NDArray[np.int64]]
    layers: tuple[LayerPlan, ...]
    params_before: int
    params_after: int
    macs_before: float
    macs_after: float
    settings: Mapping[str, Any]
    unknown: Mapping[str, str]

    @property
    def removed(self) -> int:
        """Number of channels that go."""
        return sum(x.filters_before - x.filters_after for x in self.layers)

    def apply(self, model: Any, layer_config_overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
        """Returns `model` without the channels this plan removes; `model` stays as it is.

        Args:
            model: the model the plan was made for, or one of the same architecture.
            layer_config_overrides: layer name -> configuration entries to replace, such as
                `{"conv1": {"kernel_regularizer": None}}`.

        Raises:
            PlanError: the plan does not fit the model.
        """
        channels = trace(model, self.settings.get("channelwise_layers", ()))
        return rewrite(channels, self.alive(channels), layer_config_overrides)

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
            gone[self.kept[producer.name]] = False
            alive[root[producer.labels[gone]]] = False
        alive = alive[root]
        for producer in channels.producers:
            if not np.array_equal(np.flatnonzero(alive[producer.labels]), self.kept[producer.name]):
                raise PlanError(
                    f"The plan keeps {len(self.kept[producer.name])} channels of '{producer.name}', but layers coupled to "
                    "it keep others. Expected the plan of this very model, unedited."
                )
        for bundle, reason in channels.bundles.frozen.items():
            if not alive[bundle]:
                raise PlanError(f"The plan removes a frozen channel ({reason}). Expected the plan of this very model.")
        return alive

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, a row a producing layer."""
        columns = [f.name for f in dataclasses.fields(LayerPlan)]
        frame = pd.DataFrame([dataclasses.astuple(x) for x in self.layers], columns=columns)
        return frame.set_index("layer")

    def summary(self) -> str:
        """One line: channels, parameters and MACs before and after."""
        if not self.removed:
            return f"{self.model_name}: nothing to remove. {_why_nothing(self)}"
        before, after = (sum(getattr(x, f"filters_{when}") for x in self.layers) for when in ("before", "after"))
        macs = "" if math.isnan(self.macs_before) else f", MACs {_change(self.macs_before, self.macs_after)}"
        params = _change(self.params_before, self.params_after)
        return f"{self.model_name}: channels {_change(before, after)}, parameters {params}{macs}"

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
        text = json.dumps(_macs_to_json(data), indent=1, default=_plain)
        if path is not None:
            pathlib.Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | pathlib.Path) -> PruningPlan:
        """Reads what `to_json` wrote: its text, or the path of its file.

        Raises:
            PlanError: this is no plan, or one of another format.
        """
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else pathlib.Path(source).read_text("utf-8")
        try:
            data = json.loads(text)
            if data.pop("format") != _FORMAT:
                raise KeyError("format")
            layers = tuple(LayerPlan(**{**_macs_from_json(x), "groups": tuple(x["groups"])}) for x in data.pop("layers"))
            kept = {name: np.asarray(x, dtype=np.int64) for name, x in data.pop("kept").items()}
            settings = {k: tuple(v) if isinstance(v, list) else v for k, v in data.pop("settings").items()}
            return cls(kept=kept, layers=layers, settings=settings, **_macs_from_json(data))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"Expected a pruning plan as written by to_json(). Received something else: {error!r}.") from error


def _macs_to_json(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a count that is unknown is null."""
    return {**data, **{key: None if math.isnan(data[key]) else data[key] for key in ("macs_before", "macs_after")}}


def _macs_from_json(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, **{key: math.nan if data[key] is None else data[key] for key in ("macs_before", "macs_after")}}


def _plain(value: Any) -> Any:
    return value.__name__ if isinstance(value, type) else list(value) if isinstance(value, (tuple, set)) else str(value)


def _same_layers(plan: PruningPlan, channels: ChannelGraph) -> None:
    widths = {p.name: len(p.labels) for p in channels.producers}
    planned = {x.layer: x.filters_before for x in plan.layers}
    if widths != planned:
        differ = sorted(set(widths.items()) ^ set(planned.items()))[:3]
        raise PlanError(
            f"The plan was made for '{plan.model_name}' and does not fit '{channels.graph.model.name}': "
            f"layers differ, first {differ} (name, filters). Expected the same architecture."
        )


def _change(before: float, after: float) -> str:
    return f"{_short(before)} -> {_short(after)} ({100 * (after - before) / before:+.1f} %)" if before else "0"


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _why_nothing(plan: PruningPlan) -> str:
    free = [x for x in plan.layers if x.groups]
    if free:
        settings = ", ".join(
            f"{k}={plan.settings[k]}" for k in ("threshold", "ratio", "granularity", "min_num_filters") if k in plan.settings
        )
        return f"{len(free)} layers could be pruned, but {settings} keeps all their channels."
    reasons = sorted({x.note for x in plan.layers if x.note})
    return f"Every layer is frozen: {'; '.join(reasons[:3]) or 'the model has no prunable layer'}."
