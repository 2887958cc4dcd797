"""The law in training mode, for models with opened layers: their classes may do something else there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.graph import Alive, ChannelGraph, Variable, all_layers, as_array
from tlt_prune.pruning.rewrite.rewrite import rewrite_with_variables
from tlt_prune.pruning.rewrite.transfer import Transfer

_TIMES_ROUNDING = 100
_RATES = ("rate", "stddev", "drop_rate", "dropout_rate", "drop_prob")


def difference_in_training(
    channels: ChannelGraph, alive: Alive, reference: Any, variables: Mapping[int, Variable], inputs: Any
) -> float | None:
    """Largest difference of outputs, and of what training changed in the states, relative to the largest of each.

    Args:
        channels: the traced original.
        alive: `(n_labels,)`, what is retained, without what is only approximate.
        reference: the zeroed original; training changes its states.
        variables: `id` of a variable of the original -> that of `reference`.
        inputs: what the model takes.

    Returns:
        None where there is nothing to compare: the model is random in training, or does not run eagerly.
    """
    pruned, of_pruned = rewrite_with_variables(channels, alive)
    with _not_random(reference), _not_random(pruned):
        try:
            expected, again = (_trained(reference, inputs) for _ in range(2))
            received, _ = (_trained(pruned, inputs) for _ in range(2))
            # Both, since every run changes the states, which are compared as well.
            shaken, _ = (_trained(x, tree.map_structure(_shaken, inputs)) for x in (reference, pruned))
        # Whatever a layer raises in training, inference was compared.
        except Exception:  # noqa: BLE001
            return None
    if not all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True)):
        return None
    family, transfer = channels.graph.family, Transfer(channels, alive)
    differences = [_relative(a, b) for a, b in zip(expected, received, strict=True)]
    # Statistics of a small batch divide by next to nothing where a channel hardly varies: rounding alone may change the outputs.
    rounding = _TIMES_ROUNDING * max((_relative(a, b) for a, b in zip(expected, shaken, strict=True)), default=0.0)
    if max(differences, default=0.0) <= rounding:
        return 0.0
    for old in family.weights(channels.graph.model):
        if id(old) in variables and id(old) in of_pruned and not getattr(old, "trainable", True):
            value = transfer.cut(old, family.numpy(variables[id(old)]).reshape(tuple(old.shape)))
            differences.append(_relative(value, family.numpy(of_pruned[id(old)]).reshape(value.shape)))
    return max(differences, default=0.0)


def _shaken(x: Any) -> Any:
    """Inputs that differ by about what float32 rounds."""
    return np.asarray(x) * np.float32(1 + 1e-6) if np.issubdtype(np.asarray(x).dtype, np.floating) else x


def _trained(model: Any, inputs: Any) -> list[NDArray[Any]]:
    return [as_array(x).astype(np.float64) for x in tree.flatten(model(inputs, training=True))]


def _relative(expected: NDArray[Any], received: NDArray[Any]) -> float:
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    return float(np.max(np.abs(expected.astype(np.float64) - received), initial=0.0)) / scale


@contextlib.contextmanager
def _not_random(model: Any) -> Iterator[None]:
    """Sets the rates of dropout and noise to zero."""
    before = [
        (layer, key, vars(layer)[key])
        for layer in all_layers(model)
        for key in _RATES
        if isinstance(vars(layer).get(key), (int, float)) and hasattr(layer, "seed_generator")
    ]
    for layer, key, _ in before:
        setattr(layer, key, 0.0)
    try:
        yield
    finally:
        for layer, key, value in before:
            setattr(layer, key, value)
