"""Variables that `fit` would make in its first step."""

from __future__ import annotations

from typing import Any

import keras


def make_variables(model: keras.Model, **validation: Any) -> None:
    """Makes the variables of a compiled model's metrics and optimizer, by an evaluation of one batch.

    `fit` makes them while TensorFlow traces the first step of training, and has it traced once more: seconds of every start.

    Args:
        model: compiled.
        **validation: data, as for `evaluate`.
    """
    model.evaluate(**validation, steps=1, verbose=0)
    model.optimizer.build(model.trainable_variables)
