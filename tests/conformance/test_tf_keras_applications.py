"""Models of years ago: tf_keras.applications, and an .h5 file, through the same engine."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np
import pytest
from helpers import assert_law, randomize

import tlt_prune


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "DenseNet121", "EfficientNetB0", "MobileNetV3Small"])
def test_half_of_the_channels(name: str) -> None:
    import tf_keras

    model = getattr(tf_keras.applications, name)(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    head = tf_keras.layers.Dense(5, name="head")(model.output)
    model = randomize(tf_keras.Model(model.input, head))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=8)
    assert plan.params_after < 0.4 * plan.params_before
    assert not plan.unknown
    pruned = plan.apply(model)
    assert isinstance(pruned, tf_keras.Model)
    assert_law(model, plan, pruned, tolerance=1e-4)
    tf_keras.backend.clear_session()


def test_an_old_file(tmp_path: pathlib.Path) -> None:
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.Input((28, 28, 1)),
            tf_keras.layers.Conv2D(32, 3, activation="relu"),
            tf_keras.layers.MaxPooling2D(),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    randomize(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are saving your model as an HDF5 file")
        model.save(tmp_path / "old.h5")
    loaded = tf_keras.models.load_model(tmp_path / "old.h5")
    pruned = tlt_prune.prune_model(loaded, ratio=0.5, verify=True)
    assert isinstance(pruned, tf_keras.Sequential)
    assert pruned.optimizer.__class__.__name__ == loaded.optimizer.__class__.__name__
    pruned.fit(np.zeros((4, 28, 28, 1)), np.eye(10)[:4], verbose=0)
