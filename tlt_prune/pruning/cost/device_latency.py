"""Latencies of layers that `measure_latency.py` measured on a device."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tlt_prune.errors import PlanError
from tlt_prune.graph import ChannelGraph
from tlt_prune.pruning.cost.latency_files import MeasuredModel, read_table
from tlt_prune.pruning.cost.layer_shapes import (
    counts_of,
    interpolated,
    key_of,
    key_of_model,
    labeled_layers,
    layer_with,
    term_of,
    times_on_grid,
)
from tlt_prune.pruning.cost.terms import Term


class DeviceTable:
    """Latencies of layers on a device, by their shape.

    Args:
        path: the file that `measure_latency.py` wrote.

    Attributes:
        device: its name, what computed there, and in which numbers.

    Raises:
        PlanError: the file is no table, or one of the script's layers is missing.
    """

    def __init__(self, path: pathlib.Path) -> None:
        table = read_table(path)
        self._path = path
        self.device = ", ".join(str(table.of.get(key)) for key in ("machine", "engine", "data_type"))
        self._layers, self._models = dict(table.layers), dict(table.models)
        self._grids = self._measured_at()

    def _measured_at(self) -> dict[str, list[list[int]]]:
        """Name of a layer's shape -> along each side the channel counts that it was measured at."""
        counts: dict[str, list[list[int]]] = {}
        for key in self._layers:
            shape, channels = self._parsed(key)
            counts.setdefault(key_of(shape), []).append(channels)
        grids = {}
        for key, several in counts.items():
            grid = [sorted(set(side)) for side in zip(*several, strict=False)]
            if sorted(map(tuple, several)) != sorted(counts_of(grid)):
                raise PlanError(
                    f"latency_table: {self._path} has no times of some channel counts of {key}. Expected a table that "
                    "measure_latency.py wrote, whole."
                )
            grids[key] = grid
        return grids

    def _parsed(self, key: str) -> tuple[dict[str, Any], list[int]]:
        """(shape, channels) that a layer's name says."""
        try:
            shape = json.loads(key)
            channels = [int(n) for n in shape.pop("channels")]
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise PlanError(
                f"latency_table: {self._path} has a layer {key!r}. Expected the names that measure_latency.py gives them."
            ) from error
        return shape, channels

    def calibrated(self, channels: ChannelGraph) -> bool:
        """Whether the whole of this model, or of what it was before a prune, was measured."""
        return key_of_model(channels) in self._models

    def terms(self, channels: ChannelGraph, granularity: int) -> list[Term]:
        """Milliseconds of each layer, as functions of its channel counts.

        Args:
            channels: a traced model.
            granularity: not used: the device was measured at certain counts, whichever are allowed.

        Raises:
            PlanError: the device was not measured at counts that enclose those of a layer, or a size of the model's inputs is
                open.
        """
        layers = labeled_layers(channels)
        counts = [(shape, [len(v) for v in vectors]) for shape, vectors in layers]
        missing = [key_of(layer_with(shape, n)) for shape, n in counts if not self._encloses(key_of(shape), n)]
        if missing:
            raise PlanError(
                f"latency_table: {self._path} ({self.device}) has no times of {len(missing)} of the model's {len(layers)} "
                f"layers, such as {missing[0]}. Expected a table of this model: write the script for it (tlt-prune "
                "--latency_script), and run that on the device."
            )
        measured = self._models.get(key_of_model(channels))
        scale = self._scale(measured) if measured is not None else 1.0
        return [term_of(shape, vectors, self._grids[key_of(shape)], self._layers, scale) for shape, vectors in layers]

    def _encloses(self, shape: str, channels: Sequence[int]) -> bool:
        grid = self._grids.get(shape, [])
        return len(grid) == len(channels) and all(n <= side[-1] for n, side in zip(channels, grid, strict=True))

    def _scale(self, model: MeasuredModel) -> float:
        """What the whole model took, beside its layers one by one."""
        total = 0.0
        for key in model.layers:
            shape, channels = self._parsed(key)
            if not self._encloses(key_of(shape), channels):
                raise PlanError(
                    f"latency_table: {self._path} has no times of {key}. Expected a table that measure_latency.py wrote, whole."
                )
            grid = self._grids[key_of(shape)]
            total += interpolated(grid, times_on_grid(shape, grid, self._layers))(channels)
        return model.milliseconds / total if total > 0 else 1.0
