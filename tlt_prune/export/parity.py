"""Do two models compute the same?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import ExportError

Run = Callable[[NDArray[Any]], list[NDArray[Any]]]


def check_parity(
    reference: Run, exported: Run, batch: NDArray[Any], exported_batch: NDArray[Any], tolerance: float, what: str
) -> float:
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
