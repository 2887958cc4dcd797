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

from tlt_prune import extras
from tlt_prune.errors import ExportError, first_line
from tlt_prune.graph.family import all_layers, producing_layer
from tlt_prune.io import files, model_info
from tlt_prune.io.model_info import ModelInfo
from tlt_prune.onnx.names import scoped, with_layer_names
from tlt_prune.onnx.parity import Run, check_parity, samples_of, session_of
from tlt_prune.onnx.predictor import keras_runner, onnx_runner, refuse_states
from tlt_prune.quantization.aware import folded
from tlt_prune.quantization.copying import copied
from tlt_prune.quantization.post_training import is_quantized, with_int8_weights

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
    """Writes an ONNX file, named after the model's layers, and compares it with Keras in onnxruntime.

    A model of mixed precision is written, and compared, as it computes in float32. Batch normalization is folded into what comes
    before. A model of `quantization.quantization_aware` is written with QuantizeLinear and DequantizeLinear, its weights as int8.

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
    extras.require_tensorflow("export_onnx")
    extras.require("export", "Exporting to ONNX")
    path = pathlib.Path(path)
    if opset not in OPSETS:
        raise ExportError(f"export.opset: expected {OPSETS[0]} to {OPSETS[-1]}. Received: {opset}.")
    if layout not in ("NHWC", "NCHW"):
        raise ExportError(f"export.onnx_layout: expected NHWC or NCHW. Received: {layout}.")
    if precision not in PRECISIONS:
        raise ExportError(f"export.precision: expected one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    refuse_states(model, "ONNX")
    arrays = samples_of(model, samples)
    if batch_size is not None:
        if len(arrays[0]) < batch_size:
            raise ExportError(f"samples: expected at least batch_size={batch_size} of them. Received: {len(arrays[0])}.")
        arrays = [x[:batch_size] for x in arrays]
    model = _in_float32(model)
    turned = [layout == "NCHW" and _is_channels_last(model) and len(x.shape) == 4 for x in model.inputs]
    proto = _converted(folded(model), opset, turned, batch_size)
    quantized = is_quantized(proto)
    if quantized:
        if precision != "float32":
            raise ExportError("export.precision: a quantized model is written in int8. Expected float32, for what is not.")
        proto = with_int8_weights(proto)
    if precision == "float16":
        proto = _in_half(proto)
    if info is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = model_info.ONNX_KEY, info.model_dump_json()
    fed = [np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2))) if t else x for x, t in zip(arrays, turned, strict=True)]
    run = _runner(proto, model.name, optimize=not quantized)
    if tolerance is None:
        tolerance = _TOLERANCE["int8" if quantized else precision]
    error = check_parity(keras_runner(model), run, arrays, fed, tolerance, f"The ONNX graph of '{model.name}'")
    with files.whole_file(path) as partial:
        partial.write_bytes(proto.SerializeToString())
    return error


def _runner(proto: Any, name: str, *, optimize: bool) -> Run:
    def run(batch: Any) -> Any:
        try:
            return onnx_runner(session_of(proto.SerializeToString(), optimize=optimize))(batch)
        # Whatever the runtime misses, the user needs one line.
        except Exception as error:
            reason = first_line(error, 200)
            raise ExportError(f"onnxruntime cannot run the ONNX graph of '{name}': {reason}; nothing was written.") from error

    return run


def _in_float32(model: keras.Model) -> keras.Model:
    """The same model, computing in float32 where it computes in less, which few runtimes do."""
    if all(layer.compute_dtype == "float32" for layer in all_layers(model) if hasattr(layer, "compute_dtype")):
        return model
    model = copied(model)
    for layer in all_layers(model):
        layer.dtype_policy = "float32"
    return model


def _is_channels_last(model: keras.Model) -> bool:
    formats = {getattr(layer, "data_format", None) for layer in all_layers(model)} - {None}
    return formats != {"channels_first"}


def _converted(model: keras.Model, opset: int, turned: list[bool], batch_size: int | None) -> Any:
    import tensorflow as tf
    import tf2onnx

    # tf2onnx reports every pass at INFO, and as errors the operations it lacks, which are made up for or named below.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    inputs = [x.name for x in model.inputs]
    names = [producing_layer(x).name for x in model.outputs]
    signature = [tf.TensorSpec((batch_size or x.shape[0], *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]

    run, paths = scoped(model)

    def forward(*x: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(run(*x))
        return {f"{i:03d}_{name}": y for i, (name, y) in enumerate(zip(names, outputs, strict=True))}

    function = tf.function(forward, input_signature=signature)
    with _inlined_functions():
        concrete = function.get_concrete_function()
    as_nchw = [name for name, turn in zip(inputs, turned, strict=True) if turn]
    try:
        proto, _ = tf2onnx.convert.from_function(
            function,
            input_signature=signature,
            opset=opset,
            inputs_as_nchw=[*as_nchw, *(f"{name}:0" for name in as_nchw)] or None,
        )
    # Whatever the converter meets, the user needs one line.
    except Exception as error:
        raise ExportError(f"tf2onnx cannot convert '{model.name}': {first_line(error, 200)}") from error
    _feed_constants(proto, concrete)
    proto = _without_erfc(proto)
    _keep_zeros_before_pooling(proto)
    _check_operations(proto, model.name)
    return with_layer_names(_slimmed(_renamed(proto, inputs, names, [x.shape[0] for x in signature])), paths)


def _feed_constants(proto: Any, function: Any) -> None:
    """What a function took from outside as a constant (the means of an adapted Normalization) is no input of the graph."""
    import onnx

    graph = proto.graph
    values = {inner.name: outer for outer, inner in function.graph.captures}
    for value in [x for x in graph.input if x.name in values]:
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values[value.name]), value.name))
        graph.input.remove(value)


def _without_erfc(proto: Any) -> Any:
    """TensorFlow computes GELU by erfc(x), which ONNX lacks: 1 - erf(x)."""
    import onnx

    graph = proto.graph
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type != "Erfc":
            graph.node.append(node)
            continue
        one, erf = f"{node.output[0]}_one", f"{node.output[0]}_erf"
        # Of the type of what comes in, whatever that is.
        graph.node.append(onnx.helper.make_node("Erf", node.input, [erf], f"{node.name}_erf"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.ones((), np.float32), f"{one}_float"))
        graph.node.append(onnx.helper.make_node("CastLike", [f"{one}_float", erf], [one], f"{node.name}_one"))
        graph.node.append(onnx.helper.make_node("Sub", [one, erf], node.output, node.name))
    return proto


def _keep_zeros_before_pooling(proto: Any) -> None:
    """Pads with the smallest positive number instead of 0 before a MaxPool.

    onnxruntime (seen in 1.31) takes a Pad of zeros for the pool's own padding, which is never the largest in its window: where
    all values are negative, 0 is. No pool has padding of another value, so that is left alone.
    """
    import onnx

    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {x.name: x for x in graph.initializer}
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        pad = makers.get(pool.input[0])
        while pad is not None and pad.op_type == "Transpose":
            pad = makers.get(pad.input[0])
        if pad is None or pad.op_type != "Pad" or any(x.name == "mode" and x.s != b"constant" for x in pad.attribute):
            continue
        source, value = makers.get(pad.input[0]), pad.input[2] if len(pad.input) > 2 else ""
        if value and (value not in constants or np.any(onnx.numpy_helper.to_array(constants[value]))):
            continue
        if source is not None and source.op_type == "Relu":
            continue
        graph.initializer.append(onnx.numpy_helper.from_array(np.finfo(np.float32).tiny, f"{pad.output[0]}_zero"))
        pad.input[2:] = [f"{pad.output[0]}_zero"]


def _check_operations(proto: Any, name: str) -> None:
    import onnx

    unknown = {node.op_type for node in proto.graph.node if not onnx.defs.has(node.op_type, node.domain)}
    if unknown:
        raise ExportError(f"'{name}': ONNX has no operation for TensorFlow's {', '.join(sorted(unknown))}; nothing was written.")


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


def _renamed(proto: Any, input_names: list[str], output_names: list[str], batch_sizes: list[int | None]) -> Any:
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
    # In the model's order, and open where it is, whatever tf2onnx made of it.
    ordered = sorted(graph.input, key=lambda value: input_names.index(value.name))
    for value, size in zip(ordered, batch_sizes, strict=True):
        if size is None:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
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
