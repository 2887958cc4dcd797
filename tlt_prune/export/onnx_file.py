"""ONNX: tf2onnx for the conversion, onnxslim for the folding, onnxruntime for the proof."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune import extras, files, model_info
from tlt_prune.errors import ExportError
from tlt_prune.export.parity import check_parity
from tlt_prune.export.runtime import keras_runner, onnx_runner, session_of
from tlt_prune.graph.family import all_layers, producing_layer
from tlt_prune.model_info import ModelInfo

OPSETS = range(13, 18)


def export_onnx(
    model: keras.Model,
    path: str | pathlib.Path,
    samples: NDArray[Any],
    *,
    opset: int = 17,
    layout: str = "NHWC",
    tolerance: float = 1e-4,
    info: ModelInfo | None = None,
) -> float:
    """Writes an ONNX file with an open batch size, named after the model's input and output layers.

    Args:
        model: a Keras model with one input.
        path: the .onnx file; replaced only when the new one passed.
        samples: float32 inputs in the Keras model's layout, for the comparison with Keras.
        opset: 13 to 17.
        layout: "NHWC" or "NCHW", of the ONNX input. A channels-first model is NCHW already.
        tolerance: largest difference allowed, relative to the largest output.
        info: what belongs to the model; written as a metadata property.

    Returns:
        The largest relative difference found.

    Raises:
        ExportError: an option is out of range, or the outputs differ; nothing is written.
    """
    extras.require("export", "Exporting to ONNX")
    path = pathlib.Path(path)
    if opset not in OPSETS:
        raise ExportError(f"export.opset: expected {OPSETS[0]} to {OPSETS[-1]}. Received: {opset}.")
    if layout not in ("NHWC", "NCHW"):
        raise ExportError(f"export.onnx_layout: expected NHWC or NCHW. Received: {layout}.")
    if len(model.inputs) != 1:
        raise ExportError(f"Expected a model with one input. '{model.name}' has {len(model.inputs)}.")
    to_nchw = layout == "NCHW" and _is_channels_last(model)
    proto = _converted(model, opset, to_nchw)
    if info is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = model_info.ONNX_KEY, info.model_dump_json()
    exported_samples = np.transpose(samples, (0, 3, 1, 2)) if to_nchw else samples
    run = onnx_runner(session_of(proto.SerializeToString()))
    error = check_parity(
        keras_runner(model), run, samples, np.ascontiguousarray(exported_samples), tolerance, f"The ONNX graph of '{model.name}'"
    )
    with files.whole_file(path) as partial:
        partial.write_bytes(proto.SerializeToString())
    return error


def trtexec_command(
    path: str | pathlib.Path, size: tuple[int, int], *, minimum: int = 1, optimum: int = 1, maximum: int = 16
) -> str:
    """The command that builds a float16 TensorRT engine from an ONNX file; `size` (height, width) where it leaves them open."""
    import onnx

    path = pathlib.Path(path)
    value = onnx.load(path).graph.input[0]
    known = [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
    spatial = iter(size)
    sizes = [n or next(spatial) for n in known]
    shapes = " ".join(
        f"--{kind}Shapes={value.name}:{'x'.join(map(str, [batch, *sizes]))}"
        for kind, batch in (("min", minimum), ("opt", optimum), ("max", maximum))
    )
    return f"trtexec --onnx={path} --saveEngine={path.with_suffix('.engine')} --fp16 {shapes}"


def _is_channels_last(model: keras.Model) -> bool:
    formats = {getattr(layer, "data_format", None) for layer in all_layers(model)} - {None}
    return len(model.inputs[0].shape) == 4 and formats != {"channels_first"}


def _converted(model: keras.Model, opset: int, to_nchw: bool) -> Any:
    import tensorflow as tf
    import tf2onnx

    # tf2onnx and onnxslim report every pass at INFO; what fails raises.
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    input_name = model.inputs[0].name
    names = [producing_layer(x).name for x in model.outputs]
    signature = [tf.TensorSpec(x.shape, x.dtype, name=input_name) for x in model.inputs]

    def forward(x: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(model(x, training=False))
        return {f"{i:03d}_{name}": y for i, (name, y) in enumerate(zip(names, outputs, strict=True))}

    function = tf.function(forward, input_signature=signature)
    with _inlined_functions():
        function.get_concrete_function()
    proto, _ = tf2onnx.convert.from_function(
        function,
        input_signature=signature,
        opset=opset,
        inputs_as_nchw=[f"{input_name}:0", input_name] if to_nchw else None,
    )
    return _slimmed(_renamed(proto, input_name, names))


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


def _renamed(proto: Any, input_name: str, output_names: list[str]) -> Any:
    """Inputs and outputs by their Keras names, without TensorFlow's ":0"."""
    graph = proto.graph
    new = {graph.input[0].name: input_name}
    new.update({old.name: name for old, name in zip(graph.output, _unique(output_names), strict=True)})
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
    for value in (*graph.input, *graph.output):
        value.name = new.get(value.name, value.name)
    return proto


def _unique(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def _slimmed(proto: Any) -> Any:
    import onnxslim

    slim = onnxslim.slim(proto)
    if slim is None:
        raise ExportError("onnxslim could not simplify the graph; report the model.")
    return slim
