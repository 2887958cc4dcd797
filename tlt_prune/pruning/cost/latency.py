"""Latency as a sum over layers: each measured at several channel counts, and kept in a file.

Convolutions and dense layers are measured one by one, as ONNX graphs of a single node, at some of the channel counts that the
granularity allows on either side; in between, latency is interpolated linearly. The sum says more than one whole network takes or
less: a whole network is fused, and has other layers, too. One factor brings the two together.

Layers are measured in onnxruntime on one thread of this machine (`LatencyTable`), or on a device (`DeviceTable`).
"""

from __future__ import annotations

import functools
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from tlt_prune import extras
from tlt_prune.errors import PlanError
from tlt_prune.graph import ChannelGraph
from tlt_prune.io import files, progress
from tlt_prune.pruning.cost.device_latency import DeviceTable
from tlt_prune.pruning.cost.latency_files import read_table
from tlt_prune.pruning.cost.layer_shapes import (
    counts_of,
    key_of,
    key_of_model,
    labeled_layers,
    layer_with,
    points_of,
    term_of,
)
from tlt_prune.pruning.cost.measure_latency import empty_model, layer_model, onnxruntime_milliseconds
from tlt_prune.pruning.cost.terms import Term, charged

# With several, the same layer takes half as long again from process to process.
_THREADS = 1


class LatencyTable:
    """Latencies of single layers by their shape, measured in onnxruntime on one thread.

    Args:
        path: a JSON file that they are kept in; None for memory only. Times of another machine or another number of threads are
            refused: they say nothing here.

    Raises:
        PlanError: the file is none of this, or was measured elsewhere.
    """

    def __init__(self, path: str | pathlib.Path | None = None) -> None:
        extras.require("export", "A budget of latency", "onnx", "onnxruntime")
        self._path = pathlib.Path(path) if path is not None else None
        self._of = {"machine": f"{platform.machine()} {platform.node()}", "threads": _THREADS}
        self._layers: dict[str, float] = {}
        self._scales: dict[str, float] = {}
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def _read(self, path: pathlib.Path) -> None:
        table = read_table(path)
        if table.of != self._of:
            raise PlanError(
                f"latency_table: {path} was measured on {table.of.get('machine')} with {table.of.get('threads')} threads. "
                f"Expected this machine, {self._of['machine']}, with {self._of['threads']}: give another file, or one that the "
                "script of tlt-prune --latency_script has written there."
            )
        self._layers, self._scales = dict(table.layers), dict(table.scales)

    def save(self) -> None:
        """Writes the file."""
        if self._path is not None:
            files.output_folder(self._path.parent)
            data = {"of": self._of, "scales": self._scales, "layers": self._layers}
            with files.apart():
                files.write_text(self._path, json.dumps(data, indent=0))

    def calibrated(self, channels: ChannelGraph) -> bool:
        """Whether the whole of this model, or of what it was before a prune, was measured."""
        return key_of_model(channels) in self._scales

    def scale(self, channels: ChannelGraph) -> float:
        """Factor of the sums for this model; 1 where it was not calibrated."""
        return self._scales.get(key_of_model(channels), 1.0)

    def calibrate(self, channels: ChannelGraph, milliseconds: float, granularity: int) -> None:
        """Says what the whole model, all its blocks included, was measured to take: sums of its layers are scaled to it."""
        self._scales.pop(key_of_model(channels), None)
        total = charged(self.terms(channels.original, granularity))
        if total > 0:
            self._scales[key_of_model(channels)] = milliseconds / total
            self.save()

    def terms(self, channels: ChannelGraph, granularity: int) -> list[Term]:
        """Milliseconds of each layer, as functions of its channel counts; what is not known yet is measured.

        Raises:
            PlanError: a size of the model's inputs is open.
        """
        layers = labeled_layers(channels)
        grids = [[points_of(channels, v, granularity) for v in vectors] for _, vectors in layers]
        self._measure([layer_with(x, counts) for (x, _), grid in zip(layers, grids, strict=True) for counts in counts_of(grid)])
        scale = self.scale(channels)
        return [term_of(shape, vectors, grid, self._layers, scale) for (shape, vectors), grid in zip(layers, grids, strict=True)]

    def _measure(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """Measures those of the layers in onnxruntime that are not known yet."""
        missing = {key: layer for layer in wanted if (key := key_of(layer)) not in self._layers}
        if not missing:
            return
        # What a call costs whatever it computes: a whole network pays it once.
        call = _milliseconds(None)
        with progress(len(missing), f"Measuring the latency of {len(missing)} layers in onnxruntime") as advance:
            for key, layer in missing.items():
                self._layers[key] = max(_milliseconds(layer) - call, 0.0)
                advance()
        self.save()


def table_at(path: str | None) -> LatencyTable | DeviceTable:
    """The table of a file; one that was not measured on a device is made where there is none.

    Raises:
        PlanError: the file is no table, or was measured by onnxruntime on another machine.
    """
    if path is not None and pathlib.Path(path).exists():
        state = pathlib.Path(path).stat()
        device = _device_table(path, state.st_mtime_ns, state.st_size)
        if device is not None:
            return device
    return _table_of_this_machine(path)


@functools.lru_cache(maxsize=8)
def _device_table(path: str, changed: int, size: int) -> DeviceTable | None:
    """The table of a file in this state; None where it was not measured on a device."""
    return DeviceTable(pathlib.Path(path)) if "engine" in read_table(pathlib.Path(path)).of else None


@functools.cache
def _table_of_this_machine(path: str | None) -> LatencyTable:
    """One for all uses: what was measured once is not measured again in the same process."""
    return LatencyTable(path)


def _milliseconds(layer: Mapping[str, Any] | None) -> float:
    """Of a layer in onnxruntime on this machine; None for a call that computes nothing."""
    model = layer_model(dict(layer))[0] if layer is not None else empty_model()
    return onnxruntime_milliseconds(model, _THREADS)
