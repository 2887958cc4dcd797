"""Files of measured latencies."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from tlt_prune.config import Settings, checked, read_json
from tlt_prune.errors import DataError, PlanError

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class MeasuredModel(Settings):
    """A whole model that was measured on a device.

    Attributes:
        milliseconds: what it took.
        layers: names of its layers, one for each call.
    """

    milliseconds: Milliseconds
    layers: tuple[str, ...]


class StoredLatencies(Settings):
    """A file of latencies.

    Attributes:
        of: the machine, and how it computed: the threads of onnxruntime, or the engine and data type of a device.
        layers: name of a layer -> milliseconds.
        scales: name of a model -> factor of the sums of its layers, on this machine.
        models: name of a model -> what it took on a device.
    """

    of: Mapping[str, str | int]
    layers: Mapping[str, Milliseconds]
    scales: Mapping[str, Milliseconds] = {}
    models: Mapping[str, MeasuredModel] = {}


def read_table(path: pathlib.Path) -> StoredLatencies:
    """Reads a file of latencies.

    Raises:
        PlanError: the file is no table of latencies.
    """
    try:
        return checked(StoredLatencies, read_json(path, "a table of latencies", most=2**26), str(path), PlanError)
    except (DataError, PlanError) as error:
        raise PlanError(
            f"latency_table: {error} Expected a table that was written here or by measure_latency.py, or none."
        ) from error
