"""What belongs to each output of a model, as `compile` takes it: losses, their weights, labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from tlt_prune.errors import TltPruneError


def output_names(model: Any) -> list[str]:
    """Names of a model's outputs, in their order: the keys of a dictionary; a subclassed model's own where it has one output."""
    structure = getattr(model, "output", None)
    if isinstance(structure, dict) and len(tree.flatten(structure)) == len(structure):
        return sorted(structure)
    return list(getattr(model, "output_names", None) or [model.name])


def by_output(given: object, names: Sequence[str], what: str, error: type[TltPruneError]) -> list[Any]:
    """One entry for each output, as `compile` understands it: by name, by position, or the same for all.

    Raises:
        TltPruneError: of the type `error`: a name is no output's, or there are more or fewer than outputs.
    """
    if isinstance(given, dict):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise error(f"{what}: there is no output {', '.join(map(repr, unknown))}. Expected some of {', '.join(names)}.")
        return [given.get(x) for x in names]
    if isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise error(f"{what}: expected {len(names)}, one for each of {', '.join(names)}. Received {len(given)}.")
        return list(given)
    return [given] * len(names)


def loss_function(loss: object, what: str, error: type[TltPruneError]) -> Callable[[Any, Any], Any] | None:
    """A loss that is given by its Keras name or as a function; None for None.

    Raises:
        TltPruneError: of the type `error`: it is neither.
    """
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError as unknown:
            raise error(f"{what}: there is no Keras loss {loss!r}.") from unknown
    if loss is not None and not callable(loss):
        raise error(f"{what}: expected a loss or a function (y, predictions) -> loss. Received: {loss!r}.")
    return loss


def labels_by_output(y: object, names: Sequence[str]) -> list[Any]:
    """One entry for each output, of labels by name or in the outputs' order."""
    if isinstance(y, dict) and set(y) == set(names):
        return [y[x] for x in names]
    return list(tree.flatten(y))
