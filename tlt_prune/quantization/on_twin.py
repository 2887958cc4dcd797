"""Training of a model's tf_keras twin with the layer wrappers of tensorflow-model-optimization."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras

from tlt_prune import extras
from tlt_prune.graph import inherits_trait, read
from tlt_prune.quantization.copying import copied
from tlt_prune.quantization.twin import to_tf_keras

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings for training a twin by SGD with momentum 0.9.

    Attributes:
        data: batches `(x, y)`: a `tf.data.Dataset`.
        loss: a name that both Keras packages know.
        epochs, steps_per_epoch, learning_rate: `steps_per_epoch` None takes the whole dataset in each epoch.
    """

    data: tf.data.Dataset
    loss: str = "categorical_crossentropy"
    epochs: int = 1
    steps_per_epoch: int | None = None
    learning_rate: float = 1e-3

    def run(self, model: tf_keras.Model, callbacks: Sequence[tf_keras.callbacks.Callback] = ()) -> None:
        """Trains a tf_keras model."""
        tf_keras = importlib.import_module("tf_keras")
        model.compile(tf_keras.optimizers.SGD(self.learning_rate, momentum=0.9), self.loss)
        model.fit(self.data, epochs=self.epochs, steps_per_epoch=self.steps_per_epoch, verbose=0, callbacks=list(callbacks))


def kernels(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Path and layer of every convolution and dense layer, in the order of calls."""
    graph = read(model)
    for call in graph.walk():
        # 2:4 sparsity and clustering work on matrices and on kernels of pictures.
        if inherits_trait(call.op, "convolution", "dense") and len(call.op.kernel.shape) in (2, 4):
            yield call.path, call.op


def trained_on_twin(
    model: keras.Model,
    layers: Container[str],
    wrap: Callable[[tf_keras.layers.Layer], tf_keras.layers.Layer],
    strip: Callable[[tf_keras.Model], tf_keras.Model],
    training: Training,
    callbacks: Sequence[tf_keras.callbacks.Callback] = (),
) -> tuple[keras.Model, float]:
    """A copy of a model with the weights that its twin has after training with wrapped layers.

    Args:
        model: a Keras 3 model.
        layers: names of the layers to wrap.
        wrap, strip: put a wrapper around a layer of the twin; take all wrappers off the twin.
        training: settings.
        callbacks: of the training.

    Returns:
        The copy, and the difference between twin and model before training, relative to the largest output.
    """
    twin, difference = to_tf_keras(model)
    clone = importlib.import_module("tf_keras").models.clone_model
    wrapped = clone(twin, clone_function=lambda x: wrap(x) if x.name in layers else x)
    training.run(wrapped, callbacks)
    trained, result = strip(wrapped), copied(model)
    # The twin's layers have the names of the model's, also inside nested models.
    for call in read(result).walk():
        if call.inner is None and getattr(call.op, "weights", None):
            call.op.set_weights(trained.get_layer(call.op.name).get_weights())
    return result, difference


@contextlib.contextmanager
def model_optimization() -> Iterator[Any]:
    """Imports tensorflow-model-optimization, and undoes that its import makes this process and its children use tf_keras."""
    extras.require("sparsity", "Training with sparsity, clusters or LiteRT's quantization")
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    module = importlib.import_module("tensorflow_model_optimization")
    try:
        yield module
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
