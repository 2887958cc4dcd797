"""A float ONNX file -> one with QuantizeLinear/DequantizeLinear, by what its activations were on a calibration set.

Two placements:

- "tensorrt": as TensorRT's explicit quantization wants it. Symmetric int8 with zero point 0; one scale a tensor for activations,
  one an output channel for weights, which are stored as int8; biases stay float. Before weighted layers, poolings of averages,
  and additions; of an addition's inputs, the one that a convolution computes for it alone stays as it is, so that TensorRT can
  do both in one kernel.
- "onnxruntime": for CPUs, where ReLU is fused into a uint8 zero point: onnxruntime's own quantizer, with the ranges found here.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.errors import QuantizationError, first_line
from tlt_prune.io import files
from tlt_prune.onnx.parity import fits, relative_difference, session_of
from tlt_prune.quantization.ranges import LEVELS, METHODS, Histogram, Range

TARGETS = ("tensorrt", "onnxruntime")
# Axis of the output channels in a weight. Gemm's depends on transB.
_WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
_LAYOUT = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
_AVERAGES = ("GlobalAveragePool", "AveragePool")
_ORT_TYPES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "Concat", *_AVERAGES)


# More are no calibration set: the data has no end.
_MOST_BATCHES = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """What became of a quantization.

    Attributes:
        path: the file.
        ranges: tensor name -> `Range`, of every float tensor of the original.
        examples: size of the calibration set.
        difference: largest difference of an output from the float file's on the calibration set, relative to its largest value.
        agreement: share of calibration examples where both have the same largest class; NaN where the output has no classes.
    """

    path: pathlib.Path
    ranges: Mapping[str, Range]
    examples: int
    difference: float
    agreement: float

    @property
    def scales(self) -> dict[str, float]:
        """Tensor name -> scale of symmetric int8, for `write_calibration_cache`."""
        return {name: x.scale for name, x in self.ranges.items()}

    def to_frame(self) -> pd.DataFrame:
        """A row a tensor: low, high, maximum, scale."""
        rows = {name: {**dataclasses.asdict(x), "scale": x.scale} for name, x in self.ranges.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tensor")


def quantize_onnx(
    source: str | pathlib.Path,
    path: str | pathlib.Path,
    data: Any,
    *,
    method: str = "percentile",
    percentile: float = 99.99,
    target: str = "tensorrt",
    excluded: Sequence[str] = (),
) -> Quantized:
    """Quantizes a float ONNX file to int8.

    Args:
        source: the float file.
        path: the file to write; replaced only when the new one computes finite outputs.
        data: the calibration set, in the layout of the file's inputs: a float32 array (a tuple of them for several inputs), or an
            iterable of batches of such. A few hundred examples are usual.
        method: "min_max", "percentile" or "entropy": see `quantization.ranges`.
        percentile: for the method of that name, in per cent.
        target: "tensorrt" or "onnxruntime": whose kernels the file is made for. Either runs it.
        excluded: regular expressions; nodes whose name or output one of them finds stay float.

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
    batches = list(_batches(data, model))
    ranges = calibrate(model, batches, method=method, percentile=percentile)
    skipped = _skipped(model, excluded) | _without_ranges(model, ranges)
    quantized = _Inserter(model, ranges, skipped).run() if target == "tensorrt" else _by_onnxruntime(model, ranges, skipped)
    onnx.checker.check_model(quantized)
    difference, agreement = _compared(model, quantized, batches)
    with files.whole_file(path) as partial:
        partial.write_bytes(quantized.SerializeToString())
    return Quantized(path, ranges, sum(len(batch[0]) for batch in batches), difference, agreement)


def calibrate(
    model: Any, batches: Iterable[tuple[NDArray[Any], ...]], *, method: str = "percentile", percentile: float = 99.99
) -> dict[str, Range]:
    """Ranges of all float tensors of an ONNX model, its inputs and outputs included, on batches of its inputs.

    A tensor that is infinite in between, as the inverse of a norm that is limited afterwards, has none, nor has what is computed
    straight from it, which may be finite and huge: they stay float.

    Raises:
        QuantizationError: no batch, an unknown method, or an input or output with values that are not finite.
    """
    if method not in METHODS:
        raise QuantizationError(f"Calibration method: expected one of {', '.join(METHODS)}. Received: {method!r}.")
    if not 50 < percentile <= 100:
        raise QuantizationError(f"percentile: expected more than 50 and at most 100. Received: {percentile}.")
    names = _float_tensors(model)
    session = session_of(_with_outputs(model, names).SerializeToString())
    inputs = [x.name for x in session.get_inputs()]
    outer = {*inputs, *(x.name for x in model.graph.output)}
    histograms = {name: Histogram() for name in (*inputs, *names)}
    without: dict[str, QuantizationError] = {}
    for count, batch in enumerate(batches):
        if count == _MOST_BATCHES:
            raise QuantizationError(f"Calibration: {count:,} batches were read, and there are more. Expected data that ends.")
        fed = dict(zip(inputs, batch, strict=True))
        for name, values in (*fed.items(), *zip(names, session.run(names, fed), strict=True)):
            try:
                histograms[name].add(values)
            except QuantizationError as error:
                without.setdefault(name, error)
    if outer & without.keys():
        name, cause = next(iter(without.items()))
        raise QuantizationError(
            f"Calibration: tensor '{name}' has {cause}. Expected a trained model, and pictures preprocessed as in its training."
        ) from cause
    limited = {name for node in model.graph.node if without.keys() & set(node.input) for name in node.output}
    return {
        name: histogram.range(method, percentile)
        for name, histogram in histograms.items()
        if name not in without and name not in limited
    }


