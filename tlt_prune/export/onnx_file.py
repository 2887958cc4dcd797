"""ONNX: tf2onnx for the conversion, onnxslim for the folding, onnxruntime for the proof."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tlt_prune import extras, files, model_info
from tlt_prune.errors import ExportError
from tlt_prune.export.onnx_names import scoped, with_layer_names
from tlt_prune.export.runtime import keras_runner, onnx_runner
from tlt_prune.graph.family import all_layers, producing_layer
from tlt_prune.model_info import ModelInfo
from tlt_prune.parity import check_parity, samples_of, session_of
from tlt_prune.quantization.aware import folded
from tlt_prune.quantization.post_training import is_quantised, with_int8_weights

OPSETS = range(13, 18)
PRECISIONS = ("float32", "float16")
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "int8": 0.05}


def export_onnx(
    model: keras.Model,
    path: str | pathlib.Path,
    samples: Any,
    *,
    opset: int = 17,
    layout: str = "NHWC",
    precision: str = "float32",
    batch_size: int | None = None,
    tolerance: float | None = None,
    info: ModelInfo | None = None,
) -> float:
    """Writes an ONNX file, named after the model's input and output layers, and compares it with Keras in onnxruntime.

    Batch normalisation is folded into what comes before. A model of `quantization.quantisation_aware` is written with
    QuantizeLinear and DequantizeLinear, its weights as int8.

    Args:
        model: a Keras model.
        path: the .onnx file; replaced only when the new one passed.
        samples: float32 inputs in the Keras model's layout, for the comparison: an array, or one an input, in the model's order.
        opset: 13 to 17.
        layout: "NHWC" or "NCHW", of the ONNX file's pictures. A channels-first model is NCHW already.
        precision: "float32", or "float16": weights and what is computed, while inputs and outputs stay float32.
        batch_size: None leaves it open.
        tolerance: largest difference allowed, relative to the largest output. None is 1e-4; 1e-2 for float16, whose numbers have
            11 bits; and .05 for int8, where a difference in the last bit can move a rounding by a whole step.
        info: what belongs to the model; written as a metadata property.

    Returns:
        The largest relative difference found.

    Raises:
        ExportError: an option is out of range, the samples do not fit, or the outputs differ; nothing is written.
    """
    extras.require("export", "Exporting to ONNX")
    path = pathlib.Path(path)
    if opset not in OPSETS:
        raise ExportError(f"export.opset: expected {OPSETS[0]} to {OPSETS[-1]}. Received: {opset}.")
    if layout not in ("NHWC", "NCHW"):
        raise ExportError(f"export.onnx_layout: expected NHWC or NCHW. Received: {layout}.")
    if precision not in PRECISIONS:
        raise ExportError(f"export.precision: expected one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    arrays = samples_of(model, samples)
    if batch_size is not None:
        if len(arrays[0]) < batch_size:
            raise ExportError(f"samples: expected at least batch_size={batch_size} of them. Received: {len(arrays[0])}.")
        arrays = [x[:batch_size] for x in arrays]
    turned = [layout == "NCHW" and _is_channels_last(model) and len(x.shape) == 4 for x in model.inputs]
    proto = _converted(folded(model), opset, turned, batch_size)
    quantised = is_quantised(proto)
    if quantised:
        if precision != "float32":
            raise ExportError("export.precision: a quantised model is written in int8. Expected float32, for what is not.")
        proto = with_int8_weights(proto)
    if precision == "float16":
        proto = _in_half(proto)
    if info is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = model_info.ONNX_KEY, info.model_dump_json()
    fed = [np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2))) if t else x for x, t in zip(arrays, turned, strict=True)]
    run = onnx_runner(session_of(proto.SerializeToString(), optimise=not quantised))
    if tolerance is None:
        tolerance = _TOLERANCE["int8" if quantised else precision]
    error = check_parity(keras_runner(model), run, arrays, fed, tolerance, f"The ONNX graph of '{model.name}'")
    with files.whole_file(path) as partial:
        partial.write_bytes(proto.SerializeToString())
    return error


def _is_channels_last(model: keras.Model) -> bool:
    formats = {getattr(layer, "data_format", None) for layer in all_layers(model)} - {None}
    return formats != {"channels_first"}


def _converted(model: keras.Model, opset: int, turned: list[bool], batch_size: int | None) -> Any:
    import tensorflow as tf
    import tf2onnx

    # tf2onnx and onnxslim report every pass at INFO; what fails raises.
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    inputs = [x.name for x in model.inputs]
    names = [producing_layer(x).name for x in model.outputs]
    signature = [tf.TensorSpec((batch_size, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]

    run, paths = scoped(model)

    def forward(*x: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(run(*x))
        return {f"{i:03d}_{name}": y for i, (name, y) in enumerate(zip(names, outputs, strict=True))}

    function = tf.function(forward, input_signature=signature)
    with _inlined_functions():
        function.get_concrete_function()
    as_nchw = [name for name, turn in zip(inputs, turned, strict=True) if turn]
    proto, _ = tf2onnx.convert.from_function(
        function,
        input_signature=signature,
        opset=opset,
        inputs_as_nchw=[*as_nchw, *(f"{name}:0" for name in as_nchw)] or None,
    )
    return with_layer_names(_slimmed(_renamed(proto, inputs, names)), paths)


def _in_half(proto: Any) -> Any:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        # It names weights rounded to the smallest or largest number there is; the comparison says whether that matters.
        warnings.simplefilter("ignore", UserWarning)
        half = ONNXModel(convert_float_to_float16(proto, keep_io_types=True))
    half.topological_sort()
    return half.model


@contextlib.contextmanager
def _inlined_functions() -> Iterator[None]:
    """Traces the bodies of inner `tf.function`s in place.

    Keras compiles grouped convolutions on CPU with XLA, in a function of their own that tf2onnx cannot read.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _renamed(proto: Any, input_names: list[str], output_names: list[str]) -> Any:
    """Inputs and outputs by their Keras names, without TensorFlow's ":0"."""
    graph = proto.graph
    new = {f"{name}:0": name for name in input_names}
    new.update({old.name: name for old, name in zip(graph.output, _unique(output_names), strict=True)})
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
    for value in (*graph.input, *graph.output):
        value.name = new.get(value.name, value.name)
    # In the model's order, whatever tf2onnx made of it.
    ordered = sorted(graph.input, key=lambda value: input_names.index(value.name))
    del graph.input[:]
    graph.input.extend(ordered)
    return proto


def _unique(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def _slimmed(proto: Any) -> Any:
    import onnxslim

    slim = onnxslim.slim(proto)
    if slim is None:
        raise ExportError("onnxslim could not simplify the graph; report the model.")
    return slim
