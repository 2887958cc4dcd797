"""Sensitivity against accuracies worked out by hand, and what follows from it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from helpers import randomize

import tlt_prune
from tlt_prune.errors import PlanError
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.rewrite.law import zeroed_reference


def two_layers() -> keras.Model:
    """The four units of `first` have norms 1 to 4, of which `second` passes on the sum; y = 10 x."""
    x = keras.Input((1,))
    y = keras.layers.Dense(4, use_bias=False, name="first")(x)
    y = keras.layers.Dense(4, use_bias=False, name="second")(y)
    model = keras.Model(x, keras.layers.Dense(1, use_bias=False, name="head")(y))
    model.set_weights([np.array([[1.0, 2, 3, 4]]), np.eye(4) * [4, 3, 2, 1], 1 / np.array([[4.0], [3], [2], [1]])])
    return model


def test_by_hand() -> None:
    x = np.array([[1.0], [2.0]], np.float32)
    found = tlt_prune.sensitivity(
        two_layers(), (x, 10 * x), (0.25, 0.5), metric="mean_squared_error", granularity=1, min_num_filters=1
    )
    assert found.whole == pytest.approx(0, abs=1e-6)
    # Of `first` go the units of 1, then of 1 and 2: 1 x or 3 x are missing; of `second` those of 4, then 4 and 3. Mean of x^2:
    # 2.5.
    expected = pd.DataFrame([[-2.5 * 1, -2.5 * 9], [-2.5 * 16, -2.5 * 49]], index=["first", "second"], columns=[0.25, 0.5])
    np.testing.assert_allclose(found.frame.loc[["first", "second"]], expected, rtol=1e-4)
    assert found.metric == "-mean_squared_error"
    assert found.used == "2 examples in 1 batches"


def test_it_is_the_metric_of_the_zeroed_model() -> None:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(x)
    y = keras.layers.Add()([y, keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="b")(y)])
    y = keras.layers.Conv2D(8, 3, activation="relu", name="c")(y)
    y = keras.layers.Dense(3, activation="softmax", name="head")(keras.layers.Flatten()(y))
    model = randomize(keras.Model(x, y))
    rng = np.random.default_rng(0)
    data = rng.standard_normal((64, 8, 8, 3)).astype("float32"), keras.utils.to_categorical(rng.integers(0, 3, 64), 3)
    options = {"granularity": 1, "min_num_filters": 1}
    found = tlt_prune.sensitivity(model, data, (0.5,), metric="categorical_crossentropy", **options)
    assert found.layers["a"] == ("a", "b")
    channels = trace(model)
    for row, layers in found.layers.items():
        alone = {name: {"ratio": 0.5 if name in layers else 0.0} for name in ("a", "b", "c")}
        plan = tlt_prune.plan_pruning(model, ratio=0.0, layer_options=alone, **options)
        zeroed = zeroed_reference(channels, plan.alive(channels))
        loss = keras.losses.categorical_crossentropy(data[1], zeroed(data[0], training=False))
        assert found.frame.loc[row, 0.5] == pytest.approx(-float(np.mean(loss)), rel=1e-4)


def test_ratios_under_a_budget_spare_what_is_sensitive() -> None:
    x = y = keras.Input((8, 8, 3))
    for i in range(3):
        y = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name=f"c{i}")(y)
    y = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(y))
    model = randomize(keras.Model(x, y))
    calls = iter([1.0, 0.1, 0.1, 0.99, 0.98, 0.99, 0.97])
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 8, 8, 3)).astype("float32"), rng.integers(0, 3, 4)
    found = tlt_prune.sensitivity(model, data, (0.5, 0.75), metric=lambda y, p: next(calls), min_num_filters=8)
    assert found.frame.to_numpy().tolist() == [[0.1, 0.1], [0.99, 0.98], [0.99, 0.97]]
    ratios = found.layer_options(macs=0.5)
    assert ratios["c0"] == {"ratio": 0.0}
    assert ratios["c1"]["ratio"] > 0
    plan = tlt_prune.plan_pruning(model, macs=0.5, min_num_filters=8, layer_options=ratios)
    assert plan.macs_after <= 0.5 * plan.macs_before
    assert len(plan.kept["c0"]) == 32
    with pytest.raises(PlanError, match=r"with ratios up to 0\.75 this model keeps at least"):
        found.layer_options(macs=0.01)


def test_it_draws_a_heat_map() -> None:
    x = np.ones((2, 1), np.float32)
    found = tlt_prune.sensitivity(two_layers(), (x, x), (0.5,), metric="mean_squared_error", granularity=1, min_num_filters=1)
    figure = found.plot()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["first", "second"]
    assert "mean_squared_error" in found._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratios": ()}, "ascending ratios"),
        ({"ratios": (0.5, 0.25)}, "ascending ratios"),
        ({"ratios": (0.0, 1.0)}, "ascending ratios"),
        ({"metric": "nothing"}, "metric: expected"),
        ({"criterion": "nothing"}, "criterion"),
        ({"data": np.ones((2, 1), np.float32)}, "sensitivity needs labels"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    x = np.ones((2, 1), np.float32)
    with pytest.raises(PlanError, match=message):
        tlt_prune.sensitivity(two_layers(), **{"data": (x, x), **arguments})
