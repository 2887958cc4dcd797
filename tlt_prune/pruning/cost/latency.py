"""Latency as a sum over layers: each measured in onnxruntime on this machine, at several channel counts, and kept in a file.

Convolutions and dense layers are measured one by one, as ONNX graphs of a single node, at some of the channel counts that the
granularity allows on either side; in between, latency is interpolated linearly. The sum says more than one whole network takes or
less: a whole network is fused, and has other layers, too. `LatencyTable.calibrate` brings the two together, by one factor.
"""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlt_prune import extras
from tlt_prune.config import Settings, checked, read_json
from tlt_prune.errors import DataError, PlanError
from tlt_prune.graph import Call, ChannelGraph, Labels, has_trait, is_convolution, is_dense
from tlt_prune.io import files, progress
from tlt_prune.onnx import session_of
from tlt_prune.pruning.cost.terms import Term, charged

if TYPE_CHECKING:
    import onnx

# Channel counts that are measured on either side of a layer.
_POINTS = 5
_SHORTEST_RUNS, _SHORTEST_SECONDS, _REPEATS = 5, 0.003, 5


Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Table(Settings):
    of: Mapping[str, str | int]
    scales: Mapping[str, Milliseconds]
    layers: Mapping[str, Milliseconds]


class _LayerShape(TypedDict):
    """Of a layer, all that its latency depends on but its numbers of channels; a dense one has a size alone."""

    kind: Literal["dense", "conv", "depthwise"]
    size: list[int]
    kernel: NotRequired[list[int]]
    strides: NotRequired[list[int]]
    dilation: NotRequired[list[int]]
    padding: NotRequired[str]


class LatencyTable:
    """Measured latencies of single layers, by their shape.

    Args:
        path: a JSON file that they are kept in; None for memory only. Times of another machine or another number of threads are
            refused: they say nothing here.
        threads: of onnxruntime; 0 for its own choice.

    Raises:
        PlanError: the file is none of this, or was measured elsewhere.
    """

    def __init__(self, path: str | pathlib.Path | None = None, *, threads: int = 0) -> None:
        extras.require("export", "A budget of latency", "onnx", "onnxruntime")
        self._path = pathlib.Path(path) if path is not None else None
        self._threads = threads
        self._of = {"machine": f"{platform.machine()} {platform.node()}", "threads": threads}
        self._layers: dict[str, float] = {}
        self._scales: dict[str, float] = {}
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def _read(self, path: pathlib.Path) -> None:
        try:
            table = checked(_Table, read_json(path, "a table of latencies", most=2**26), str(path), PlanError)
        except (DataError, PlanError) as error:
            raise PlanError(f"latency_table: {error} Expected a table that was written here, or none.") from error
        of, layers, scales = table.of, dict(table.layers), dict(table.scales)
        if of != self._of:
            raise PlanError(
                f"latency_table: {path} was measured on {of.get('machine')} with {of.get('threads')} threads. Expected this "
                f"machine, {self._of['machine']}, with {self._of['threads']}: give another file."
            )
        self._layers, self._scales = layers, scales

    def save(self) -> None:
        """Writes the file."""
        if self._path is not None:
            files.output_folder(self._path.parent)
            data = {"of": self._of, "scales": self._scales, "layers": self._layers}
            with files.apart():
                files.write_text(self._path, json.dumps(data, indent=0))

    def calibrated(self, channels: ChannelGraph) -> bool:
        """Whether the whole of this model, or of what it was before a prune, was measured."""
        return _key_of_model(channels) in self._scales

    def scale(self, channels: ChannelGraph) -> float:
        """Factor of the sums for this model; 1 where it was not calibrated."""
        return self._scales.get(_key_of_model(channels), 1.0)

    def calibrate(self, channels: ChannelGraph, milliseconds: float, granularity: int) -> None:
        """Says what the whole model was measured to take: sums of its layers are scaled to it from now on."""
        self._scales.pop(_key_of_model(channels), None)
        total = charged(self.terms(channels, granularity))
        if total > 0:
            self._scales[_key_of_model(channels)] = milliseconds / total
            self.save()

    def terms(self, channels: ChannelGraph, granularity: int) -> list[Term]:
        """Milliseconds of each layer, as functions of its channel counts; what is not known yet is measured.

        Raises:
            PlanError: a size of the model's inputs is open.
        """
        layers = [x for call in channels.graph.walk() for x in _layers_of(channels, call)]
        grids = [[_points(channels, v, granularity) for v in vectors] for _, vectors in layers]
        wanted = {
            _key_of_layer(shape, counts): (shape, counts)
            for (shape, _), grid in zip(layers, grids, strict=True)
            for counts in itertools.product(*grid)
        }
        missing = {name: x for name, x in wanted.items() if name not in self._layers}
        if missing:
            # What a call costs whatever it computes: a whole network pays it once.
            call = _milliseconds(*_nothing(), self._threads)
            with progress(len(missing), f"Measuring the latency of {len(missing)} layers in onnxruntime") as advance:
                for name, (shape, counts) in missing.items():
                    self._layers[name] = max(_milliseconds(*_one_node(shape, counts), self._threads) - call, 0.0)
                    advance()
            self.save()
        scale = self.scale(channels)
        return [self._term(shape, vectors, grid, scale) for (shape, vectors), grid in zip(layers, grids, strict=True)]

    def _term(self, shape: _LayerShape, vectors: Sequence[Labels], grid: Sequence[Sequence[int]], scale: float) -> Term:
        table = np.array([self._layers[_key_of_layer(shape, counts)] for counts in itertools.product(*grid)]).reshape(
            [len(x) for x in grid]
        )
        for axis in range(table.ndim):
            # Fewer channels are never slower but by noise.
            table = np.maximum.accumulate(table, axis=axis)
        return Term(tuple(vectors), _interpolated(grid, scale * table))


