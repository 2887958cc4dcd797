"""Copies of models."""

from __future__ import annotations

import keras
import numpy as np

from tlt_prune.errors import QuantizationError, UnsupportedModelError
from tlt_prune.graph import Graph, all_layers, duplicate_names, read, trace
from tlt_prune.pruning.rewrite import rewrite


def copied(model: keras.Model) -> keras.Model:
    """A copy of a model with new layers and equal weights.

    Raises:
        QuantizationError: `model` is no Keras 3 model.
        UnsupportedModelError: `model` has no graph that can be read, or a layer cannot be rebuilt.
    """
    channels = trace(model)
    if channels.graph.family.name != "keras":
        raise QuantizationError(f"'{model.name}' is a tf_keras model. Expected one of Keras 3.")
    return rewrite(channels, np.ones(channels.n_labels, dtype=bool))


def in_float32(model: keras.Model) -> keras.Model:
    """The model, or a copy that computes in float32 if it uses mixed precision, which few runtimes support.

    Raises:
        UnsupportedModelError: its weights are of another type.
    """
    layers = [x for x in all_layers(model) if hasattr(x, "compute_dtype")]
    if all(layer.compute_dtype == "float32" for layer in layers):
        return model
    other = next((v for v in model.weights if v.dtype in ("float16", "bfloat16", "float64")), None)
    if other is not None:
        raise UnsupportedModelError(
            f"'{model.name}' has weights of {other.dtype} ('{other.path}'). Expected float32, or mixed precision: build the "
            "model with the dtype policy float32 or mixed_float16, and give it these weights by set_weights."
        )
    model = copied(model)
    for layer in all_layers(model):
        layer.dtype_policy = "float32"
    return model


def read_copy(model: keras.Model) -> Graph:
    """The graph of a copy whose layers can stand in one model: of equal names in models inside, each becomes its path.

    Raises:
        UnsupportedModelError: `model` has no graph that can be read, or a layer cannot be rebuilt.
    """
    graph = read(copied(model))
    twice = duplicate_names(graph)
    for call in graph.walk():
        if call.op.name in twice:
            call.op.name = call.path.replace("/", "_")
    return graph
