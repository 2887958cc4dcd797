"""Loading and running .keras files, SavedModel folders, .onnx and .tflite files by one interface."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune import extras
from tlt_prune.errors import ExportError, first_line
from tlt_prune.graph import all_layers
from tlt_prune.io import ModelInfo, load_keras, machine_error, model_info, refuse_foreign, workers
from tlt_prune.onnx.graphs import quantization_constants
from tlt_prune.onnx.noise import quiet_natively
from tlt_prune.onnx.parity import InputArrays, Run, as_type, session_of

if TYPE_CHECKING:
    import keras
    import onnxruntime


# Latency is measured for that long at least, and until two medians are that near; with so many medians it ends.
_SECONDS, _AGREEMENT, _MOST_MEDIANS = 1.0, 0.05, 20


# onnxruntime's names that are not NumPy's.
_ONNX_TYPES = {"float": "float32", "double": "float64"}


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model file, ready to run.

    Attributes:
        kind: "keras", "saved_model", "onnx" or "litert".
        path: where it came from.
        input_shapes: input name -> shape with the batch axis, None where open.
        params: number of parameters stored in it.
        file_bytes: size on disk.
        run: batch in the model's own layout (a list of them, in the order of `input_shapes`), of any type of numbers -> list of
            outputs.
        model: the Keras model, where `kind` is "keras".
        info: class names, preprocessing and the like, stored in the file; None if another program wrote it.
        on_one_thread: opens the file again, to be run on one thread; None where the framework has one number of threads for the
            whole process.
    """

    kind: str
    path: pathlib.Path
    input_shapes: dict[str, tuple[int | None, ...]]
    params: int
    file_bytes: int
    run: Run
    model: keras.Model | None = None
    info: ModelInfo | None = None
    on_one_thread: Callable[[], Run] | None = None

    def __call__(self, batch: NDArray[Any]) -> NDArray[Any]:
        return self.answers(batch)[0]

    def answers(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Runs the model on a batch and returns all outputs.

        Raises:
            ExportError: an output has NaN or infinity, with which any score would be wrong.
        """
        outputs = self.run(batch)
        for output in outputs:
            if not np.isfinite(output).all():
                bad = int((~np.isfinite(output.reshape(len(output), -1))).any(axis=1).sum())
                raise ExportError(
                    f"{self.path} answers NaN or infinity for {bad} of the {len(output)} pictures of a batch. Expected a "
                    "trained model without NaN; look at its training log."
                )
        return outputs

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the only input.

        Raises:
            ExportError: it has several.
        """
        if len(self.input_shapes) != 1:
            names = ", ".join(self.input_shapes)
            raise ExportError(f"{self.path}: expected a model with one input. It has {len(self.input_shapes)}: {names}.")
        return next(iter(self.input_shapes.values()))

    def channels_first(self, channels: int) -> bool:
        """Whether the input is (n, channels, height, width) for pictures with that many channels."""
        return self.input_shape[-1] != channels and self.input_shape[1] == channels

    @property
    def channels(self) -> int | None:
        """1 or 3, if the shape of the input tells; otherwise None."""
        ends = {n for n in (self.input_shape[-1], self.input_shape[1]) if n in (1, 3)} if len(self.input_shape) == 4 else set()
        return ends.pop() if len(ends) == 1 else None

    def picture_size(self, channels: int, open_size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """(height, width, channels) of the pictures it takes; `open_size` (height, width) is used if the input has no fixed size.

        Raises:
            ExportError: the input is no picture of that many channels, or its size is open and `open_size` is not given.
        """
        shape = self.input_shape
        if len(shape) == 4 and channels in (shape[1], shape[3]):
            height, width = shape[2:] if self.channels_first(channels) else shape[1:3]
            height, width = height or (open_size or (0, 0))[0], width or (open_size or (0, 0))[1]
            if height and width:
                return int(height), int(width), channels
        raise ExportError(f"{self.path}: expected an input of pictures with {channels} channels. Its input is {shape}.")


def load_predictor(path: str | pathlib.Path) -> Predictor:
    """Loads a model file of any format; several workers run it together.

    Raises:
        ExportError: the file is missing or no model.
    """
    path = pathlib.Path(path)
    refuse_foreign(path)
    if not path.exists():
        raise ExportError(f"There is no model {path}. Expected a .keras, .onnx or .tflite file, or a SavedModel folder.")
    open_kind = {".onnx": _open_onnx, ".tflite": _open_litert}.get(path.suffix, keras_predictor)
    predictor = (_open_saved_model if path.is_dir() else open_kind)(path)
    return dataclasses.replace(predictor, run=spread(predictor.run))


def spread(run: Run) -> Run:
    """A run that every worker computes a part of; all must call it alike.

    A batch of fewer examples than workers is computed by all of them as a whole.
    """
    if workers.count() == 1:
        return run

    def shared(batch: InputArrays) -> list[NDArray[Any]]:
        arrays, total, index = arrays_of(batch), workers.count(), workers.index()
        size = len(arrays[0])
        if size < total:
            return run(batch)
        part = slice(index * size // total, (index + 1) * size // total)
        return [workers.gather(x) for x in run([x[part] for x in arrays])]

    return shared


def latency_ms(predictor: Predictor, batch: NDArray[Any], runs: int = 50) -> float:
    """Latency of a call in milliseconds, of an ONNX file on one thread: the lowest median of `runs` calls.

    Whatever else a machine does shifts a median by more than networks differ, and so do threads, from process to process. So
    medians are taken for a second, and until one is within 5 % of the lowest before it; with the 20th it ends anyway.
    """
    run = predictor.on_one_thread() if predictor.on_one_thread is not None else predictor.run
    for _ in range(5):
        run(batch)
    lowest, medians, agrees, began = float("inf"), 0, False, time.perf_counter()
    while not (agrees or medians >= _MOST_MEDIANS) or time.perf_counter() - began < _SECONDS:
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - start)
        median = 1000 * statistics.median(times)
        agrees = agrees or abs(median - lowest) <= _AGREEMENT * median
        lowest, medians = min(lowest, median), medians + 1
    return lowest


def keras_runner(model: keras.Model) -> Run:
    """A compiled forward pass in inference mode.

    Raises:
        ExportError: TensorFlow has no channels-first operations on this CPU.
    """
    extras.require_tensorflow("Running a model file")
    import keras
    import tensorflow as tf

    def forward(*x: tf.Tensor) -> Any:
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(input_structure(model), x), training=False))

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]
    compiled = tf.function(forward, autograph=False).get_concrete_function(*specs)

    def run(batch: InputArrays) -> list[NDArray[Any]]:
        tensors = [tf.constant(as_type(x, s.dtype.name), s.dtype) for x, s in zip(arrays_of(batch), specs, strict=True)]
        try:
            return [np.asarray(y) for y in compiled(*tensors)]
        except tf.errors.OpError as error:
            if "NHWC" not in str(error):
                raise
            raise ExportError(
                f"TensorFlow cannot run '{model.name}' on this CPU: it has channels-first layers, which need oneDNN there. Set "
                "TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is imported."
            ) from error

    return run


