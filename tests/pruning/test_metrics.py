"""Metrics that sensitivities, blocks and ablation measure by, and data whose inputs go by name."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize
from residual import residual_model

import tlt_prune
from tlt_prune.errors import PlanError
from tlt_prune.pruning.running.switched_off import accuracy, metric_of

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 64)
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
SAID = RNG.random((64, 3)).astype("float32")
MAPS, MAPS_SAID = RNG.integers(0, 3, (4, 5, 6)), RNG.random((4, 3, 5, 6)).astype("float32")
LAST = np.moveaxis(MAPS_SAID, 1, -1)
ONE = RNG.random((64, 1)).astype("float32")
YES = (RNG.random(64) > 0.5).astype(int)


@pytest.mark.parametrize(
    ("labels", "outputs", "expected"),
    [
        (LABELS, SAID, np.mean(SAID.argmax(1) == LABELS)),
        (LABELS[:, None], SAID, np.mean(SAID.argmax(1) == LABELS)),
        (ONE_HOT, SAID, np.mean(SAID.argmax(1) == LABELS)),
        # One output says yes or no.
        (YES, ONE, np.mean((ONE[:, 0] > 0.5) == YES)),
        (YES[:, None], ONE, np.mean((ONE[:, 0] > 0.5) == YES)),
        # Pixels, with their classes last or second.
        (MAPS, LAST, np.mean(LAST.argmax(-1) == MAPS)),
        (MAPS[..., None], LAST, np.mean(LAST.argmax(-1) == MAPS)),
        (np.eye(3)[MAPS], LAST, np.mean(LAST.argmax(-1) == MAPS)),
        (MAPS, MAPS_SAID, np.mean(LAST.argmax(-1) == MAPS)),
        (np.moveaxis(np.eye(3)[MAPS], -1, 1), MAPS_SAID, np.mean(LAST.argmax(-1) == MAPS)),
    ],
)
def test_accuracy(labels: Any, outputs: Any, expected: float) -> None:
    assert accuracy(labels, outputs) == pytest.approx(expected)


def test_accuracy_of_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected labels of shape \(64,\) or \(64, 1\)"):
        accuracy(LABELS[:32], SAID)


@pytest.mark.parametrize(
    ("metric", "sign"),
    [
        ("categorical_crossentropy", -1),
        (keras.losses.categorical_crossentropy, -1),
        (keras.losses.CategoricalCrossentropy(), -1),
        (keras.metrics.MeanSquaredError(), -1),
        (keras.metrics.CategoricalAccuracy(), 1),
        (lambda y, p: float(np.mean(y * p)), 1),
    ],
)
def test_more_is_better_of_whatever_is_given(metric: Any, sign: int) -> None:
    said = 0.9 * ONE_HOT + 0.1 / 3
    worse = np.roll(said, 1, axis=1)
    name, function = metric_of(metric)
    values = [function(ONE_HOT, p) for p in (said, worse, said)]
    assert values[0] == values[2], "it remembers nothing"
    assert values[0] > values[1]
    assert name.startswith("-") == (sign < 0)


def test_a_loss_decides_alike_by_name_and_as_an_object() -> None:
    model = residual_model()
    x, y = RNG.standard_normal((16, 8, 8, 3)).astype("float32"), np.eye(3, dtype="float32")[RNG.integers(0, 3, 16)]
    by_name, by_object, by_metric = (
        tlt_prune.block_sensitivity(model, (x, y), metric=metric)
        for metric in ("mean_squared_error", keras.losses.MeanSquaredError(), keras.metrics.MeanSquaredError())
    )
    np.testing.assert_allclose(by_object.frame["metric"], by_name.frame["metric"], rtol=1e-5)
    np.testing.assert_allclose(by_metric.frame["metric"], by_name.frame["metric"], rtol=1e-5)
    assert by_object.weakest(2) == by_name.weakest(2)


def two_inputs() -> keras.Model:
    left, right = keras.Input((4,), name="z_left"), keras.Input((4,), name="a_right")
    y = keras.layers.Dense(8, activation="relu")(keras.layers.Concatenate()([left, -2 * right]))
    return randomize(keras.Model([left, right], keras.layers.Dense(3, activation="softmax")(y)))


def test_inputs_go_by_their_names() -> None:
    model = two_inputs()
    a, b = (RNG.standard_normal((64, 4)).astype("float32") for _ in range(2))
    y = np.eye(3)[np.asarray(model([a, b])).argmax(1)]
    for data in ([a, b], {"z_left": a, "a_right": b}, {"a_right": b, "z_left": a, "more": a}):
        assert tlt_prune.sensitivity(model, (data, y), (0.5,), granularity=1, min_num_filters=1).whole == 1.0
    with pytest.raises(PlanError, match="has an input 'a_right', the data 'z_left', 'b'"):
        tlt_prune.sensitivity(model, ({"z_left": a, "b": b}, y))


def test_a_fit_is_the_same_by_name() -> None:
    model = two_inputs()
    a, b = (RNG.standard_normal((64, 4)).astype("float32") for _ in range(2))
    found = [
        tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1, compensation=tlt_prune.LeastSquares(data))
        for data in ([a, b], {"z_left": a, "a_right": b})
    ]
    for x, y in zip(*(pruned.get_weights() for pruned in found), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_a_normalization_of_two_layers_holds_no_constant_of_one() -> None:
    """What is added for one branch would be added to the other as well."""
    x = keras.Input((6, 6, 3))
    shared = keras.layers.BatchNormalization(name="shared")
    branches = []
    for name in ("a", "b"):
        y = keras.layers.Conv2D(12, 3, activation="relu", name=f"{name}1")(x)
        branches.append(shared(keras.layers.Conv2D(5, 3, use_bias=False, name=f"{name}2")(y)))
    model = randomize(keras.Model(x, branches))
    data = RNG.standard_normal((64, 6, 6, 3)).astype("float32")
    options = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1, "excluded_layers": ["a2", "b2"]}
    errors = []
    for compensation in (None, tlt_prune.LeastSquares(data), "bias"):
        pruned = tlt_prune.prune_model(model, compensation=compensation, **options)
        errors.append(
            [float(np.mean((np.asarray(p) - np.asarray(q)) ** 2)) for p, q in zip(model(data), pruned(data), strict=True)]
        )
        np.testing.assert_array_equal(pruned.get_layer("shared").moving_mean, model.get_layer("shared").moving_mean)
    assert all(fitted < plain for fitted, plain in zip(errors[1], errors[0], strict=True))


def test_an_excluded_layer_keeps_its_block() -> None:
    model = residual_model()
    options = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}
    every = len(tlt_prune.block_sensitivity(model, (np.zeros((2, 8, 8, 3)), np.eye(3)[:2])).frame)
    for patterns, count in ((["a_1"], 1), (["a_1", "b_2"], 2)):
        plan = tlt_prune.plan_pruning(model, blocks=1, excluded_layers=patterns, **options)
        assert all(len(plan.kept[name]) == 8 for name in patterns)
        with pytest.raises(PlanError, match="channels of their own inside and no excluded layer"):
            tlt_prune.plan_pruning(model, blocks=every - count + 1, excluded_layers=patterns, **options)
    with pytest.raises(PlanError, match="'a' cannot go: excluded_layers says that its layer 'a_1' stays"):
        tlt_prune.plan_pruning(model, blocks=["a"], excluded_layers=["a_1"], **options)


def test_nothing_to_rank_is_nothing_to_remove() -> None:
    model = residual_model()
    plan = tlt_prune.plan_pruning(model, macs=1.0, ranking="isomorphic", excluded_layers=["*"])
    assert not plan.removed


@pytest.mark.parametrize("blocks", [2, None, [], [1]])
def test_blocks_that_are_no_names(blocks: Any) -> None:
    with pytest.raises(PlanError, match="remove_blocks: expected the names of blocks"):
        tlt_prune.remove_blocks(residual_model(), blocks)
