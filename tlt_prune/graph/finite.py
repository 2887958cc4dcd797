"""No NaN and no infinity: neither in what is pruned, nor in what a compensation writes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import PlanError
from tlt_prune.graph.family import Family
from tlt_prune.graph.reader import Graph
from tlt_prune.graph.types import Variable


def refuse_not_finite(graph: Graph) -> None:
    """Raises a PlanError that names the first weight of the model that holds NaN or infinity."""
    seen: set[int] = set()
    for call, _, variable in graph.weights():
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        value = graph.family.numpy(variable)
        if not _is_finite(value):
            bad = np.count_nonzero(~np.isfinite(value.astype(np.float32)))
            raise PlanError(
                f"Layer '{call.path}' has weights that are not finite: {bad} of {value.size:,} in '{variable.name}'. "
                "Expected a trained model without NaN or infinity; check its training log."
            )


def assign_finite(family: Family, variable: Variable, value: NDArray[np.float64], who: str) -> None:
    """Sets a weight to what a compensation found, in the weight's own type.

    Raises:
        PlanError: it is not finite there; the weight stays as it was.
    """
    dtype = family.numpy(variable).dtype
    with np.errstate(over="ignore", invalid="ignore"):
        cast = value.astype(dtype)
    if not _is_finite(cast):
        raise PlanError(
            f"{who}: the new value of '{variable.name}' is not finite in {dtype}. Expected weights and data of a size that "
            f"{dtype} can compute with: check the data's scale (largest value, units), or prune without compensation."
        )
    variable.assign(cast)


def _is_finite(value: NDArray[Any]) -> bool:
    if value.dtype.kind in "biuSUO":
        return True
    # bfloat16 and float8 are no kinds of NumPy's.
    return bool(np.isfinite(value if value.dtype.kind in "fc" else value.astype(np.float32)).all())
