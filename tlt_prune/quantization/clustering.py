"""Weight clustering: every kernel takes few different values, so that the file compresses well. It does not run faster.

tensorflow-model-optimization trains the values on the model's tf_keras twin; the result is a Keras 3 model again.
Han et al., "Deep Compression", 2016, arXiv:1510.00149, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
import pandas as pd

from tlt_prune.errors import QuantizationError
from tlt_prune.quantization.on_twin import Training, kernels, model_optimization, trained_on_twin

if TYPE_CHECKING:
    import tensorflow as tf


def cluster_table(model: keras.Model) -> pd.DataFrame:
    """Distinct weights of each kernel: one row per convolution or dense layer.

    Columns: weights (number of them in the kernel), values (number of distinct ones).
    """
    rows = {
        path: {"weights": int(np.prod(layer.kernel.shape)), "values": len(np.unique(np.asarray(layer.kernel)))}
        for path, layer in kernels(model)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weights", "values"]).rename_axis("layer")


def cluster_weights(
    model: keras.Model,
    data: tf.data.Dataset,
    loss: str = "categorical_crossentropy",
    *,
    clusters: int = 16,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    learning_rate: float = 1e-3,
) -> tuple[keras.Model, float]:
    """A copy of a trained model whose kernels have `clusters` distinct values each, after further training with them.

    Args:
        model: a Keras 3 model whose layers tf_keras has too. It stays as it is.
        clusters: at least 2. A kernel with no more weights than that stays as it is.
        data, loss, epochs, steps_per_epoch, learning_rate: see `Training`.

    Returns:
        The model, and the difference of its tf_keras twin before training, relative to the largest output.

    Raises:
        QuantizationError: `clusters` is below 2, or no kernel has more weights than that.
        UnsupportedModelError: a layer has no twin.
    """
    if clusters < 2:
        raise QuantizationError(f"clusters: expected at least 2. Received: {clusters}.")
    table = cluster_table(model)
    large = {name.split("/")[-1] for name in table.index[table["weights"] > clusters]}
    if not large:
        raise QuantizationError(f"clusters: no kernel of '{model.name}' has more than {clusters} weights.")
    with model_optimization() as tfmot:
        tools = tfmot.clustering.keras
        options = {"number_of_clusters": clusters, "cluster_centroids_init": tools.CentroidInitialization.KMEANS_PLUS_PLUS}
        training = Training(data, loss, epochs, steps_per_epoch, learning_rate)
        return trained_on_twin(model, large, lambda x: tools.cluster_weights(x, **options), tools.strip_clustering, training)