def _interpolated(grid: Sequence[Sequence[int]], table: NDArray[np.float64]) -> Callable[[Sequence[int]], float]:
    def value(counts: Sequence[int]) -> float:
        if 0 in counts:
            return 0.0
        reduced = table
        for points, count in zip(grid, counts, strict=True):
            at = np.interp(count, points, np.arange(len(points)))
            low = int(at)
            high = min(low + 1, len(points) - 1)
            reduced = reduced[low] + (at - low) * (reduced[high] - reduced[low])
        return float(reduced)

    return value


def _points(channels: ChannelGraph, vector: Labels, granularity: int) -> list[int]:
    """Channel counts to measure at: the whole, and some of the multiples of the granularity below."""
    count = len(vector)
    frozen = np.isin(channels.bundles.root[vector], list(channels.bundles.frozen))
    if frozen.all() or count <= granularity:
        return [count]
    wanted = np.linspace(granularity, count, _POINTS)
    return sorted({*(min(count, max(granularity, round(x / granularity) * granularity)) for x in wanted[:-1].tolist()), count})


def _layers_of(channels: ChannelGraph, call: Call) -> list[tuple[_LayerShape, list[Labels]]]:
    """(shape of a layer, label vectors that its latency depends on) for what a call computes; nothing for other layers."""
    family, op = channels.graph.family, call.op
    if call.inner is not None or not family.is_layer(call.op):
        return []
    depthwise = has_trait(family, op, "depthwise convolution") and op.depth_multiplier == 1
    axes = {(a.index, a.axis): a.labels for a in channels.axes if a.op is op}
    if depthwise or is_convolution(family, op):
        first = op.data_format == "channels_first"
        shape = call.inputs[0].shape
        size = shape[2:] if first else shape[1:-1]
        rank = len(size)
        facts: _LayerShape = {
            "kind": "depthwise" if depthwise else "conv",
            "size": _fixed(size, call),
            "kernel": list(op.kernel_size),
            "strides": list(op.strides),
            "dilation": list(op.dilation_rate),
            "padding": op.padding,
        }
        vectors = [axes[0, rank]] if depthwise else [axes[0, rank], axes[0, rank + 1]]
        return [(facts, vectors)]
    if is_dense(family, op):
        rows = _fixed(call.inputs[0].shape[1:-1], call)
        return [({"kind": "dense", "size": [int(np.prod(rows))]}, [axes[0, 0], axes[0, 1]])]
    return []


def _fixed(size: Sequence[int | None], call: Call) -> list[int]:
    if None in size:
        raise PlanError(
            f"latency_ms: the size of what '{call.path}' is given is open. Expected a model with fixed sizes, or another budget."
        )
    return [int(n) for n in size if n is not None]


def _key_of_layer(shape: _LayerShape, counts: Sequence[int]) -> str:
    return json.dumps({**shape, "channels": list(counts)}, sort_keys=True)


def _key_of_model(channels: ChannelGraph) -> str:
    """Name of an architecture, whatever its widths: a calibration belongs to it."""
    return " ".join(p.name for p in channels.producers)


@functools.cache
def table_at(path: str | None) -> LatencyTable:
    """The table of a file, one for all uses: what was measured once is not measured again in the same process."""
    return LatencyTable(path)


def _milliseconds(model: onnx.ModelProto, x: NDArray[np.float32], threads: int) -> float:
    """Of one call of an ONNX model: the least of several repetitions, which what else runs on the machine disturbed least."""
    session = session_of(model.SerializeToString(), threads=threads)

    def seconds(runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            session.run(None, {"x": x})
        return (time.perf_counter() - start) / runs

    once = min(seconds(1) for _ in range(3))
    runs = max(_SHORTEST_RUNS, int(_SHORTEST_SECONDS / max(once, 1e-7)))
    return 1000 * min(seconds(runs) for _ in range(_REPEATS))


def _one_node(shape: _LayerShape, counts: Sequence[int]) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """(ONNX model of one node, its input)."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    if shape["kind"] == "dense":
        x = rng.standard_normal((shape["size"][0], counts[0])).astype(np.float32)
        kernel = rng.standard_normal(tuple(counts)).astype(np.float32)
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
        width = counts[1]
    else:
        depthwise = shape["kind"] == "depthwise"
        width = counts[0] if depthwise else counts[1]
        x = rng.standard_normal((1, counts[0], *shape["size"])).astype(np.float32)
        kernel = rng.standard_normal((width, 1 if depthwise else counts[0], *shape["kernel"])).astype(np.float32)
        node = helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["y"],
            strides=shape["strides"],
            dilations=shape["dilation"],
            group=counts[0] if depthwise else 1,
            auto_pad="VALID" if shape["padding"] == "valid" else "SAME_UPPER",
        )
    weights = [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(np.zeros(width, np.float32), "b")]
    return _onnx_of(node, x, weights), x


def _nothing() -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """An ONNX model that copies one number, and its input."""
    from onnx import helper

    x = np.zeros((1, 1), np.float32)
    return _onnx_of(helper.make_node("Identity", ["x"], ["y"]), x, []), x


def _onnx_of(node: onnx.NodeProto, x: NDArray[np.float32], weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model
