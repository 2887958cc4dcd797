"""Calibration of an ONNX model: the ranges of its float tensors on batches of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import QuantizationError
from tlt_prune.onnx import fed_inputs, fits, float_tensors, session_of, with_outputs
from tlt_prune.quantization.ranges import Histogram, Range, check_method

if TYPE_CHECKING:
    import onnx

CalibrationData: TypeAlias = NDArray[Any] | tuple[NDArray[Any], ...] | Iterable[NDArray[Any] | tuple[NDArray[Any], ...]]
"""Inputs of an ONNX file: arrays, one per input, or batches of these."""
# Data with more batches is taken for endless.
_MOST_BATCHES = 10_000


def calibrated_ranges(
    model: onnx.ModelProto, batches: Iterable[tuple[NDArray[Any], ...]], *, method: str = "percentile", percentile: float = 99.99
) -> dict[str, Range]:
    """Ranges of all float tensors of an ONNX model, its inputs and outputs included, on batches of its inputs.

    A tensor inside the model with an infinite value (the inverse of a norm that is clipped afterwards) gets no range, and neither
    do the tensors computed directly from it, which may be huge: they stay float.

    Args:
        model: a float ONNX model.
        batches: tuples of arrays, one per input.
        method: "min_max", "percentile" or "entropy": see `quantization.ranges`.
        percentile: for the method of that name, in per cent.

    Raises:
        QuantizationError: no batch, an unknown method, or an input or output with values that are not finite.
    """
    check_method(method, percentile)
    names = float_tensors(model)
    session = session_of(with_outputs(model, names))
    inputs = [x.name for x in session.get_inputs()]
    outer = {*inputs, *(x.name for x in model.graph.output)}
    floats = [x.name for x in session.get_inputs() if x.type == "tensor(float)"]
    histograms = {name: Histogram() for name in (*floats, *names)}
    without: dict[str, QuantizationError] = {}
    for count, batch in enumerate(batches):
        if count == _MOST_BATCHES:
            raise QuantizationError(f"Calibration: {count:,} batches were read, and there are more. Expected data that ends.")
        fed = dict(zip(inputs, batch, strict=True))
        for name, values in (*((x, fed[x]) for x in floats), *zip(names, session.run(names, fed), strict=True)):
            try:
                histograms[name].add(values)
            except QuantizationError as error:
                without.setdefault(name, error)
    if outer & without.keys():
        name, cause = next(iter(without.items()))
        raise QuantizationError(
            f"Calibration: tensor '{name}' has {cause}. Expected a trained model, and pictures preprocessed as in its training."
        ) from cause
    limited = {name for node in model.graph.node if without.keys() & set(node.input) for name in node.output}
    return {
        name: histogram.range(method, percentile)
        for name, histogram in histograms.items()
        if name not in without and name not in limited
    }


def calibration_batches(data: CalibrationData, model: onnx.ModelProto, size: int = 32) -> Iterator[tuple[NDArray[Any], ...]]:
    """Batches of a calibration set as tuples of arrays, one per input of the file.

    Args:
        data: an array, a tuple of them, or an iterable of batches of such.
        model: the ONNX model that will read them.
        size: of the batches that arrays are cut into.

    Raises:
        QuantizationError: there is no batch, or one does not fit the model's inputs.
    """
    import onnx

    expected = [[d.dim_value or None for d in x.type.tensor_type.shape.dim] for x in fed_inputs(model)]
    types = [onnx.helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type) for x in fed_inputs(model)]
    fixed = next((shape[0] for shape in expected if shape and shape[0]), None)
    if data is None or isinstance(data, (dict, str)) or not (_is_array(data) or hasattr(data, "__iter__")):
        raise QuantizationError(
            "Calibration set: expected an array, a tuple with one per input, or batches of such. Received: "
            f"{type(data).__name__}."
        )
    count = 0
    for batch in _slices(data, fixed or size, whole=fixed is not None) if _is_array(data) else data:
        given = batch if isinstance(batch, tuple) else (batch,)
        arrays = tuple(np.asarray(x, types[i] if i < len(types) else None) for i, x in enumerate(given))
        shapes = [x.shape for x in arrays]
        of_size = fixed is None or all(len(x) == fixed for x in arrays if x.ndim)
        if len(arrays) != len(expected) or not all(map(fits, shapes, expected)) or not of_size:
            wanted = ", ".join(str(tuple(x)) for x in expected)
            got = ", ".join(str(x) for x in shapes)
            raise QuantizationError(f"Calibration set: the file takes inputs of shape {wanted}. Received: {got}.")
        if len(arrays[0]):
            count += len(arrays[0])
            yield arrays
    if not count:
        raise QuantizationError("The calibration set is empty. Expected some hundred examples such as the model will see.")


def _is_array(data: CalibrationData) -> TypeGuard[NDArray[Any] | tuple[NDArray[Any], ...]]:
    return hasattr(data, "shape") or (isinstance(data, tuple) and all(hasattr(x, "shape") for x in data))


def _slices(data: NDArray[Any] | tuple[NDArray[Any], ...], size: int, *, whole: bool) -> Iterator[tuple[NDArray[Any], ...]]:
    """Batches of arrays; with `whole`, without what is left over, unless it is all."""
    arrays = data if isinstance(data, tuple) else (data,)
    end = len(arrays[0]) // size * size or len(arrays[0]) if whole else len(arrays[0])
    for start in range(0, end, size):
        yield tuple(x[start : start + size] for x in arrays)
