"""Post-training quantization: a float ONNX file becomes int8 by the ranges of its activations on a calibration set."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.errors import QuantizationError, first_line
from tlt_prune.io import files
from tlt_prune.onnx import float_tensors, is_quantized, relative_difference, session_of, stored_tensors
from tlt_prune.quantization.calibration import CalibrationData, calibrated_ranges, calibration_batches
from tlt_prune.quantization.node_types import narrow_nodes
from tlt_prune.quantization.qdq import for_onnxruntime, for_tensorrt
from tlt_prune.quantization.ranges import Range

if TYPE_CHECKING:
    import onnx

TARGETS = {"tensorrt": for_tensorrt, "onnxruntime": for_onnxruntime}
"""Runtime whose kernels a file is for -> function that places Q/DQ for it: see `quantization.qdq`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """Result of a quantization.

    Attributes:
        path: the file.
        ranges: tensor name -> `Range`, of every float tensor of the original.
        examples: size of the calibration set.
        difference: largest difference of an output from the float file's on the calibration set, relative to its largest value.
        agreement: share of calibration examples where both have the same largest class, over all outputs; NaN where none has
            classes.
        narrow: names of the nodes that stayed float since they have few channels.
    """

    path: pathlib.Path
    ranges: Mapping[str, Range]
    examples: int
    difference: float
    agreement: float
    narrow: tuple[str, ...] = ()

    @property
    def scales(self) -> dict[str, float]:
        """Tensor name -> scale of symmetric int8, for `write_calibration_cache`."""
        return {name: x.scale for name, x in self.ranges.items()}

    def to_frame(self) -> pd.DataFrame:
        """Ranges, one row per tensor. Columns: low, high, maximum, scale."""
        rows = {name: {**dataclasses.asdict(x), "scale": x.scale} for name, x in self.ranges.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tensor")


def quantize_onnx(
    source: str | pathlib.Path,
    path: str | pathlib.Path,
    data: CalibrationData,
    *,
    method: str = "percentile",
    percentile: float = 99.99,
    target: str = "tensorrt",
    excluded: Sequence[str] | None = None,
) -> Quantized:
    """Quantizes a float ONNX file to int8.

    Args:
        source: the float file.
        path: the file to write; replaced only when the new one computes finite outputs.
        data: the calibration set, in the layout of the file's inputs: a float32 array (a tuple of them for several inputs), or an
            iterable of batches of such. A few hundred examples are usual. Of a file with a fixed batch size, arrays give whole
            batches of that size; what is left over is not used.
        method: "min_max", "percentile" or "entropy": see `quantization.ranges`.
        percentile: for the method of that name, in per cent.
        target: "tensorrt" or "onnxruntime": whose kernels the file is made for. Either runs it.
        excluded: regular expressions; nodes whose name or output one of them finds stay float. None is `narrow_layers` for
            TensorRT and nothing else; an empty list is nothing: the file is smaller.

    Raises:
        QuantizationError: an option is out of range; the calibration set is empty, does not fit, or leads to values that are not
            finite; nothing is written.
    """
    extras.require("export", "Quantizing an ONNX file")
    import onnx

    path = pathlib.Path(path)
    if target not in TARGETS:
        raise QuantizationError(f"target: expected one of {', '.join(TARGETS)}. Received: {target!r}.")
    try:
        model = onnx.load(source)
    except Exception as error:
        raise QuantizationError(f"Cannot load {source} as ONNX: {first_line(error, 150)}.") from error
    if is_quantized(model):
        raise QuantizationError(f"{source} is quantized already. Expected a float ONNX file.")
    if any(x.data_type == onnx.TensorProto.FLOAT16 for x in model.graph.initializer):
        raise QuantizationError(f"{source} has float16 weights. Expected a float32 file, of export.precision float32.")
    batches = list(calibration_batches(data, model))
    ranges = calibrated_ranges(model, batches, method=method, percentile=percentile)
    narrow = narrow_nodes(model.graph, stored_tensors(model.graph))
    by_default = set(narrow) if target == "tensorrt" else set()
    chosen = by_default if excluded is None else _excluded_nodes(model, excluded)
    quantized = TARGETS[target](model, ranges, chosen | _without_ranges(model, ranges))
    onnx.checker.check_model(quantized)
    if not is_quantized(quantized) and not excluded and not narrow:
        raise QuantizationError(f"{source} has nothing to quantize: no convolution or matrix product with stored weights.")
    difference, agreement = _compared(model, quantized, batches)
    with files.whole_file(path) as partial:
        partial.write_bytes(quantized.SerializeToString())
    return Quantized(
        path, ranges, sum(len(batch[0]) for batch in batches), difference, agreement, tuple(x for x in narrow if x in chosen)
    )


def narrow_layers(source: str | pathlib.Path) -> list[str]:
    """Convolutions and matrix products of a float ONNX file with fewer than 16 input or output channels: TensorRT computes them
    faster in float. As patterns for `quantize_onnx(excluded=...)`."""
    import onnx

    graph = onnx.load(source).graph
    return [f"^{re.escape(name)}$" for name in narrow_nodes(graph, stored_tensors(graph))]


def _compared(
    model: onnx.ModelProto, quantized: onnx.ModelProto, batches: Sequence[tuple[NDArray[Any], ...]]
) -> tuple[float, float]:
    """Relative difference of two models' outputs, and the share of examples where the largest class agrees."""
    sessions = [session_of(x) for x in (model, quantized)]
    names = [x.name for x in sessions[0].get_inputs()]
    difference, same, count = 0.0, 0, 0
    for batch in batches:
        fed = dict(zip(names, batch, strict=True))
        expected, received = (session.run(None, fed) for session in sessions)
        if not all(np.isfinite(x).all() for x in received):
            raise QuantizationError("The quantized model computes values that are not finite; nothing was written.")
        difference = max(difference, relative_difference(expected, received))
        for said, now in zip(expected, received, strict=True):
            if said.ndim == 2 and said.shape[1] > 1:
                same += int((said.argmax(1) == now.argmax(1)).sum())
                count += len(said)
    return difference, same / count if count else float("nan")


def _without_ranges(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> set[str]:
    """Names of the nodes that read or compute a float tensor without a range."""
    lacking = {name for name in float_tensors(model) if name not in ranges}
    return {node.name for node in model.graph.node if lacking & {*node.input, *node.output}}


def _excluded_nodes(model: onnx.ModelProto, patterns: Sequence[str]) -> set[str]:
    """Names of the nodes that stay float, by patterns on the names of nodes and their outputs."""
    if isinstance(patterns, str):
        raise QuantizationError(
            f"excluded: expected a list of regular expressions, such as [{patterns!r}]. Received: {patterns!r}."
        )
    names = set()
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise QuantizationError(f"excluded: {pattern!r} is no regular expression: {error}.") from error
        hit = {node.name for node in model.graph.node if any(map(expression.search, (node.name, *node.output)))}
        if not hit:
            raise QuantizationError(f"excluded: no node is called {pattern!r}. Expected the name of a node or of its output.")
        names |= hit
    return names
