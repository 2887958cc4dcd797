"""Quantization-aware training for LiteRT, whose int8 has zero points, by tensorflow-model-optimization on the tf_keras twin.

Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 2018,
arXiv:1712.05877. For TensorRT and onnxruntime, `quantization_aware` trains the Keras 3 model itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from tlt_prune.errors import QuantizationError, first_line
from tlt_prune.quantization.on_twin import Training, model_optimization
from tlt_prune.quantization.twin import to_tf_keras

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras


def train_for_litert(
    model: keras.Model,
    data: tf.data.Dataset,
    loss: str = "categorical_crossentropy",
    *,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    learning_rate: float = 1e-3,
) -> tf_keras.Model:
    """Trains the tf_keras twin of a model with fake quantization; `export.export_litert` writes the result as int8.

    Args:
        model: a Keras 3 model whose layers tf_keras has too. It stays as it is.
        data, loss, epochs, steps_per_epoch, learning_rate: see `Training`.

    Raises:
        QuantizationError: tensorflow-model-optimization cannot quantize the model; the message has its reason.
        UnsupportedModelError: a layer has no twin.
    """
    twin, _ = to_tf_keras(model)
    with model_optimization() as tfmot:
        try:
            aware = tfmot.quantization.keras.quantize_model(twin)
        except (RuntimeError, ValueError) as error:
            raise QuantizationError(
                f"tensorflow-model-optimization cannot quantize '{model.name}': {first_line(error, 200)}. Expected layers that "
                "it knows; quantize after training instead."
            ) from error
        Training(data, loss, epochs, steps_per_epoch, learning_rate).run(aware)
    return aware
