"""Numerical comparison of two models, and onnxruntime sessions to run ONNX models in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import ExportError

if TYPE_CHECKING:
    import keras
    import onnxruntime

InputArrays: TypeAlias = NDArray[Any] | list[NDArray[Any]] | tuple[NDArray[Any], ...]
"""A batch of inputs: an array, or one per input of the model, in the model's order."""
Run = Callable[[InputArrays], list[NDArray[Any]]]
"""A function that runs a model on a batch: inputs -> list of outputs."""


def check_parity(
    reference: Run, exported: Run, batch: InputArrays, exported_batch: InputArrays, tolerance: float, what: str
) -> float:
    """Compares all outputs of an exported model with those of its Keras model on a batch.

    Args:
        reference: runs the Keras model.
        exported: runs the exported model.
        batch, exported_batch: the same inputs in the layout of either model.
        tolerance: largest difference allowed, relative to the largest magnitude of an output.
        what: names the exported model in the message.

    Returns:
        The largest difference, relative to the largest magnitude of that output.

    Raises:
        ExportError: it exceeds `tolerance`, or the outputs differ in number or shape.
    """
    error = relative_difference(reference(batch), exported(exported_batch))
    if not error <= tolerance:
        raise ExportError(
            f"{what} differs from the Keras model by {error:.2e} of the largest output. Expected at most "
            f"{tolerance:.0e}; nothing was written."
        )
    return error


def relative_difference(expected: Sequence[NDArray[Any]], received: Sequence[NDArray[Any]]) -> float:
    """The largest difference of two lists of outputs, relative to the largest magnitude of that output in `expected`.

    Infinity if they differ in number or shape.
    """
    if [x.shape for x in expected] != [x.shape for x in received]:
        return float("inf")
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(expected, received, strict=True)]
    return max(float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1.0)) for a, b in pairs)


def fits(received: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a batch of shape `received` fits an input of shape `expected`, in which None is any size; any batch size fits."""
    return len(received) == len(expected) and all(n in (None, m) for n, m in zip(expected[1:], received[1:], strict=True))


def samples_of(model: keras.Model, samples: InputArrays) -> list[NDArray[Any]]:
    """Samples as a list of arrays, one per input of the model.

    Raises:
        ExportError: their number or shapes are not those of the model's inputs, or there are none.
    """
    arrays = [np.asarray(x) for x in (samples if isinstance(samples, (tuple, list)) else [samples])]
    shapes = [tuple(x.shape) for x in model.inputs]
    fit = len(arrays) == len(shapes) and all(fits(x.shape, shape) for x, shape in zip(arrays, shapes, strict=True))
    if not fit or not all(map(len, arrays)):
        wanted, got = ", ".join(map(str, shapes)), ", ".join(str(x.shape) for x in arrays)
        raise ExportError(f"samples: '{model.name}' takes inputs of shape {wanted}. Received: {got}.")
    return arrays


def session_of(serialized: bytes, *, optimize: bool = True, threads: int = 0) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU.

    Args:
        serialized: the ONNX model.
        optimize: whether the graph is optimized first; otherwise it runs node by node as it is in the file.
        threads: per operation; 0 for onnxruntime's own choice.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Without VNNI a CPU adds products of uint8 and int8 in 16 bits, which overflow: then int8 weights are computed with as uint8.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
