"""Custom layers of tf_keras: opened, pruned exactly, saved and loaded; and those that stay, with the reason."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from gallery.opened_tf import closed_of, layers_of
from helpers import assert_law, assert_same_after_reload, randomize

import tlt_prune
from tlt_prune.pruning.rewrite.law import random_inputs

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf_keras has no other backend", allow_module_level=True)

import tensorflow as tf
import tf_keras

LAYERS, CLOSED = layers_of(tf_keras, tf), closed_of(tf_keras, tf)


def sequences(layer: Any) -> Any:
    x = tf_keras.Input((6, 5))
    y = layer(tf_keras.layers.Dense(12, activation="relu", name="before")(x))
    y = tf_keras.layers.Dense(8, activation="relu", name="after")(y)
    return randomize(tf_keras.Model(x, tf_keras.layers.Dense(3)(tf_keras.layers.Flatten()(y))))


def plan_of(model: Any) -> Any:
    return tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)


def state_of(layer: Any) -> list[Any]:
    """All that opening could leave behind."""
    inside = [layer, *layer._flatten_layers(include_self=False)]
    return [
        [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in inside],
        [{key: id(value) for key, value in vars(x).items()} for x in inside],
        [[id(v) for v in x.weights] for x in inside],
        [len(x._losses) for x in inside],
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_law(name: str) -> None:
    model = sequences(LAYERS[name]())
    layer = model.layers[2]
    before = state_of(layer)
    plan = plan_of(model)
    assert state_of(layer) == before
    assert not plan.unknown
    assert len(plan.kept["before"]) == 6
    pruned = plan.apply(model)
    assert type(pruned.layers[2]) is type(layer)
    assert pruned.count_params() == plan.params_after
    channels = assert_law(model, plan, pruned)
    assert_same_after_reload(pruned, random_inputs(channels, 0, 2))
    pruned.compile("sgd", "mse")
    pruned.fit(np.zeros((2, 6, 5)), np.zeros((2, 3)), verbose=0)


@pytest.mark.parametrize("name", CLOSED)
def test_what_must_freeze_says_why(name: str) -> None:
    make, reason = CLOSED[name]
    model = sequences(make())
    plan = plan_of(model)
    assert reason in plan.to_frame().loc["before", "note"]
    assert len(plan.kept["before"]) == 12
    assert_law(model, plan, plan.apply(model))


def test_names_made_later_are_the_same() -> None:
    tf_keras.backend.clear_session()
    model = sequences(LAYERS["block"]())
    expected = tf_keras.layers.Dense(1).name
    tf_keras.backend.clear_session()
    model = sequences(LAYERS["block"]())
    plan_of(model)
    assert tf_keras.layers.Dense(1).name == expected


def hard_swish(x: Any) -> Any:
    return x * tf.nn.relu6(x + 3.0) / 6.0


def over_channels(x: Any) -> Any:
    return x / tf.reduce_max(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(("function", "left"), [(hard_swish, 6), (over_channels, 12)])
def test_activation_functions_are_seen_through(function: Any, left: int) -> None:
    model = sequences(tf_keras.layers.Activation(function))
    plan = plan_of(model)
    assert len(plan.kept["before"]) == left
    assert_law(model, plan, plan.apply(model))
