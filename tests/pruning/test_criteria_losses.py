"""Losses by output: those that a criterion takes are those that `compile` takes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize
from keras import layers, ops

import tlt_prune
from tlt_prune.errors import PlanError
from tlt_prune.graph.tracer import trace


def two_outputs() -> keras.Model:
    x = keras.Input((8,))
    y = layers.Dense(16, name="hidden")(x)
    return randomize(keras.Model(x, {"a": layers.Dense(3, name="a")(y), "b": layers.Dense(2, name="b")(y)}))


X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
Y = {"a": np.eye(3, dtype="float32")[np.arange(16) % 3], "b": np.ones((16, 2), "float32")}


def test_losses_by_output_are_those_of_compile() -> None:
    model = two_outputs()
    model.compile("sgd", {"a": "mse", "b": keras.losses.MeanAbsoluteError()})
    scores = [
        criterion(tlt_prune.criteria.Network(trace(model)))["hidden"]
        for criterion in (
            tlt_prune.criteria.Taylor((X, Y)),
            tlt_prune.criteria.Taylor((X, Y), {"a": "mse", "b": "mae"}),
            tlt_prune.criteria.Taylor((X, Y), ["mse", keras.losses.MeanAbsoluteError()]),
            tlt_prune.criteria.Taylor(
                (X, Y), lambda y, z: ops.mean(ops.square(y["a"] - z["a"])) + ops.mean(ops.abs(y["b"] - z["b"]))
            ),
        )
    ]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-5)
    only_a = tlt_prune.criteria.Taylor((X, Y), {"a": "mse"})(tlt_prune.criteria.Network(trace(model)))["hidden"]
    assert not np.allclose(only_a, scores[0], rtol=1e-2)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"c": "mse"}, "there is no output 'c'. Expected some of a, b"),
        (["mse"], "losses: expected 2, one for each of a, b. Received 1"),
        ({"a": 3}, "expected a loss or a function"),
        ({"a": "msee"}, "there is no Keras loss 'msee'"),
    ],
)
def test_losses_that_fit_no_output(loss: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tlt_prune.plan_pruning(two_outputs(), ratio=0.5, criterion=tlt_prune.criteria.Fisher((X, Y), loss))
