"""Export to LiteRT, formerly TensorFlow Lite: converted by TensorFlow, compared with Keras in LiteRT's interpreter."""

from __future__ import annotations

import pathlib
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.errors import ExportError, first_line
from tlt_prune.export.saved_model import signature_names, write_saved_model
from tlt_prune.graph import dtype_name
from tlt_prune.io import ModelInfo, files, model_info
from tlt_prune.onnx import (
    InputArrays,
    check_parity,
    check_stateless,
    keras_runner,
    load_predictor,
    quiet,
    quiet_natively,
    samples_of,
)
from tlt_prune.quantization import is_quantization_aware

if TYPE_CHECKING:
    import tf_keras

LITERT_PRECISIONS = ("float32", "float16", "int8")
_LITERT_TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 0.5}


def export_litert(
    model: keras.Model | tf_keras.Model,
    path: str | pathlib.Path,
    samples: InputArrays,
    *,
    precision: str = "float32",
    calibration: InputArrays | None = None,
    tolerance: float | None = None,
    info: ModelInfo | None = None,
) -> float:
    """Writes a .tflite file with an open batch size, and compares it with Keras in LiteRT's interpreter.

    Args:
        model: a Keras 3 model, or what `quantization.train_for_litert` made of one: the latter is written as int8.
        path: the .tflite file; replaced only when the new one passed.
        samples: float32 inputs for the comparison: an array, or one per input, in the model's order.
        precision: "float32"; "float16", of the weights; or "int8", of weights and activations, while inputs and outputs stay
            float32.
        calibration: inputs as `samples`, a few hundred, from which "int8" takes the ranges of activations (the smallest and
            largest value).
        tolerance: largest difference allowed, relative to the largest output. None is 1e-4, 1e-2, or 0.5 for int8,
            where it is to catch a broken file: what rounding costs, a score on data says.
        info: what belongs to the model; it travels in the file.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        ExportError: an option is out of range, the inputs do not fit, LiteRT lacks an operation, or the outputs differ; nothing
            is written.
    """
    extras.require_tensorflow("export_litert")
    extras.require("litert", "Exporting to LiteRT")
    path = pathlib.Path(path)
    if precision not in LITERT_PRECISIONS:
        raise ExportError(f"export.precision: expected one of {', '.join(LITERT_PRECISIONS)}. Received: {precision!r}.")
    trained_so = not isinstance(model, keras.Model)
    if not trained_so and is_quantization_aware(model):
        raise ExportError(
            f"'{model.name}' was trained with the symmetric int8 of TensorRT and onnxruntime (train.qat). For LiteRT, export the "
            "model before that training, with export.data_type int8 or export.litert_qat_epochs."
        )
    # LiteRT's interpreter would abort the whole process.
    check_stateless(model, "LiteRT")
    arrays = samples_of(model, samples)
    ranges = _finite(samples_of(model, calibration)) if calibration is not None else None
    if precision == "int8" and ranges is None and not trained_so:
        raise ExportError("calibration: int8 needs inputs to measure ranges on. Received: None.")
    with files.whole_file(path) as partial:
        partial.write_bytes(_litert_bytes(model, "int8" if trained_so else precision, ranges))
        if info is not None:
            model_info.write(partial, info)
        written = load_predictor(partial)
        by_name = dict(zip(signature_names(model), arrays, strict=True))
        fed = [by_name[name] for name in written.input_shapes]
        if tolerance is None:
            tolerance = _LITERT_TOLERANCES["int8" if trained_so else precision]
        return check_parity(keras_runner(model), written.run, arrays, fed, tolerance, f"The LiteRT file of '{model.name}'")


def _finite(ranges: list[NDArray[Any]]) -> list[NDArray[Any]]:
    for x in ranges:
        bad = (~np.isfinite(x.reshape(len(x), -1))).any(axis=1).sum() if x.dtype.kind == "f" else 0
        if bad:
            raise ExportError(f"calibration: NaN or infinity in {bad} of {len(x)} examples. Expected finite numbers.")
    return ranges


def _litert_bytes(model: keras.Model | tf_keras.Model, precision: str, ranges: Sequence[NDArray[Any]] | None) -> bytes:
    import tensorflow as tf

    inputs = [(name, dtype_name(x)) for name, x in zip(signature_names(model), model.inputs, strict=True)]

    def one_by_one() -> Iterator[dict[str, NDArray[Any]]]:
        for example in zip(*ranges or (), strict=True):
            yield {name: np.asarray(x, dtype)[None] for (name, dtype), x in zip(inputs, example, strict=True)}

    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, keras.Model):
            write_saved_model(model, folder)
        else:
            _write_twin(model, folder)
        with quiet():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if ranges is not None and precision == "int8":
            converter.representative_dataset = one_by_one
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        try:
            with quiet(), quiet_natively(), warnings.catch_warnings():
                # The converter measures ranges with an interpreter that is deprecated.
                warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
                return bytes(converter.convert())
        # The converter raises many types; the user gets one line.
        except Exception as error:
            lacking = re.search(r"TF Select ops: ([^\n]+)", str(error)) or re.search(r"fused\[\"(TensorList\w+)", str(error))
            reason = f"LiteRT has no operation for TensorFlow's {lacking[1]}" if lacking else first_line(error, 200)
            raise ExportError(f"TensorFlow cannot convert '{model.name}' to LiteRT: {reason}.") from error


def _write_twin(model: tf_keras.Model, folder: str) -> None:
    """Writes a SavedModel of a tf_keras model, with a signature like that of Keras 3."""
    import tensorflow as tf

    def serve(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, inputs), training=False))
        return {f"output_{i}": y for i, y in enumerate(outputs)}

    specs = [tf.TensorSpec(x.shape, x.dtype, name=name) for name, x in zip(signature_names(model), model.inputs, strict=True)]
    holder = tf.Module()
    holder.model = model
    with quiet():
        tf.saved_model.save(holder, folder, signatures=tf.function(serve, input_signature=specs, autograph=False))
