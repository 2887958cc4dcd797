"""Weights and data that are not finite: an error before anything is written, never a number."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize
from keras import layers

import tlt_prune
from tlt_prune.errors import PlanError

TINY: dict[str, Any] = {"granularity": 1, "min_num_filters": 1}
X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
Y = np.eye(3, dtype="float32")[np.arange(16) % 3]
CRITERIA = {
    **{name: lambda name=name: name for name in ("L2", "L1", "Linf", "FPGM", "LAMP", "BNScale", "Random")},
    **{name: lambda name=name: getattr(tlt_prune.criteria, name)((X, Y), "mse") for name in ("Taylor", "Fisher")},
    **{name: lambda name=name: getattr(tlt_prune.criteria, name)(X) for name in ("Activation", "APoZ")},
    "Ablation": lambda: tlt_prune.criteria.Ablation((X, Y)),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("place", ["kernel", "bias", "statistics", "output"])
def test_weights_that_are_not_finite_are_refused_by_every_criterion(name: str, place: str) -> None:
    x = keras.Input((8,))
    y = layers.BatchNormalization(name="bn")(layers.Dense(16, name="hidden")(x))
    model = randomize(keras.Model(x, layers.Dense(3, name="out")(y)))
    layer, index = {"kernel": ("hidden", 0), "bias": ("hidden", 1), "statistics": ("bn", 3), "output": ("out", 0)}[place]
    variable = model.get_layer(layer).weights[index]
    value = np.array(variable)
    value.reshape(-1)[-1] = np.inf if place == "bias" else np.nan
    variable.assign(value)
    with pytest.raises(PlanError, match=rf"'{layer}' has weights that are not finite: 1 of"):
        tlt_prune.plan_pruning(model, ratio=0.5, criterion=CRITERIA[name](), **TINY)


COMPENSATIONS = {
    "Bias": lambda data: tlt_prune.Bias(data),
    "RecalibrateBatchNorm": lambda data: tlt_prune.RecalibrateBatchNorm(data),
    "LeastSquares": lambda data: tlt_prune.LeastSquares(data),
}


@pytest.mark.filterwarnings("ignore:overflow encountered|invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", COMPENSATIONS)
@pytest.mark.parametrize(("data", "filters"), [(1e38, 1.0), (1.0, 1e30), (1e25, 1e25)])
def test_a_compensation_returns_finite_weights_or_an_error(name: str, data: float, filters: float) -> None:
    x = keras.Input((8,))
    y = layers.BatchNormalization(name="bn")(layers.Dense(16, name="hidden")(x))
    model = randomize(keras.Model(x, layers.Dense(3)(layers.ReLU()(layers.Dense(6, name="next")(layers.ReLU()(y))))))
    model.get_layer("hidden").kernel.assign(np.array(model.get_layer("hidden").kernel) * filters)
    before = [np.array(v) for v in model.weights]
    try:
        pruned = tlt_prune.prune_model(model, ratio=0.5, compensation=COMPENSATIONS[name](X * np.float32(data)), **TINY)
    except PlanError as error:
        assert "finite" in str(error)  # noqa: PT017
    else:
        assert all(np.isfinite(v).all() for v in pruned.get_weights())
    for a, v in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, v)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_statistics_are_measured_all_or_none() -> None:
    x = keras.Input((8,))
    y = layers.BatchNormalization(name="first")(layers.Dense(16)(x))
    y = layers.BatchNormalization(name="second")(layers.Dense(16, name="large")(y))
    model = randomize(keras.Model(x, layers.Dense(3)(y)))
    model.get_layer("large").kernel.assign(np.full((16, 16), 3e38, "float32"))
    before = [np.array(v) for v in model.weights]
    with pytest.raises(PlanError, match="finite"):
        tlt_prune.recalibrate_batch_norm(model, X)
    for a, v in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, v, err_msg=v.path)