# --- data ---


def _batches(data: Any, model: Any, size: int = 32) -> Iterator[tuple[NDArray[Any], ...]]:
    """Batches as tuples of arrays, one an input.

    Raises:
        QuantizationError: there is none, or one of another shape.
    """
    import onnx

    expected = [[d.dim_value or None for d in x.type.tensor_type.shape.dim] for x in _true_inputs(model)]
    types = [onnx.helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type) for x in _true_inputs(model)]
    count = 0
    for batch in _cut(data, size) if _is_array(data) else data:
        given = batch if isinstance(batch, tuple) else (batch,)
        arrays = tuple(np.asarray(x, types[i] if i < len(types) else None) for i, x in enumerate(given))
        shapes = [x.shape for x in arrays]
        if len(arrays) != len(expected) or not all(map(fits, shapes, expected)):
            wanted = ", ".join(str(tuple(x)) for x in expected)
            got = ", ".join(str(x) for x in shapes)
            raise QuantizationError(f"Calibration set: the file takes inputs of shape {wanted}. Received: {got}.")
        if len(arrays[0]):
            count += len(arrays[0])
            yield arrays
    if not count:
        raise QuantizationError("The calibration set is empty. Expected some hundred examples such as the model will see.")


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") or (isinstance(data, tuple) and all(hasattr(x, "shape") for x in data))


def _cut(data: Any, size: int) -> Iterator[tuple[Any, ...]]:
    arrays = data if isinstance(data, tuple) else (data,)
    for start in range(0, len(arrays[0]), size):
        yield tuple(x[start : start + size] for x in arrays)


def _compared(model: Any, quantized: Any, batches: Sequence[tuple[NDArray[Any], ...]]) -> tuple[float, float]:
    """(relative difference, agreement of the largest class) of two models."""
    sessions = [session_of(x.SerializeToString()) for x in (model, quantized)]
    names = [x.name for x in sessions[0].get_inputs()]
    difference, same, count = 0.0, 0, 0
    for batch in batches:
        fed = dict(zip(names, batch, strict=True))
        expected, received = (session.run(None, fed) for session in sessions)
        if not all(np.isfinite(x).all() for x in received):
            raise QuantizationError("The quantized model computes values that are not finite; nothing was written.")
        difference = max(difference, relative_difference(expected, received))
        if expected[0].ndim == 2 and expected[0].shape[1] > 1:
            same += int((expected[0].argmax(1) == received[0].argmax(1)).sum())
            count += len(expected[0])
    return difference, same / count if count else float("nan")


# --- graphs ---


def _read_names(graph: Any) -> Iterator[str]:
    """What nodes read, those of graphs inside (the bodies of loops) too, which see what is outside."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read_names(inner)
                yield from (x.name for x in inner.output)


def _true_inputs(model: Any) -> list[Any]:
    constants = {x.name for x in model.graph.initializer}
    return [x for x in model.graph.input if x.name not in constants]


def _float_tensors(model: Any) -> list[str]:
    """Names of the float tensors that nodes compute."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {x.name: x.type.tensor_type.elem_type for x in (*inferred.value_info, *inferred.output)}
    made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in made if kinds.get(name) == onnx.TensorProto.FLOAT]


