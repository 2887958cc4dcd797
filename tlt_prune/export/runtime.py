"""One way to run a .keras file, a SavedModel folder and an .onnx file."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.errors import ExportError

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model file, ready to run.

    Attributes:
        kind: "keras", "saved_model" or "onnx".
        path: where it came from.
        input_shape: with the batch axis, None where open.
        params: number of parameters stored in it.
        file_bytes: size on disk.
        run: float32 batch in the model's own layout -> outputs, a list of arrays.
        model: the Keras model, where `kind` is "keras".
    """

    kind: str
    path: pathlib.Path
    input_shape: tuple[int | None, ...]
    params: int
    file_bytes: int
    run: Callable[[Array], list[Array]]
    model: Any = None

    def __call__(self, batch: Array) -> Array:
        return self.run(batch)[0]

    def channels_first(self, channels: int) -> bool:
        """Whether pictures with that many channels go in as (n, channels, height, width)."""
        return self.input_shape[-1] != channels and self.input_shape[1] == channels

    def picture_size(self, channels: int) -> tuple[int, int, int]:
        """(height, width, channels) of the pictures it takes.

        Raises:
            ExportError: the input is no picture of that many channels, or its size is open.
        """
        shape = self.input_shape
        if len(shape) == 4 and channels in (shape[1], shape[3]):
            height, width = shape[2:] if self.channels_first(channels) else shape[1:3]
            if height and width:
                return int(height), int(width), channels
        raise ExportError(f"{self.path}: expected an input of pictures with {channels} channels. Its input is {shape}.")


def load_predictor(path: str | pathlib.Path) -> Predictor:
    """Opens a model file.

    Raises:
        ExportError: the file is missing or no model.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise ExportError(f"There is no model {path}. Expected a .keras or .onnx file, or a SavedModel folder.")
    if path.is_dir():
        return _saved_model(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    return _keras(path)


def latency_ms(predictor: Predictor, batch: Array, runs: int = 50) -> float:
    """Median milliseconds a call, after warming up."""
    for _ in range(5):
        predictor.run(batch)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        predictor.run(batch)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def keras_runner(model: Any) -> Callable[[Array], list[Array]]:
    """A compiled forward pass in inference mode."""
    import keras
    import tensorflow as tf

    forward = tf.function(lambda x: keras.tree.flatten(model(x, training=False)), reduce_retracing=True)
    return lambda batch: [np.asarray(y) for y in forward(tf.constant(batch))]


def _keras(path: pathlib.Path) -> Predictor:
    import keras

    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, OSError, TypeError) as error:
        raise ExportError(f"Cannot load {path} as a Keras model: {str(error).splitlines()[0]}") from error
    return Predictor(
        "keras", path, tuple(model.inputs[0].shape), model.count_params(), path.stat().st_size, keras_runner(model), model
    )


def _saved_model(path: pathlib.Path) -> Predictor:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError) as error:
        raise ExportError(f"Cannot load {path} as a SavedModel with a serving signature: {error}") from error
    (name,) = serve.structured_input_signature[1]
    shape = tuple(serve.structured_input_signature[1][name].shape)
    params = sum(int(np.prod(v.shape)) for v in serve.variables)
    size = sum(x.stat().st_size for x in path.rglob("*") if x.is_file())

    def run(batch: Array) -> list[Array]:
        results = serve(**{name: tf.constant(batch)})
        return [np.asarray(results[key]) for key in sorted(results)]

    # `loaded` owns the variables: it must live as long as `run` does.
    run.owner = loaded  # type: ignore[attr-defined]
    return Predictor("saved_model", path, shape, params, size, run)


def _onnx(path: pathlib.Path) -> Predictor:
    extras.require("export", "Running an ONNX file")
    import onnx
    import onnxruntime

    try:
        model = onnx.load(path)
        session = session_of(model.SerializeToString())
    except Exception as error:
        raise ExportError(f"Cannot load {path} as ONNX: {str(error).splitlines()[0]}") from error
    assert isinstance(session, onnxruntime.InferenceSession)
    shape = tuple(n if isinstance(n, int) else None for n in session.get_inputs()[0].shape)
    params = sum(int(np.prod(x.dims)) for x in model.graph.initializer)
    return Predictor("onnx", path, shape, params, path.stat().st_size, onnx_runner(session))


def session_of(serialized: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def onnx_runner(session: Any) -> Callable[[Array], list[Array]]:
    name = session.get_inputs()[0].name
    return lambda batch: [np.asarray(x) for x in session.run(None, {name: batch})]
