"""Do two models compute the same? And how an ONNX model is run to find out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import ExportError

Run = Callable[[Any], list[NDArray[Any]]]
"""An array, or a list of them, one an input -> outputs."""


def check_parity(reference: Run, exported: Run, batch: Any, exported_batch: Any, tolerance: float, what: str) -> float:
    """Compares all outputs on a batch.

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
    if [x.shape for x in expected] != [x.shape for x in received]:
        return float("inf")
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(expected, received, strict=True)]
    return max(float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1.0)) for a, b in pairs)


def fits(received: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a batch of that shape is one of an input of shape `expected`, batch axis included, None where it is open."""
    return len(received) == len(expected) and all(n in (None, m) for n, m in zip(expected[1:], received[1:], strict=True))


def samples_of(model: Any, samples: Any) -> list[NDArray[Any]]:
    """Inputs of a model as arrays, one an input.

    Raises:
        ExportError: another number of them, or other shapes.
    """
    arrays = [np.asarray(x) for x in (samples if isinstance(samples, (tuple, list)) else [samples])]
    shapes = [tuple(x.shape) for x in model.inputs]
    fit = len(arrays) == len(shapes) and all(fits(x.shape, shape) for x, shape in zip(arrays, shapes, strict=True))
    if not fit or not all(map(len, arrays)):
        wanted, got = ", ".join(map(str, shapes)), ", ".join(str(x.shape) for x in arrays)
        raise ExportError(f"samples: '{model.name}' takes inputs of shape {wanted}. Received: {got}.")
    return arrays


def session_of(serialized: bytes, *, optimize: bool = True) -> Any:
    """An onnxruntime session on the CPU; without `optimize`, it computes node by node what the file says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
