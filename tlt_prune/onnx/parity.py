"""Numerical comparison of two models, and onnxruntime sessions to run ONNX models in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune.errors import ExportError
from tlt_prune.graph import dtype_name
from tlt_prune.onnx.graphs import is_quantized, with_weights_of_their_own

if TYPE_CHECKING:
    import keras
    import onnx
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
        ExportError: it exceeds `tolerance`, the outputs differ in number or shape, or the Keras model's are not finite.
    """
    expected = reference(batch)
    if not all(np.isfinite(x).all() for x in expected):
        raise ExportError(
            f"{what}: the Keras model answers NaN or infinity on the samples, which nothing can be compared with. Expected a "
            "trained model without NaN, and samples that are finite; nothing was written."
        )
    error = relative_difference(expected, exported(exported_batch))
    if not error <= tolerance:
        raise ExportError(
            f"{what} differs from the Keras model by {error:.2e} of the largest output. Expected at most "
            f"{tolerance:.0e}; nothing was written."
        )
    return error


def relative_difference(expected: Sequence[NDArray[Any]], received: Sequence[NDArray[Any]]) -> float:
    """The largest difference of two lists of outputs, relative to the largest magnitude of that output in `expected`.

    Infinity if they differ in number or shape; NaN if one of them has NaN or infinity.
    """
    if [x.shape for x in expected] != [x.shape for x in received]:
        return float("inf")
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(expected, received, strict=True)]
    with np.errstate(invalid="ignore"):
        # NumPy's maximum: Python's is any number beside NaN.
        return float(np.max([np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1.0) for a, b in pairs]))


def fits(received: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a batch of shape `received` fits an input of shape `expected`, in which None is any size; any batch size fits."""
    return len(received) == len(expected) and all(n in (None, m) for n, m in zip(expected[1:], received[1:], strict=True))


def as_type(values: ArrayLike, name: str) -> NDArray[Any]:
    """An array of the type that an input takes; of a type that NumPy does not have, such as bfloat16, as it is."""
    return np.asarray(values, name if name in np.sctypeDict else None)


def samples_of(model: keras.Model, samples: InputArrays) -> list[NDArray[Any]]:
    """Samples as a list of arrays, one per input of the model.

    Raises:
        ExportError: their number or shapes are not those of the model's inputs, or there are none; `model` is not built.
    """
    if getattr(model, "inputs", None) is None:
        raise ExportError(
            f"'{getattr(model, 'name', model)}' has no inputs that are known. Expected a functional model, or a Sequential that "
            "is built."
        )
    given = samples if isinstance(samples, (tuple, list)) else [samples]
    shapes = [tuple(x.shape) for x in model.inputs]
    types = [dtype_name(x) for x in model.inputs]
    arrays = [as_type(x, types[i]) if i < len(types) else np.asarray(x) for i, x in enumerate(given)]
    fit = len(arrays) == len(shapes) and all(fits(x.shape, shape) for x, shape in zip(arrays, shapes, strict=True))
    if not fit or len({len(x) for x in arrays}) != 1 or not len(arrays[0]):
        wanted, got = ", ".join(map(str, shapes)), ", ".join(str(x.shape) for x in arrays)
        raise ExportError(f"samples: '{model.name}' takes inputs of shape {wanted}. Received: {got}.")
    return arrays


def session_of(model: onnx.ModelProto, *, optimize: bool = True, threads: int = 0) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU.

    Args:
        model: the ONNX model.
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
    # In that, it fails where two nodes read one weight.
    model = with_weights_of_their_own(model) if is_quantized(model) else model
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
