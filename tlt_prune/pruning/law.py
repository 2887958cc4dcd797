"""The law: pruned(x) == original(x) with the consumers' rows of every removed channel set to zero."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.errors import LawError
from tlt_prune.graph.channels import Alive, ChannelGraph
from tlt_prune.pruning.rewrite import rewrite, rewrite_with_layers

# Sizes given to axes that the model leaves open: pictures and signals, and sequences of tokens, which often
# have position embeddings of a limited length.
_OPEN_SIZE, _OPEN_LENGTH = 64, 8


@dataclasses.dataclass(frozen=True)
class LawReport:
    """What the check found.

    Attributes:
        relative_error: largest difference of any output, relative to that output's largest magnitude, where
            every removed channel is exact.
        tolerance: largest difference allowed.
        approximate: why the removal of some channels is not exact; empty if all are.
        approximate_error: the same difference with those removed too.
    """

    relative_error: float
    tolerance: float
    approximate: tuple[str, ...] = ()
    approximate_error: float = 0.0


def zeroed_reference(channels: ChannelGraph, alive: Alive) -> Any:
    """The original model, full size, with the consumers' rows of the removed channels set to zero."""
    reference, layers = rewrite_with_layers(channels, np.ones_like(alive))
    _zero(channels, layers, alive)
    return reference


def _zero(channels: ChannelGraph, layers: dict[int, Any], alive: Alive) -> None:
    """Sets the rows that read removed channels to zero, in the rebuilt `layers`."""
    family = channels.graph.family
    for axis in channels.axes:
        gone = ~alive[axis.labels]
        if axis.role == "in" and gone.any():
            weight = family.weights(layers[id(axis.op)])[axis.index]
            value = family.numpy(weight).copy()
            np.moveaxis(value, axis.axis, 0)[gone] = 0
            weight.assign(value)


def check_law(
    channels: ChannelGraph, alive: Alive, pruned: Any, *, tolerance: float = 1e-4, seed: int = 0, batch_size: int = 2
) -> LawReport:
    """Compares the pruned model with the zeroed original on random inputs.

    The zeroed original is itself a rebuilt model, so first the rebuilt model with nothing removed is compared with the
    original. Channels whose removal is only approximate (LayerNormalization...) cannot obey the law: it is checked
    with those retained, and the difference they make is reported.

    Args:
        channels: the traced original.
        alive: `(n_labels,)`, what was retained.
        pruned: the rewritten model.
        tolerance: largest difference allowed, relative to the output's largest magnitude.
        seed: of the random inputs (standard normal; small integers for integer inputs).
        batch_size: number of inputs, where the model leaves it open.

    Raises:
        LawError: an output differs by more than `tolerance` or is not finite, or the original cannot be checked: it
            does not run on random inputs, or is random itself.
    """
    model = channels.graph.model
    inputs = random_inputs(channels, seed, batch_size)
    original = _run_original(model, inputs)
    reference, layers = rewrite_with_layers(channels, np.ones_like(alive))
    if not _error(original, reference, inputs) <= tolerance:
        raise LawError(_not_rebuilt(model, original, inputs, tolerance))
    reasons = {root: why for root, why in channels.bundles.approximate.items() if not alive[root]}
    exact = alive | np.isin(channels.bundles.root, list(reasons))
    _zero(channels, layers, exact)
    error = _error(_run(reference, inputs), rewrite(channels, exact) if reasons else pruned, inputs)
    approximate_error = 0.0
    if reasons:
        _zero(channels, layers, alive)
        approximate_error = _error(_run(reference, inputs), pruned, inputs)
    if not (error <= tolerance and np.isfinite(approximate_error)):
        raise LawError(
            f"The pruned model '{pruned.name}' differs from the original with the removed channels' consumers zeroed "
            f"by {max(error, approximate_error):.2e} of the largest output. Expected at most {tolerance:.0e}. "
            "Exclude the layers concerned, and report the model: this is a bug."
        )
    return LawReport(error, tolerance, tuple(sorted(set(reasons.values()))), approximate_error)


def _run_original(model: Any, inputs: Any) -> list[NDArray[Any]]:
    try:
        return _run(model, inputs)
    # Whatever a model raises, it is the model that cannot be checked.
    except Exception as error:
        shapes = [f"{np.shape(x)} {np.asarray(x).dtype}" for x in tree.flatten(inputs)]
        reason = " ".join(str(error).split())
        raise LawError(
            f"The check cannot run '{model.name}' on random inputs of {', '.join(shapes)}: {reason[:300]} "
            "Expected a model that takes them; without the check (verify=False, --noverify) it is pruned all the same."
        ) from error


def _not_rebuilt(model: Any, original: list[NDArray[Any]], inputs: Any, tolerance: float) -> str:
    again = _run(model, inputs)
    if max(relative_error(a, b) for a, b in zip(original, again, strict=True)) > tolerance:
        return (
            f"The check cannot compare '{model.name}': two runs on the same inputs differ, so it is random in inference. "
            "Without the check (verify=False, --noverify) it is pruned all the same."
        )
    return (
        f"Rebuilt from its layers' configurations and weights, with nothing removed, '{model.name}' no longer computes the "
        "same. Expected custom layers to keep their state in weights, or to hand it over in save_assets() and load_assets()."
    )


def random_inputs(channels: ChannelGraph, seed: int, batch_size: int) -> Any:
    """Random inputs in the structure of the model's."""
    rng = np.random.default_rng(seed)

    def one(tensor: Any) -> NDArray[Any]:
        tokens = not tensor.dtype.startswith(("float", "bfloat"))
        size = _OPEN_LENGTH if tokens else _OPEN_SIZE
        shape = [batch_size if i == 0 and n is None else size if n is None else n for i, n in enumerate(tensor.shape)]
        if tensor.dtype == "string":
            return rng.integers(0, 10, shape).astype(str)
        if tokens:
            return rng.integers(0, 2, shape).astype(tensor.dtype)
        return rng.standard_normal(shape).astype(np.float32)

    return tree.map_structure(one, channels.graph.inputs)


def relative_error(expected: NDArray[Any], received: NDArray[Any]) -> float:
    """max |a - b| / max |a|; infinite where one is not finite or the shapes differ."""
    if expected.shape != received.shape or not (np.isfinite(expected).all() and np.isfinite(received).all()):
        return float("inf")
    scale = float(np.max(np.abs(expected), initial=0.0))
    return float(np.max(np.abs(expected - received), initial=0.0)) / (scale or 1.0)


def _run(model: Any, inputs: Any) -> list[NDArray[Any]]:
    return [np.asarray(x, dtype=np.float64) for x in tree.flatten(model(inputs, training=False))]


def _error(expected: list[NDArray[Any]], model: Any, inputs: Any) -> float:
    return max(relative_error(a, b) for a, b in zip(expected, _run(model, inputs), strict=True))