def _with_outputs(model: Any, names: Sequence[str]) -> Any:
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {x.name for x in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return shown


def _without_ranges(model: Any, ranges: Mapping[str, Range]) -> set[str]:
    """Names of the nodes that read or make a float tensor without one."""
    lacking = {name for name in _float_tensors(model) if name not in ranges}
    return {node.name for node in model.graph.node if lacking & {*node.input, *node.output}}


def _skipped(model: Any, excluded: Sequence[str]) -> set[str]:
    """Names of the nodes that stay float."""
    found = set()
    for pattern in excluded:
        hit = {node.name for node in model.graph.node if any(re.search(pattern, x) for x in (node.name, *node.output))}
        if not hit:
            raise QuantizationError(f"excluded: no node is called {pattern!r}. Expected the name of a node or of its output.")
        found |= hit
    return found


def is_quantized(model: Any) -> bool:
    """Whether an ONNX model has QuantizeLinear."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def with_int8_weights(model: Any) -> Any:
    """An ONNX model that quantizes its activations, with the weights that meet those stored as int8.

    Of a model that was trained with quantization, they have int8's values already.
    """
    return _Inserter(model, {}, set()).run()


class _Inserter:
    """Places Q/DQ for TensorRT."""

    def __init__(self, model: Any, ranges: Mapping[str, Range], skipped: set[str]) -> None:
        import onnx

        self._onnx = onnx
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self._ranges, self._skipped = ranges, skipped
        self._constants = {x.name: x for x in self._graph.initializer}
        self._readers = collections.Counter(_read_names(self._graph))
        self._readers.update(x.name for x in self._graph.output)
        self._maker = {name: node for node in self._graph.node for name in node.output}
        self._done: dict[tuple[str, int | None], str] = {}
        self._nodes: list[Any] = []

    def run(self) -> Any:
        for node in list(self._graph.node):
            if node.name not in self._skipped:
                for index, axis in self._wanted(node):
                    name = node.input[index]
                    if axis is None:
                        node.input[index] = self._activation(name)
                    elif self._is_dequantized(node.input[0]):
                        node.input[index] = self._weight(name, axis)
            self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = set(_read_names(self._graph))
        for initializer in [x for x in self._graph.initializer if x.name not in used]:
            self._graph.initializer.remove(initializer)
        return self._model

    def _wanted(self, node: Any) -> Iterator[tuple[int, int | None]]:
        """(which input, axis of the channels in a weight or None for an activation)."""
        if node.op_type in _WEIGHT_AXIS:
            weight = self._constants.get(node.input[1])
            if weight is None or node.input[0] in self._constants:
                return
            attributes = {x.name: x.i for x in node.attribute}
            if attributes.get("transA", 0):
                return
            axis = 0 if attributes.get("transB", 0) else _WEIGHT_AXIS[node.op_type] % len(weight.dims)
            # The outputs of a grouped transposed convolution are spread over two axes of its weight.
            if node.op_type != "ConvTranspose" or attributes.get("group", 1) == 1:
                yield 0, None
                yield 1, axis
        elif node.op_type in _AVERAGES:
            yield 0, None
        elif node.op_type == "Add" and all(name in self._ranges for name in node.input):
            fused = next((i for i, name in enumerate(node.input) if self._is_made_for(name, "Conv")), None)
            yield from ((i, None) for i in range(2) if i != fused)

    def _is_made_for(self, name: str, kind: str) -> bool:
        """Whether a node of that kind makes a tensor for one reader alone."""
        return name in self._maker and self._maker[name].op_type == kind and self._readers[name] == 1

    def _is_dequantized(self, name: str) -> bool:
        """Whether a tensor has int8's values, perhaps in another shape."""
        maker = self._maker.get(name)
        while maker is not None and maker.op_type in _LAYOUT:
            maker = self._maker.get(maker.input[0])
        return name in self._done.values() or (maker is not None and maker.op_type == "DequantizeLinear")

    def _activation(self, name: str) -> str:
        if name not in self._ranges:
            return name
        if (name, None) not in self._done:
            self._done[name, None] = f"{name}_dequantized"
            scale = self._constant(f"{name}_scale", np.float32(self._ranges[name].scale))
            zero = self._constant(f"{name}_zero_point", np.int8(0))
            self._node("QuantizeLinear", [name, scale, zero], f"{name}_quantized")
            self._node("DequantizeLinear", [f"{name}_quantized", scale, zero], f"{name}_dequantized")
        return self._done[name, None]

    def _weight(self, name: str, axis: int) -> str:
        if (name, axis) not in self._done:
            self._done[name, axis] = output = f"{name}_dequantized_{axis}"
            integers, scales = quantized_weight(self._onnx.numpy_helper.to_array(self._constants[name]), axis)
            stored = self._constant(f"{name}_int8_{axis}", integers)
            scale = self._constant(f"{name}_scale_{axis}", scales)
            zero = self._constant(f"{name}_zero_point_{axis}", np.zeros(len(scales), np.int8))
            self._node("DequantizeLinear", [stored, scale, zero], output, axis=axis)
        return self._done[name, axis]

    def _constant(self, name: str, value: Any) -> str:
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))


def quantized_weight(weight: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(int8 values, scales `(n_channels,)`): symmetric, the largest magnitude of each channel at 127."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scales = np.where(largest > 0, largest / np.float32(LEVELS), 1.0).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scales.reshape(shape)), -LEVELS, LEVELS).astype(np.int8), scales


def _by_onnxruntime(model: Any, ranges: Mapping[str, Range], skipped: set[str]) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    copy = onnx.shape_inference.infer_shapes(model)
    found = {name: (np.float32(min(x.low, 0)), np.float32(max(x.high, 0))) for name, x in ranges.items()}
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, found),
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(skipped),
        op_types_to_quantize=list(_ORT_TYPES),
        extra_options={"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    quantizer.model.clean_initializers()
    quantizer.model.topological_sort()
    return quantizer.model.model