def check_stateless(model: keras.Model, form: str) -> None:
    """Raises ExportError if a layer is stateful, for a file format that keeps no states between calls."""
    states = [layer.name for layer in all_layers(model) if getattr(layer, "stateful", False)]
    if states:
        raise ExportError(
            f"{form} cannot run '{model.name}': '{states[0]}' keeps its states between calls (stateful=True). Expected "
            "layers that do not, or a SavedModel, which can."
        )


def input_structure(model: keras.Model) -> Any:
    """The structure of a model's inputs; of a Sequential, whose `input` may be undefined, its one input."""
    import keras

    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def keras_predictor(path: pathlib.Path) -> Predictor:
    """Loads a .keras or .h5 file.

    Raises:
        ExportError: the file is missing or no model.
    """
    model = load_keras(path)
    shapes, size = {x.name: tuple(x.shape) for x in model.inputs}, path.stat().st_size
    return Predictor("keras", path, shapes, model.count_params(), size, keras_runner(model), model, model_info.read_info(path))


def _open_saved_model(path: pathlib.Path) -> Predictor:
    import tensorflow as tf

    from tlt_prune.io import saved_models

    saved_models.refuse_unsafe(path)
    with _loading(f"the folder {path} as a SavedModel with a serving signature"):
        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    shapes = {name: tuple(x.shape) for name, x in specs.items()}
    params = sum(int(np.prod(v.shape)) for v in serve.variables)
    size = sum(x.stat().st_size for x in path.rglob("*") if x.is_file())
    beside = path / model_info.SAVED_MODEL_FILE
    info = model_info.parse(beside.read_bytes() if beside.is_file() else None, str(path))

    def run(batch: InputArrays) -> list[NDArray[Any]]:
        fed = zip(specs.items(), arrays_of(batch), strict=True)
        return in_order(serve(**{name: tf.constant(as_type(x, spec.dtype.name)) for (name, spec), x in fed}))

    # `loaded` owns the variables: it must live as long as `run` does.
    run.owner = loaded  # type: ignore[attr-defined]
    return Predictor("saved_model", path, shapes, params, size, run, info=info)


