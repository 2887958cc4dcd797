"""Criteria that take data, and compensation, on a tf_keras model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tf_keras
from helpers import randomize

import tlt_prune
from tlt_prune import criteria

RNG = np.random.default_rng(0)
X = RNG.standard_normal((48, 8, 8, 3)).astype("float32")
Y = np.eye(3, dtype="float32")[RNG.integers(0, 3, 48)]


def net() -> Any:
    x = tf_keras.Input((8, 8, 3))
    y = tf_keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="a")(x)
    y = tf_keras.layers.ReLU()(tf_keras.layers.BatchNormalization(name="bn")(y))
    z = tf_keras.layers.Conv2D(16, 3, padding="same", name="b")(y)
    y = tf_keras.layers.Conv2D(8, 3, name="c")(tf_keras.layers.Add()([y, z]))
    y = tf_keras.layers.Dense(3, activation="softmax", name="head")(tf_keras.layers.GlobalAveragePooling2D()(y))
    return randomize(tf_keras.Model(x, y))


@pytest.mark.parametrize(
    "criterion",
    [
        criteria.Taylor((X, Y), "categorical_crossentropy"),
        criteria.Fisher((X, Y), "categorical_crossentropy"),
        criteria.Activation(X),
        criteria.APoZ(X),
        criteria.Ablation((X, Y), "categorical_crossentropy"),
    ],
    ids=lambda c: type(c).__name__,
)
def test_criteria(criterion: Any) -> None:
    model = net()
    pruned = tlt_prune.prune_model(model, macs=0.5, criterion=criterion, granularity=4, min_num_filters=4, verify=True)
    assert isinstance(pruned, tf_keras.Model)
    assert pruned.count_params() < model.count_params()


@pytest.mark.parametrize("kind", ["bias", "bias with data", "least squares", "batch norm"])
def test_compensation_brings_the_outputs_nearer(kind: str) -> None:
    model = net()
    compensation = {
        "bias": "bias",
        "bias with data": tlt_prune.Bias(X),
        "least squares": tlt_prune.LeastSquares(X),
        "batch norm": tlt_prune.RecalibrateBatchNorm(X),
    }[kind]
    # The statistics of the data, so that what batch normalization says of its channels is true.
    tlt_prune.recalibrate_batch_norm(model, X)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=4, min_num_filters=4)
    plain, compensated = plan.apply(model), plan.apply(model, compensation=compensation)
    expected = np.log(model.predict(X, verbose=0))
    before, after = (np.abs(np.log(m.predict(X, verbose=0)) - expected).mean() for m in (plain, compensated))
    # Its one batch normalization comes before anything that is removed.
    assert after < before if kind != "batch norm" else after == pytest.approx(before, rel=1e-3)
