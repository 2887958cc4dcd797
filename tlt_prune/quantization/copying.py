"""Copies of models."""

from __future__ import annotations

import keras
import numpy as np

from tlt_prune.errors import QuantizationError
from tlt_prune.graph import trace
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