def _open_onnx(path: pathlib.Path) -> Predictor:
    extras.require("export", "Running an ONNX file")
    import onnx

    def on_one_thread() -> Run:
        return onnx_runner(session_of(onnx.load(path), threads=1))

    with _loading(f"{path} as ONNX", " Expected a file that tlt-export wrote."):
        model = onnx.load(path)
        session = session_of(model)
    shapes = {x.name: tuple(n if isinstance(n, int) else None for n in x.shape) for x in session.get_inputs()}
    # Scales and zero points do not count as parameters.
    steps = quantization_constants(model.graph)
    params = sum(int(np.prod(x.dims)) for x in model.graph.initializer if x.name not in steps)
    texts = {x.key: x.value for x in model.metadata_props}
    info = model_info.parse(texts.get(model_info.ONNX_KEY), str(path))
    size, run = path.stat().st_size, onnx_runner(session)
    return Predictor("onnx", path, shapes, params, size, run, info=info, on_one_thread=on_one_thread)


def _open_litert(path: pathlib.Path) -> Predictor:
    extras.require("litert", "Running a LiteRT file")
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    with _loading(f"{path} as LiteRT", " Expected a file that tlt-export wrote."):
        content = path.read_bytes()
        with quiet_natively():
            interpreter = Interpreter(model_content=content)
            # Where sizes are open, a call with a batch does so.
            if all(n >= 0 for x in interpreter.get_input_details() for n in x["shape_signature"][1:]):
                interpreter.allocate_tensors()
            signature = interpreter.get_signature_runner()
        details = signature.get_input_details()
        shapes = {name: tuple(n if n >= 0 else None for n in map(int, x["shape_signature"])) for name, x in details.items()}
        stored = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    # Shapes and axes are integers without a scale; weights are floats, or have one.
    whole = (schema.TensorType.INT32, schema.TensorType.INT64)
    weights = [
        x
        for graph in stored.subgraphs
        for x in graph.tensors
        if stored.buffers[x.buffer].data is not None
        and (x.type not in whole or (x.quantization is not None and x.quantization.scale is not None))
    ]
    params = sum(int(np.prod(x.shape)) for x in weights)
    info = model_info.read_info(path)

    def run(batch: InputArrays) -> list[NDArray[Any]]:
        fed = zip(details.items(), arrays_of(batch), strict=True)
        return in_order(signature(**{name: np.asarray(x, detail["dtype"]) for (name, detail), x in fed}))

    return Predictor("litert", path, shapes, params, path.stat().st_size, run, info=info)


@contextlib.contextmanager
def _loading(what: str, advice: str = "") -> Iterator[None]:
    """Names what was being loaded, in the error of a library; an error of the machine, such as a full disk, stays itself."""
    try:
        yield
    except Exception as error:
        if (refused := machine_error(error)) is not None:
            raise refused from error
        raise ExportError(f"Cannot load {what}: {first_line(error, 150)}.{advice}") from error


def in_order(outputs: Mapping[str, ArrayLike]) -> list[NDArray[Any]]:
    """Outputs of a signature that Keras wrote: by number (output_0, output_1, ..., output_10), of a dictionary by key."""
    numbered = all(re.fullmatch(r"output_\d+", name) for name in outputs)
    order = sorted(outputs, key=lambda name: (len(name), name)) if numbered else sorted(outputs)
    return [np.asarray(outputs[name]) for name in order]


def onnx_runner(session: onnxruntime.InferenceSession) -> Run:
    """A function that runs an onnxruntime session."""
    inputs = session.get_inputs()
    # "tensor(float)" and the like.
    types = [_ONNX_TYPES.get(name, name) for name in (x.type[len("tensor(") : -1] for x in inputs)]

    def run(batch: InputArrays) -> list[NDArray[Any]]:
        fed = zip(inputs, types, arrays_of(batch), strict=True)
        return [np.asarray(x) for x in session.run(None, {i.name: as_type(x, dtype) for i, dtype, x in fed})]

    return run


def arrays_of(batch: InputArrays) -> list[NDArray[Any]]:
    """A batch as a list with one array per input."""
    return list(batch) if isinstance(batch, (tuple, list)) else [batch]
