"""The best exact statement about approximate layers: with their statistics taken over the retained channels only, the law holds.

The reference is the original with the removed channels' consumers zeroed, in which each normalizing layer
is replaced by: gather the retained channels, apply the pruned model's layer, scatter back.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tlt_prune.graph.channel_graph import ChannelGraph
from tlt_prune.pruning.rewrite.law import zeroed_reference


class OverRetained(keras.layers.Layer):
    """`inner` on the retained channels of the last axis; zero on the others."""

    def __init__(self, inner: Any, keep: np.ndarray, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner
        self.keep = np.flatnonzero(keep)
        self.scatter = np.eye(len(keep), dtype="float32")[self.keep]

    def call(self, x: Any, mask: Any = None) -> Any:
        return keras.ops.matmul(self.inner(keras.ops.take(x, self.keep, axis=-1)), self.scatter)


def reference(channels: ChannelGraph, alive: np.ndarray, pruned: keras.Model, keep: dict[str, np.ndarray]) -> keras.Model:
    """`keep`: name of each approximate layer -> which of its input channels are retained."""
    zeroed = zeroed_reference(channels, alive)
    inner = {layer.name: layer for layer in pruned._flatten_layers()}

    def clone(layer: Any) -> Any:
        if layer.name in keep:
            return OverRetained(inner[layer.name], keep[layer.name], name=layer.name)
        return type(layer).from_config(layer.get_config())

    new = keras.models.clone_model(zeroed, clone_function=clone, recursive=True)
    _take_weights(new, zeroed, keep)
    return new


def _take_weights(new: keras.Model, old: keras.Model, keep: dict[str, np.ndarray]) -> None:
    """Layer by layer: names are those of one model's layers; what is inside of a layer may have a name that is elsewhere, too."""
    by_name = {layer.name: layer for layer in old.layers}
    for layer in new.layers:
        if isinstance(layer, keras.Model):
            _take_weights(layer, by_name[layer.name], keep)
        elif layer.name not in keep and layer.weights:
            layer.set_weights(by_name[layer.name].get_weights())


def keep_of(channels: ChannelGraph, alive: np.ndarray, kinds: tuple[type, ...]) -> dict[str, np.ndarray]:
    """Retained channels of every layer of `kinds`, from the labels on its parameters."""
    return {a.op.name: alive[a.labels] for a in channels.axes if isinstance(a.op, kinds) and a.role == "follow"}
