"""The file format of a plan: the fields of a `PruningPlan` as JSON, and what is read of it held against a schema."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import Field

from tlt_prune.config import Settings, checked, json_of, read_json
from tlt_prune.errors import DataError, PlanError

_FORMAT = 3


def text_of(fields: Mapping[str, Any]) -> str:
    """The fields of a plan, its layers as dictionaries, as JSON text."""
    data = {
        "format": _FORMAT,
        **{key: value for key, value in fields.items() if key not in ("kept", "layers")},
        "layers": [_macs_to_json(x) for x in fields["layers"]],
        "kept": {name: indices.tolist() for name, indices in fields["kept"].items()},
    }
    if not math.isfinite(fields["first_threshold"]):
        data["first_threshold"] = None
    return json.dumps(_macs_to_json(data), indent=1, default=_plain)


def fields_of(source: str | pathlib.Path) -> dict[str, Any]:
    """The fields of a plan, its layers as dictionaries.

    Args:
        source: what `text_of` made, or the path of a file that holds it.

    Raises:
        PlanError: this is no plan, or one of another format.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        name, text = "the plan", source
    else:
        name, text = str(source), ""
    try:
        data = json_of(text) if text else read_json(pathlib.Path(source), "a pruning plan", most=2**28)
        plan = checked(_PlanFile, data, name, PlanError)
    except (DataError, PlanError) as error:
        raise PlanError(f"Expected a pruning plan as written by to_json(). {error}") from error
    fields = {key: getattr(plan, key) for key in _PlanFile.model_fields if key != "format"}
    fields["layers"] = [_macs_from_json(x.model_dump()) for x in plan.layers]
    fields["kept"] = {key: np.asarray(x, dtype=np.int64) for key, x in plan.kept.items()}
    fields["first_threshold"] = math.inf if plan.first_threshold is None else plan.first_threshold
    return _macs_from_json(fields)


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
    inline: bool = False
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


def _plain(value: object) -> list[object] | str:
    return list(value) if isinstance(value, (tuple, set)) else str(value)
