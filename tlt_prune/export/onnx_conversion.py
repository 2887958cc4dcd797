"""Conversion of a Keras model to an ONNX graph: by tf2onnx, with its mistakes corrected, then folded by onnxslim."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import keras
import numpy as np

from tlt_prune.errors import ExportError, first_line
from tlt_prune.graph import producing_layer
from tlt_prune.onnx import makers, stored_tensors, with_call_scopes, with_layer_names

if TYPE_CHECKING:
    import onnx
    import tensorflow as tf


def converted_graph(model: keras.Model, opset: int, turned: list[bool], batch_size: int | None) -> onnx.ModelProto:
    """The ONNX graph of a Keras model, named after its layers.

    Args:
        model: a Keras model that computes in float32.
        opset: of the graph.
        turned: for each input, whether the graph takes its pictures as (n, channels, height, width), the model does not.
        batch_size: None leaves it open.

    Raises:
        ExportError: tf2onnx cannot convert the model, or ONNX lacks an operation.
    """
    import tensorflow as tf
    import tf2onnx

    # tf2onnx logs every pass, and operations it lacks as errors: those are replaced or reported below.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    inputs = [x.name for x in model.inputs]
    names = [producing_layer(x).name for x in model.outputs]
    signature = [tf.TensorSpec((batch_size or x.shape[0], *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]

    run, paths = with_call_scopes(model)

    def forward(*x: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = keras.tree.flatten(run(*x))
        return {f"{i:03d}_{name}": y for i, (name, y) in enumerate(zip(names, outputs, strict=True))}

    function = tf.function(forward, input_signature=signature, autograph=False)
    with _inlined_functions():
        concrete = function.get_concrete_function()
    as_nchw = [name for name, turn in zip(inputs, turned, strict=True) if turn]

    def convert() -> onnx.ModelProto:
        turned_inputs = [*as_nchw, *(f"{name}:0" for name in as_nchw)] or None
        proto: onnx.ModelProto = tf2onnx.convert.from_function(
            function, input_signature=signature, opset=opset, inputs_as_nchw=turned_inputs
        )[0]
        return proto

    try:
        proto = _without_copies(convert)
    # The converter raises many types; the user gets one line.
    except Exception as error:
        raise ExportError(f"tf2onnx cannot convert '{model.name}': {first_line(error, 200)}") from error
    _feed_constants(proto, concrete)
    proto = _without_erfc(proto)
    _keep_zeros_before_pooling(proto)
    _check_operations(proto, model.name)
    return with_layer_names(_slimmed(_renamed(proto, inputs, names, [x.shape[0] for x in signature])), paths)


def _without_copies(convert: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """Converts without a copy of the graph, weights included, before each pass of tf2onnx: they take a third of its time.

    A pass that fails is skipped by the copy before it; so where one does, the conversion is done once more with copies.
    """
    name = "TF2ONNX_CATCH_ERRORS"
    if name in os.environ:
        return convert()
    os.environ[name] = "FALSE"
    try:
        return convert()
    # The converter raises many types; what no copy helps against is raised again by the second conversion.
    except Exception:  # noqa: BLE001
        del os.environ[name]
        return convert()
    finally:
        os.environ.pop(name, None)


def _feed_constants(proto: onnx.ModelProto, function: tf.types.experimental.ConcreteFunction) -> None:
    """Turns graph inputs that the function captured as constants (the means of an adapted Normalization) into initializers."""
    import onnx

    graph = proto.graph
    values = {inner.name: outer for outer, inner in function.graph.captures}
    for value in [x for x in graph.input if x.name in values]:
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values[value.name]), value.name))
        graph.input.remove(value)


def _without_erfc(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces Erfc, by which TensorFlow computes GELU and which ONNX lacks, with 1 - erf(x)."""
    import onnx

    graph = proto.graph
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type != "Erfc":
            graph.node.append(node)
            continue
        one, erf = f"{node.output[0]}_one", f"{node.output[0]}_erf"
        # The constant 1 takes the data type of the input.
        graph.node.append(onnx.helper.make_node("Erf", node.input, [erf], f"{node.name}_erf"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.ones((), np.float32), f"{one}_float"))
        graph.node.append(onnx.helper.make_node("CastLike", [f"{one}_float", erf], [one], f"{node.name}_one"))
        graph.node.append(onnx.helper.make_node("Sub", [one, erf], node.output, node.name))
    return proto


def _keep_zeros_before_pooling(proto: onnx.ModelProto) -> None:
    """Pads with the smallest positive number instead of 0 before a MaxPool.

    onnxruntime (seen in 1.31) fuses a Pad of zeros into the pool's own padding, which never wins the maximum. That is wrong where
    all values of a window are negative and 0 is the maximum. A Pad of another value is not fused.
    """
    import onnx

    graph = proto.graph
    made_by, stored = makers(graph), stored_tensors(graph)
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        pad = made_by.get(pool.input[0])
        while pad is not None and pad.op_type == "Transpose":
            pad = made_by.get(pad.input[0])
        if pad is None or pad.op_type != "Pad" or any(x.name == "mode" and x.s != b"constant" for x in pad.attribute):
            continue
        source, value = made_by.get(pad.input[0]), pad.input[2] if len(pad.input) > 2 else ""
        if value and (value not in stored or np.any(onnx.numpy_helper.to_array(stored[value]))):
            continue
        if source is not None and source.op_type == "Relu":
            continue
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(np.finfo(np.float32).tiny), f"{pad.output[0]}_zero"))
        pad.input[2:] = [f"{pad.output[0]}_zero"]


def _check_operations(proto: onnx.ModelProto, name: str) -> None:
    import onnx

    unknown = {node.op_type for node in proto.graph.node if not onnx.defs.has(node.op_type, node.domain)}
    if unknown:
        raise ExportError(f"'{name}': ONNX has no operation for TensorFlow's {', '.join(sorted(unknown))}; nothing was written.")


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


def _renamed(
    proto: onnx.ModelProto, input_names: list[str], output_names: list[str], batch_sizes: list[int | None]
) -> onnx.ModelProto:
    """Renames inputs and outputs to their Keras names, without TensorFlow's ":0"."""
    graph = proto.graph
    new = {f"{name}:0": name for name in input_names}
    # An output that is an input as well needs a name of its own.
    unique = [f"{name}_output" if name in input_names else name for name in _unique(output_names)]
    new.update({old.name: name for old, name in zip(graph.output, unique, strict=True)})
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
    for value in (*graph.input, *graph.output):
        value.name = new.get(value.name, value.name)
    # tf2onnx may change the order of the inputs and fix an open batch size.
    ordered = sorted(graph.input, key=lambda value: input_names.index(value.name))
    for value, size in zip(ordered, batch_sizes, strict=True):
        if size is None:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.input[:]
    graph.input.extend(ordered)
    return proto


def _unique(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def _slimmed(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    slim: onnx.ModelProto | None = onnxslim.slim(proto)
    if slim is None:
        raise ExportError("onnxslim could not simplify the graph; report the model.")
    return slim
