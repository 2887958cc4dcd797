"""Export to ONNX, compared with Keras in onnxruntime."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.config import is_count
from tlt_prune.errors import ExportError, first_line
from tlt_prune.export.onnx_conversion import converted_graph
from tlt_prune.graph import Graph, read
from tlt_prune.io import ModelInfo, files, model_info
from tlt_prune.onnx import (
    InputArrays,
    Run,
    check_parity,
    check_stateless,
    is_quantized,
    keras_runner,
    onnx_runner,
    samples_of,
    session_of,
)
from tlt_prune.quantization import folded, in_float32, with_int8_weights

if TYPE_CHECKING:
    import onnx

OPSETS = range(13, 18)
LAYOUTS = ("NHWC", "NCHW")
ONNX_PRECISIONS = ("float32", "float16")
_ONNX_TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 0.05}


class OnnxArguments(TypedDict, total=False):
    """The fields of `OnnxOptions` as keyword arguments of `export_onnx`."""

    opset: int
    layout: str
    precision: str
    batch_size: int | None


@dataclasses.dataclass(frozen=True)
class OnnxOptions:
    """The form of an ONNX file; its fields are described at `export_onnx`.

    Raises:
        ExportError: a value is out of range.
    """

    opset: int = 17
    layout: str = "NHWC"
    precision: str = "float32"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ExportError(f"export.opset: expected {OPSETS[0]} to {OPSETS[-1]}. Received: {self.opset}.")
        if self.layout not in LAYOUTS:
            raise ExportError(f"export.onnx_layout: expected {' or '.join(LAYOUTS)}. Received: {self.layout}.")
        if self.batch_size is not None and not is_count(self.batch_size):
            raise ExportError(f"batch_size: expected a whole number of at least 1, or None. Received: {self.batch_size!r}.")
        if self.precision not in ONNX_PRECISIONS:
            raise ExportError(f"export.precision: expected one of {', '.join(ONNX_PRECISIONS)}. Received: {self.precision!r}.")


def export_onnx(
    model: keras.Model,
    path: str | pathlib.Path,
    samples: InputArrays,
    *,
    tolerance: float | None = None,
    info: ModelInfo | None = None,
    **options: Unpack[OnnxArguments],
) -> float:
    """Writes an ONNX file, named after the model's layers, and compares it with Keras in onnxruntime.

    A model of mixed precision is written, and compared, as it computes in float32. Batch normalization is folded into the layer
    before it. A model of `quantization.quantization_aware` is written with QuantizeLinear and DequantizeLinear, its weights as
    int8.

    Args:
        model: a Keras model.
        path: the .onnx file; replaced only when the new one passed.
        samples: float32 inputs in the Keras model's layout, for the comparison: an array, or one per input, in the model's order.
        tolerance: largest difference allowed, relative to the largest output. None is 1e-4; 1e-2 for float16, whose numbers have
            11 bits; and 0.05 for int8, where a difference in the last bit can move a rounding by a whole step.
        info: what belongs to the model; written as a metadata property.
        **options: the form of the file.
            opset (default 17): 13 to 17.
            layout (default "NHWC"): "NHWC" or "NCHW", of the ONNX file's pictures. A channels-first model is NCHW already.
            precision (default "float32"): "float32", or "float16": of weights and of what is computed, while inputs and outputs
                stay float32.
            batch_size (default None): None leaves it open.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        ExportError: an option is out of range, the samples do not fit, or the outputs differ; nothing is written.
        UnsupportedModelError: the weights are of float16, bfloat16 or float64.
    """
    form = OnnxOptions(**options)
    extras.require_tensorflow("export_onnx")
    extras.require("export", "Exporting to ONNX")
    path = pathlib.Path(path)
    _check_family(model)
    check_stateless(model, "ONNX")
    arrays = _first(samples_of(model, samples), form.batch_size)
    last = _channels_last(model) if form.layout == "NCHW" else [False] * len(arrays)
    turned = [is_last and len(x.shape) == 4 for is_last, x in zip(last, model.inputs, strict=True)]
    model = in_float32(model)
    proto, precision = _in_precision(converted_graph(folded(model), form.opset, turned, form.batch_size), form.precision)
    if info is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = model_info.ONNX_KEY, info.model_dump_json()
    fed = [np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2))) if t else x for x, t in zip(arrays, turned, strict=True)]
    run = _runner(proto, model.name, optimize=precision != "int8")
    limit = _ONNX_TOLERANCES[precision] if tolerance is None else tolerance
    error = check_parity(keras_runner(model), run, arrays, fed, limit, f"The ONNX graph of '{model.name}'")
    with files.whole_file(path) as partial:
        partial.write_bytes(proto.SerializeToString())
    return error


def _check_family(model: object) -> None:
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise ExportError(
            f"export_onnx: expected a Keras 3 model; quantization.to_keras makes one of tf_keras. Received: {kind}."
        )


def _first(arrays: list[NDArray[Any]], batch_size: int | None) -> list[NDArray[Any]]:
    """The first `batch_size` samples; all of them if it is None."""
    if batch_size is not None and len(arrays[0]) < batch_size:
        raise ExportError(f"samples: expected at least batch_size={batch_size} of them. Received: {len(arrays[0])}.")
    return [x[:batch_size] for x in arrays]


def _in_precision(proto: onnx.ModelProto, precision: str) -> tuple[onnx.ModelProto, str]:
    """The graph in a precision, and that precision: "int8" if the model was trained with quantization."""
    if is_quantized(proto):
        if precision != "float32":
            raise ExportError("export.precision: a quantized model is written in int8. Expected float32, for what is not.")
        return with_int8_weights(proto), "int8"
    return (_in_half(proto), precision) if precision == "float16" else (proto, precision)


def _in_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        # It warns of weights that are clipped to float16's range; the comparison shows whether that matters.
        warnings.simplefilter("ignore", UserWarning)
        half = ONNXModel(convert_float_to_float16(proto, keep_io_types=True))
    half.topological_sort()
    converted: onnx.ModelProto = half.model
    return converted


def _runner(proto: onnx.ModelProto, name: str, *, optimize: bool) -> Run:
    def run(batch: InputArrays) -> list[NDArray[Any]]:
        try:
            return onnx_runner(session_of(proto, optimize=optimize))(batch)
        # The runtime raises many types; the user gets one line.
        except Exception as error:
            reason = first_line(error, 200)
            raise ExportError(f"onnxruntime cannot run the ONNX graph of '{name}': {reason}; nothing was written.") from error

    return run


# What turns axes: a format after it says nothing of what comes in.
_TURNING = ("Permute", "Transpose", "Moveaxis", "Swapaxes", "Reshape")


def _channels_last(model: keras.Model) -> list[bool]:
    """For each input whether its channels are last: as the first layers on its way that have a data format say."""
    return [told != "channels_first" for told in _data_formats(read(model))]


def _data_formats(graph: Graph) -> list[str | None]:
    """For each input the data format of what reads it; None where nothing says."""
    found: dict[int, str | None] = {}
    for call in reversed(graph.calls):
        name = type(call.op).__name__
        after = None if name in _TURNING else next((found[x.key] for x in call.outputs if found.get(x.key)), None)
        # Flatten has "channels_last" unless told otherwise, whatever it is given.
        own = None if name == "Flatten" else getattr(call.op, "data_format", None)
        inner = _data_formats(call.inner) if call.inner is not None else [own] * len(call.inputs)
        for tensor, told in zip(call.inputs, inner, strict=False):
            found[tensor.key] = told or after or found.get(tensor.key)
    return [found.get(x.key) for x in graph.flat_inputs]
