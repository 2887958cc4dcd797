"""The law: pruned(x) == original(x) with the consumers' rows of every removed channel set to zero."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.errors import LawError
from tlt_prune.graph.channels import Alive, ChannelGraph
from tlt_prune.pruning.rewrite import rewrite

# Sizes given to axes that the model leaves open.
_OPEN_SIZE = 64


@dataclasses.dataclass(frozen=True)
class LawReport:
    """Largest difference of any output, relative to that output's largest magnitude."""

    relative_error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.relative_error <= self.tolerance


def zeroed_reference(channels: ChannelGraph, alive: Alive) -> Any:
    """The original model, full size, with the consumers' rows of the removed channels set to zero."""
    rows: dict[tuple[int, int], list[tuple[int, NDArray[np.bool_]]]] = {}
    for axis in channels.axes:
        if axis.role == "in" and not alive[axis.labels].all():
            rows.setdefault((id(axis.op), axis.index), []).append((axis.axis, ~alive[axis.labels]))

    def zero(op: Any, index: int, value: NDArray[Any]) -> NDArray[Any]:
        for axis, gone in rows.get((id(op), index), ()):
            value = value.copy()
            np.moveaxis(value, axis, 0)[gone] = 0
        return value

    return rewrite(channels, np.ones_like(alive), weight_filter=zero)


def check_law(
    channels: ChannelGraph, alive: Alive, pruned: Any, *, tolerance: float = 1e-4, seed: int = 0, batch_size: int = 2
) -> LawReport:
    """Compares the pruned model with the zeroed original on random inputs.

    Args:
        channels: the traced original.
        alive: `(n_labels,)`, what was retained.
        pruned: the rewritten model.
        tolerance: largest difference allowed, relative to the output's largest magnitude.
        seed: of the random inputs (standard normal; small integers for integer inputs).
        batch_size: number of inputs, where the model leaves it open.

    Raises:
        LawError: an output differs by more than `tolerance`, or is not finite.
    """
    inputs = random_inputs(channels, seed, batch_size)
    expected = _flat(zeroed_reference(channels, alive)(inputs, training=False))
    received = _flat(pruned(inputs, training=False))
    error = max(relative_error(a, b) for a, b in zip(expected, received, strict=True))
    report = LawReport(error, tolerance)
    if not report.holds:
        raise LawError(
            f"The pruned model '{pruned.name}' differs from the original with the removed channels' consumers zeroed "
            f"by {error:.2e} of the largest output. Expected at most {tolerance:.0e}. "
            "Exclude the layers concerned, and report the model: this is a bug."
        )
    return report


def random_inputs(channels: ChannelGraph, seed: int, batch_size: int) -> Any:
    """Random inputs in the structure of the model's."""
    rng = np.random.default_rng(seed)

    def one(tensor: Any) -> NDArray[Any]:
        shape = [batch_size if i == 0 and n is None else _OPEN_SIZE if n is None else n for i, n in enumerate(tensor.shape)]
        if tensor.dtype.startswith(("int", "uint")):
            return rng.integers(0, 2, shape).astype(tensor.dtype)
        return rng.standard_normal(shape).astype(np.float32)

    return tree.map_structure(one, channels.graph.inputs)


def relative_error(expected: NDArray[Any], received: NDArray[Any]) -> float:
    """max |a - b| / max |a|; infinite where one is not finite or the shapes differ."""
    if expected.shape != received.shape or not (np.isfinite(expected).all() and np.isfinite(received).all()):
        return float("inf")
    scale = float(np.max(np.abs(expected), initial=0.0))
    return float(np.max(np.abs(expected - received), initial=0.0)) / (scale or 1.0)


def _flat(outputs: Any) -> list[NDArray[Any]]:
    return [np.asarray(x, dtype=np.float64) for x in tree.flatten(outputs)]
